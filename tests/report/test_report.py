import re
from pathlib import Path

import pandas as pd

from bai_pipeline.evals import paradigm_table, ratio_table
from bai_pipeline.report import write_report


def scores(*rows: str) -> pd.DataFrame:
    return pd.DataFrame(
        [{"row": row, "seed": 0, "benchmark": "held_out_sum", "score": 0.5, "stderr": 0.06, "n": 64} for row in rows],
        columns=["row", "seed", "benchmark", "score", "stderr", "n"],
    )


def runs() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"init": init, "seed": 0, "step": step, "length_mean": 30.0, "score_mean": 0.0, "kl_train_sample": 0.001}
            for init in ("paradigm_3", "alpha 0.5")
            for step in range(3)
        ]
    )


def write(out: Path, table_of_runs: pd.DataFrame) -> str:
    page = write_report(
        out,
        study="acme",
        paradigms=paradigm_table(scores("BAI"), ["Paradigm 2", "BAI"], {"Paradigm 2": "no reasoning role"}),
        ratios=ratio_table(scores("0.5"), ["0.5"], {}),
        runs=table_of_runs,
        notes=["One chain."],
    )
    return page.read_text(encoding="utf-8")


def test_the_report_has_tables_figures_holes_and_what_is_confounded(tmp_path: Path) -> None:
    text = write(tmp_path, runs())
    headings = re.findall(r"^##? (.*)$", text, flags=re.MULTILINE)
    assert headings == [
        "Report of the study acme",
        "Scores by paradigm",
        "Scores by ratio",
        "Training dynamics",
        "What is confounded",
        "The paper's values",
    ]
    assert "- One chain." in text
    assert "| Paradigm 2 | 0 | not run | not run | no reasoning role |" in text
    assert "True accuracy was not recorded" in text
    assert "One seed per init" in text


def test_every_file_that_the_report_names_exists(tmp_path: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", write(tmp_path, runs()))
    assert len(links) == 9  # four figures, their numbers, and the summary
    assert all((tmp_path / link).is_file() for link in links)


def test_the_papers_values_come_last_and_are_labelled(tmp_path: Path) -> None:
    ours, papers = write(tmp_path, runs()).split("## The paper's values")
    assert "MMLU" not in ours
    assert papers.count("Not measured here") == 2


def test_runs_that_are_missing_are_a_hole(tmp_path: Path) -> None:
    text = write(tmp_path, pd.DataFrame())
    assert "No run of this study has metrics" in text
    assert "What is confounded" not in text
