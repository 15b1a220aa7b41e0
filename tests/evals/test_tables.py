from math import isnan
from pathlib import Path

import pandas as pd
import pytest

from bai_pipeline import paper
from bai_pipeline.errors import DataError
from bai_pipeline.evals import (
    paper_paradigm_table,
    paper_ratio_table,
    paradigm_table,
    ratio_table,
    to_markdown,
    write_table,
)


def scores(*rows: tuple[str, int, str, float, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["row", "seed", "benchmark", "score", "stderr"])
    return table.assign(n=64)


def test_rows_come_in_the_order_asked_and_benchmarks_in_that_of_the_scores() -> None:
    table = paradigm_table(
        scores(("Paradigm 3", 0, "b", 0.5, 0.1), ("Paradigm 3", 0, "a", 0.3, 0.1), ("Paradigm 1", 0, "b", 0.2, 0.1)),
        ["Paradigm 1", "Paradigm 3"],
        {},
    )
    assert list(table["paradigm"]) == ["Paradigm 1", "Paradigm 3"]
    assert list(table.columns) == [
        "paradigm",
        "seeds",
        "b",
        "b stderr",
        "a",
        "a stderr",
        "average",
        "average stderr",
        "note",
    ]


def test_a_row_that_was_not_run_is_a_hole_with_its_reason() -> None:
    table = paradigm_table(
        scores(("BAI", 0, "a", 0.3, 0.1)), ["Paradigm 2", "BAI"], {"Paradigm 2": "no reasoning role in the study"}
    )
    hole = table.iloc[0]
    assert hole["seeds"] == 0
    assert isnan(hole["a"])
    assert isnan(hole["average"])
    assert hole["note"] == "no reasoning role in the study"
    assert "| Paradigm 2 | 0 | not run | not run | no reasoning role in the study |" in to_markdown(table)


def test_a_hole_without_a_reason_says_so() -> None:
    table = ratio_table(scores(("0.1", 0, "a", 0.3, 0.1)), ["0.1", "0.5"], {})
    assert table.iloc[1]["note"] == "not run, no reason recorded"


def test_a_benchmark_that_was_not_run_leaves_no_average() -> None:
    table = paradigm_table(
        scores(("BAI", 0, "a", 0.3, 0.1), ("Paradigm 1", 0, "a", 0.3, 0.1), ("Paradigm 1", 0, "b", 0.5, 0.1)),
        ["BAI", "Paradigm 1"],
        {"BAI/b": "the file was lost"},
    )
    partial, whole = table.iloc[0], table.iloc[1]
    assert partial["a"] == 0.3
    assert isnan(partial["b"])
    assert isnan(partial["average"])
    assert "b: the file was lost" in partial["note"]
    assert whole["average"] == pytest.approx(0.4)
    assert whole["note"] == ""


def test_alphas_ascend_and_seeds_are_averaged() -> None:
    table = ratio_table(
        scores(("0.5", 0, "a", 0.4, 0.0), ("0.5", 1, "a", 0.6, 0.0), ("0.10", 0, "a", 0.3, 0.1)), ["0.5", "0.10"], {}
    )
    assert list(table["alpha"]) == ["0.10", "0.5"]
    assert list(table["seeds"]) == [1, 2]
    assert table.iloc[1]["a"] == pytest.approx(0.5)
    assert table.iloc[1]["a stderr"] == pytest.approx(0.1)
    assert "| 0.5 | 2 | 0.500 ± 0.100 | 0.500 ± 0.100 |" in to_markdown(table)


def test_seeds_that_were_asked_for_and_are_absent_are_named() -> None:
    found = scores(("0.1", 0, "a", 0.3, 0.1), ("0.5", 0, "a", 0.4, 0.1), ("0.5", 2, "a", 0.4, 0.1))
    table = ratio_table(found, ["0.1", "0.5"], {}, seeds=[0, 1, 2])
    assert list(table["note"]) == ["seeds 1, 2: not materialized", "seed 1: not materialized"]
    assert list(table["seeds"]) == [1, 2]
    assert list(ratio_table(found, ["0.1", "0.5"], {}, seeds=[0])["note"]) == ["", ""]


def test_a_model_that_ppo_did_not_make_has_no_seeds_to_miss() -> None:
    found = scores(("Base", -1, "a", 0.3, 0.1), ("BAI", 0, "a", 0.4, 0.1))
    table = paradigm_table(found, ["Base", "BAI", "Paradigm 1"], {"Paradigm 1": "not materialized"}, seeds=[0, 1])
    assert list(table["note"]) == ["", "seed 1: not materialized", "not materialized"]


def test_an_unknown_error_is_shown_as_unknown() -> None:
    table = ratio_table(scores(("0.5", 0, "a", 1.0, float("nan"))), ["0.5"], {})
    assert "| 1.000 ± n/a |" in to_markdown(table)


def test_nothing_run_makes_a_table_of_holes() -> None:
    table = ratio_table(scores(), ["0.1"], {"0.1": "not asked for"}, benchmarks=["a"])
    assert isnan(table.iloc[0]["a"])
    assert table.iloc[0]["note"] == "not asked for"


def test_two_scores_for_one_cell_are_an_error() -> None:
    with pytest.raises(DataError, match=r"BAI, seed 0, a"):
        paradigm_table(scores(("BAI", 0, "a", 0.3, 0.1), ("BAI", 0, "a", 0.4, 0.1)), ["BAI"], {})


def test_a_scores_table_without_its_columns_is_an_error() -> None:
    with pytest.raises(DataError, match="stderr absent"):
        paradigm_table(scores().drop(columns="stderr"), [], {})


def test_the_papers_values_stay_out_of_our_csv(tmp_path: Path) -> None:
    ours = ratio_table(scores(("0.1", 0, "a", 0.25, 0.1)), ["0.1"], {})
    files = write_table(ours, tmp_path, "ratio_table", (paper_ratio_table(), paper.TABLE_2))
    assert sorted(f.name for f in files) == ["ratio_table.csv", "ratio_table.md", "ratio_table.paper.csv"]
    assert "paper" not in (tmp_path / "ratio_table.csv").read_text(encoding="utf-8")
    assert pd.read_csv(tmp_path / "ratio_table.csv")["a"].tolist() == [0.25]
    ours_block, paper_block = (tmp_path / "ratio_table.md").read_text(encoding="utf-8").split("**Paper: Table 2")
    assert "82.7" not in ours_block
    assert "| paper: 0.1 | 70.2 | 82.7 | 35.9 |" in paper_block
    assert "not available in this distribution: SuperGPQA" in paper_block


def test_every_column_and_row_of_the_papers_tables_is_labelled_as_the_papers() -> None:
    for table in (paper_paradigm_table(), paper_ratio_table()):
        assert all(column.startswith("paper: ") for column in table.columns[1:])
        assert all(row.startswith("paper: ") for row in table.iloc[:, 0])
