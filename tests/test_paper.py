import pytest

from bai_pipeline.paper import BENCHMARKS, HYPERPARAMETERS, TABLE_1, TABLE_2


@pytest.mark.parametrize("row", TABLE_1.rows)
def test_the_overall_score_of_table_1_is_the_mean_of_its_benchmarks(row: str) -> None:
    # Ten numbers rounded to 0.1 each: the mean of nine is off by at most 0.05, the printed one by 0.05 more.
    values = TABLE_1.rows[row]
    assert sum(values[b] for b in BENCHMARKS) / len(BENCHMARKS) == pytest.approx(values["Overall"], abs=0.1)


def test_the_bai_row_of_table_1_is_the_alpha_of_one_tenth_of_table_2() -> None:
    assert TABLE_2.rows["0.1"].items() <= TABLE_1.rows["BAI"].items()


def test_every_value_names_its_source() -> None:
    assert all(table.source for table in (TABLE_1, TABLE_2))
    assert all(setting.source for setting in HYPERPARAMETERS)
