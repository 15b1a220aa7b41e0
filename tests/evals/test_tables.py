import re
from math import isnan, nan, sqrt
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
from bai_pipeline.evals.comparisons import paired_comparisons
from bai_pipeline.evals.writing import comparisons_note


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


def with_reasons(*rows: tuple[str, int, str, float, str | None]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["row", "seed", "benchmark", "score", "reason"])
    return table.assign(metric="accuracy", stderr=0.1, n=64)


def test_a_score_that_is_null_is_a_hole_with_its_reason_and_never_a_zero() -> None:
    table = paradigm_table(
        with_reasons(("BAI", 0, "a", 0.3, None), ("BAI", 0, "b", nan, "no judge"), ("Base", 0, "b", 0.5, None)),
        ["BAI", "Base"],
        {},
    )
    bai = table.iloc[0]
    assert (bai["a"], bai["seeds"]) == (0.3, 1)
    assert isnan(bai["b"])
    assert isnan(bai["average"])
    assert bai["note"] == "b: no judge; average: not every benchmark was run with every seed"
    assert "| BAI | 1 | 0.300 ± 0.100 | not run | not run |" in to_markdown(table)


def test_a_benchmark_that_no_row_ran_keeps_its_column_and_the_average_names_the_others() -> None:
    lines: list[tuple[str, int, str, float, str | None]] = [
        (row, 0, b, s, None) for row, x in (("A", 0.2), ("B", 0.4)) for b, s in (("a", x), ("c", x + 0.2))
    ]
    lines += [(row, 0, "judged", nan, "no judge") for row in "AB"]
    table = paradigm_table(with_reasons(*lines), ["A", "B"], {}, ["a", "judged", "c"])
    assert list(table.columns[2:8]) == ["a", "a stderr", "judged", "judged stderr", "c", "c stderr"]
    assert table["judged"].isna().all()
    assert list(table["average"]) == pytest.approx([0.3, 0.5])
    # independent questions: √(0.1² + 0.1²) / 2
    assert list(table["average stderr"]) == pytest.approx([sqrt(0.02) / 2] * 2)
    assert list(table["note"]) == ["judged: no judge; average over a, c alone"] * 2


def test_a_benchmark_that_only_a_row_outside_the_table_ran_is_in_no_average() -> None:
    found = with_reasons(("A", 0, "a", 0.2, None), ("A", 0, "b", nan, "no judge"), ("other", 0, "b", 0.9, None))
    table = paradigm_table(found, ["A"], {})
    assert table["average"].tolist() == [0.2]


def test_reasons_that_differ_between_seeds_are_told_seed_by_seed() -> None:
    one = ratio_table(with_reasons(("0.1", 0, "a", 0.3, None), ("0.1", 1, "a", nan, "no judge")), ["0.1"], {})
    assert (one.iloc[0]["a"], one.iloc[0]["seeds"]) == (0.3, 1)
    assert one.iloc[0]["note"] == "a, seed 1: no judge"
    two = ratio_table(with_reasons(("0.1", 0, "a", nan, "no judge"), ("0.1", 1, "a", nan, "no file")), ["0.1"], {})
    assert two.iloc[0]["note"] == "a, seed 0: no judge; a, seed 1: no file"
    assert isnan(two.iloc[0]["average"])


def test_a_hole_without_a_reason_says_so_in_a_column_of_nothing_but_nulls() -> None:
    found = with_reasons(("0.1", 0, "a", nan, None))
    for score in (found["score"], pd.Series([None], dtype="object")):
        table = ratio_table(found.assign(score=score, stderr=score), ["0.1"], {})
        assert table.iloc[0]["note"] == "a: not run, no reason recorded"
        assert table.iloc[0]["seeds"] == 0


def test_a_score_with_a_reason_why_there_is_none_is_an_error() -> None:
    with pytest.raises(DataError, match="got both for BAI, seed 0, a"):
        paradigm_table(with_reasons(("BAI", 0, "a", 0.3, "no judge")), ["BAI"], {})


def test_a_reason_of_several_lines_stays_in_its_cell() -> None:
    table = ratio_table(with_reasons(("0.1", 0, "a", nan, "no | judge\nat all")), ["0.1"], {})
    assert to_markdown(table).splitlines()[-1] == r"| 0.1 | 0 | not run | not run | a: no \| judge at all |"


# -- the best row ------------------------------------------------------------------------------------------------------


def answered(right: dict[str, dict[str, int]], n: int = 40) -> pd.DataFrame:
    """Questions of benchmark → row → how many of the first ones are right."""
    return pd.DataFrame(
        [
            {"row": row, "seed": 0, "benchmark": b, "id": f"q{i:02d}", "score": float(i < count), "weight": 1.0}
            for b, rows in right.items()
            for row, count in rows.items()
            for i in range(n)
        ]
    )


def table_of(questions: pd.DataFrame) -> pd.DataFrame:
    means = questions.groupby(["row", "seed", "benchmark"], sort=False)["score"].mean().reset_index()
    return paradigm_table(means.assign(stderr=0.1, n=40), list(dict.fromkeys(questions["row"])), {})


def test_only_a_row_that_differs_from_every_other_is_bold(tmp_path: Path) -> None:
    questions = answered({"clear": {"A": 36, "B": 10, "C": 4}, "close": {"A": 30, "B": 4, "C": 29}})
    comparisons = paired_comparisons(questions, resamples=2000)
    write_table(table_of(questions), tmp_path, "t", (paper_ratio_table(), paper.TABLE_2), comparisons=comparisons)
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert "| A | 1 | **0.900 ± 0.100** | 0.750 ± 0.100 | **0.825 ± 0.071** |" in text
    assert re.findall(r"\*\*(0\.\d+)", text) == ["0.900", "0.825"]
    assert "**Bold**: the row's score on the same questions is above that of every other row" in text
    assert "p ≤ 0.05 after Holm's correction for all 9 comparisons of this table" in text
    assert "(6 by McNemar's exact test, 3 by a paired bootstrap)" in text
    assert "Not distinguishable by that measure: close: A (the highest) from C." in text
    assert text.index("**Bold**") < text.index("**Paper: Table 2")


def test_all_pairs_are_written_beside_the_table(tmp_path: Path) -> None:
    questions = answered({"a": {"A": 36, "B": 10}})
    comparisons = paired_comparisons(questions)
    files = write_table(table_of(questions), tmp_path, "t", comparisons=comparisons)
    assert [f.name for f in files] == ["t.csv", "t.md", "t_comparisons.csv"]
    assert "[t_comparisons.csv](t_comparisons.csv)" in files[1].read_text(encoding="utf-8")
    written = pd.read_csv(files[2])
    assert list(written.columns) == list(comparisons.columns)
    # 26 questions that A alone has right
    assert written.loc[0, "p"] == pytest.approx(2 / 2**26)


def test_with_one_benchmark_the_average_is_marked_as_it_is() -> None:
    questions = answered({"a": {"A": 36, "B": 10}})
    text = to_markdown(table_of(questions), paired_comparisons(questions))
    assert "| A | 1 | **0.900 ± 0.100** | **0.900 ± 0.100** |" in text


def test_where_no_row_is_best_none_is_bold_and_the_text_says_so() -> None:
    questions = answered({"a": {"A": 20, "B": 20, "C": 19}})
    comparisons = paired_comparisons(questions)
    assert "**" not in to_markdown(table_of(questions), comparisons)
    note = comparisons_note(comparisons)
    assert note.startswith("No row is best in any column")
    assert "a: A (the highest) from any other row" in note


def test_without_comparisons_nothing_is_marked(tmp_path: Path) -> None:
    questions = answered({"a": {"A": 36, "B": 10}})
    assert "**" not in to_markdown(table_of(questions))
    alone = questions[questions["row"] == "A"]
    write_table(table_of(alone), tmp_path, "t", comparisons=paired_comparisons(alone))
    assert "none is compared, and none is marked as best" in (tmp_path / "t.md").read_text(encoding="utf-8")
