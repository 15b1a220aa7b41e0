"""Blocks as HTML and as Markdown, and tables as blocks."""

from pathlib import Path

import pandas as pd
import pytest

from bai_pipeline.dynamics import diagnosis
from bai_pipeline.report.blocks import Block, Cell, Details, Hole, Items, Links, Page, Section, Table, Text, Verbatim
from bai_pipeline.report.case_blocks import case_blocks
from bai_pipeline.report.cells import table
from bai_pipeline.report.html import page_html, tag
from bai_pipeline.report.markdown import page_markdown
from bai_pipeline.report.verdict_blocks import DETECTORS, WORDS, kind, verdict_blocks, verdict_sentences
from bai_pipeline.report.words import ahead
from tests.report.constructed import HOSTILE, results


def both(block: Block) -> tuple[str, str]:
    page = Page("title", [Section("only", [block])])
    return page_html(page).split("<main>")[1].split("</main>")[0], page_markdown(page, Path())


@pytest.mark.parametrize(
    "block",
    [
        Text(HOSTILE),
        Items([HOSTILE]),
        Hole(HOSTILE, HOSTILE),
        Details(HOSTILE, [Text(HOSTILE)]),
        Section(HOSTILE, [Text(HOSTILE)]),
        Links([(HOSTILE, "x.csv")]),
        table(pd.DataFrame({HOSTILE: [HOSTILE]}), HOSTILE),
    ],
)
def test_no_text_becomes_an_element(block: Block) -> None:
    html, markdown = both(block)
    for text, opening in ((html, "<script"), (html, "<img"), (markdown.replace("\\<", ""), "<script")):
        assert opening not in text
    assert "&lt;script&gt;" in html


def test_text_that_was_written_stays_as_it_was_written() -> None:
    html, markdown = both(Verbatim("a ``` b\n<i>"))
    assert "<pre>a ``` b\n&lt;i&gt;</pre>" in html
    assert "````text\na ``` b\n<i>\n````" in markdown


def test_an_attribute_cannot_be_left() -> None:
    assert tag("a", "x", href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;">x</a>'


def test_bold_is_the_only_markup_of_a_text() -> None:
    html, markdown = both(Text("**p** < 0.05 for *x*"))
    assert "<p><strong>p</strong> &lt; 0.05 for *x*</p>" in html
    assert "**p** < 0.05 for *x*" in markdown


def test_numbers_sort_as_numbers_and_nothing_has_no_place() -> None:
    made = table(pd.DataFrame({"alpha": ["0.1", None], "n": [1000, 3], "x": [float("nan"), 0.5]}), "t", {"x": ".2f"})
    assert [[cell.text for cell in row] for row in made.rows] == [["0.1", "1,000", "–"], ["–", "3", "0.50"]]
    assert [[cell.sort for cell in row] for row in made.rows] == [[0.1, 1000.0, None], [None, 3.0, 0.5]]
    assert [column.numeric for column in made.columns] == [False, True, True]


def test_case_studies_are_folded_by_question_and_fences_are_not_read() -> None:
    lead, first, second = case_blocks(
        "# Case studies\n\nTwo questions.\n\n## `sum`, question `` a`b ``\n\n````text\n## no heading\n```\n````\n\n"
        "### `BAI`\n\nScore 1.\n\n## `max`, question `2`\n"
    )
    assert lead == Text("Two questions.")
    assert first == Details("sum, question a`b", [Verbatim("## no heading\n```"), Text("**BAI**"), Text("Score 1.")])
    assert second == Details("max, question 2", [])


def test_verdicts_are_counted_by_init() -> None:
    length, kl = verdict_sentences(results().verdicts)
    assert length == (
        "**Sequence Length Collapse:** collapsed in 2 of 8 runs: Paradigm 3 (2 of 2); healthy in 3 of 8 runs; "
        "undetermined in 3 of 8 runs."
    )
    assert kl == "**KL(training ‖ sampling):** steady in 8 of 8 runs."


def test_the_table_of_verdicts_names_seeds_where_they_differ() -> None:
    matrix, *_ = verdict_blocks(results().verdicts)
    assert isinstance(matrix, Table)
    assert [row[0].text for row in matrix.rows] == ["Paradigm 1", "Paradigm 3", "alpha 0.1", "alpha 0.5"]
    first, second = matrix.rows[0][2], matrix.rows[1][2]
    assert (first.text, first.kind, [more.text for more in first.more]) == ("healthy (0)", "good", ["undetermined (1)"])
    assert second == Cell("collapsed", 1.0, kind="bad")


def test_the_page_knows_every_detector_and_takes_its_verdicts_as_the_diagnosis_does() -> None:
    assert set(DETECTORS) == set(diagnosis.DETECTORS)
    assert {kind(verdict) for verdict in diagnosis.IN_ORDER} == {"good"}
    assert set(WORDS) >= diagnosis.IN_ORDER
    assert kind("collapsed") == "bad"
    assert kind("undetermined") == "unknown"


def test_a_detector_that_the_page_does_not_know_is_shown_all_the_same() -> None:
    verdicts = results().verdicts.assign(detector="new_detector", verdict="odd_word")
    assert verdict_sentences(verdicts)[0].startswith("**New detector:** odd word in 16 of 16 runs")


def test_the_summary_says_who_is_ahead_and_whether_that_is_known() -> None:
    made = results()
    table, compared = made.paradigms, made.comparisons["paradigm_table"]
    assert ahead(table, compared).endswith("it differs from every other row. 1 of 3 rows have no average.")
    unsure = ahead(table, compared.assign(p_holm=0.5))
    assert unsure.endswith("it cannot be told from 1 of 1 other rows. 1 of 3 rows have no average.")
    assert "not compared by a test" in ahead(table, None)
    assert ahead(table[table["average"].isna()], None) == "no row has an average score."


def test_an_average_of_one_benchmark_is_judged_by_that_benchmark() -> None:
    made = results()
    table = made.paradigms.drop(columns=["held_out_max", "held_out_max stderr"])
    compared = made.comparisons["paradigm_table"]
    assert "it differs from every other row" in ahead(table, compared[compared["benchmark"] == "held_out_sum"])
