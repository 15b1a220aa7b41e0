"""The structure of the page: what is on it, what is said to be missing, and that nothing on it can leave it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bai_pipeline.report import StudyResults, write_report
from tests.report.constructed import HOSTILE, SCORE_LABEL, nothing, results

SECTIONS = [
    "Summary",
    "Verdict per run",
    "Training dynamics",
    "Scores by paradigm",
    "Scores by ratio",
    "What is confounded",
    "Recommendation",
    "Case studies",
    "Recipe and lineage",
    "Costs",
    "The paper's values",
]
VOID = {"meta", "img"}


class Parsed(HTMLParser):
    """Elements in order, with their attributes and the text in them; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for number in self._open:
            self.elements[number][2].append(data)

    def all(self, tag: str, **attributes: str) -> Iterator[tuple[dict[str, str | None], str]]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        for name, found, text in self.elements:
            if name == tag and wanted.items() <= found.items():
                yield found, "".join(text)

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return [text for _, text in self.all(tag, **attributes)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    assert write_report(directory, results()) == directory / "report.html"
    return directory


@pytest.fixture(scope="module")
def page(out: Path) -> Parsed:
    return Parsed((out / "report.html").read_text(encoding="utf-8"))


def written(tmp_path: Path, of: StudyResults) -> tuple[Parsed, str]:
    path = write_report(tmp_path, of)
    return Parsed(path.read_text(encoding="utf-8")), (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_sections_are_there_in_order_and_in_the_table_of_contents(page: Parsed) -> None:
    assert page.texts("h1") == ["Report of the study acme <b>"]
    assert page.texts("h2") == ["Contents", *SECTIONS]
    links = [(str(found["href"]), text) for found, text in page.all("a") if str(found["href"]).startswith("#")]
    assert [text for _, text in links[1:]] == SECTIONS  # the first skips to the summary
    ids = [found["id"] for _, found, _ in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert {target.removeprefix("#") for target, _ in links} <= set(ids)


def test_markdown_has_the_same_sections(out: Path) -> None:
    text = (out / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == SECTIONS


def test_headings_skip_no_level(page: Parsed) -> None:
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_nothing_on_the_page_names_another_place(page: Parsed) -> None:
    for tag, attributes, _ in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action", "poster"):
                assert re.match(r"(#|data:image/png;base64,|tables/|figures/|case_studies\.md$)", value or ""), value
            assert name != "style"
    assert {tag for tag, _, _ in page.elements}.isdisjoint({"link", "iframe", "object", "embed", "form", "base"})


def test_the_policy_lets_only_the_pages_own_scripts_run(page: Parsed) -> None:
    (policy,) = [str(found["content"]) for found, _ in page.all("meta") if "http-equiv" in found]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert re.fullmatch(r"'sha256-\S+' 'sha256-\S+'", rules["script-src"])
    assert len([found for found, _ in page.all("script") if "type" not in found]) == 2


def test_what_a_model_wrote_is_text(page: Parsed) -> None:
    assert HOSTILE in "".join(page.texts("pre"))
    assert any(HOSTILE in text for text in page.texts("td"))
    assert all(str(found["src"]).startswith("data:image/png") for found, _ in page.all("img"))


def test_every_file_that_the_pages_name_exists(out: Path, page: Parsed) -> None:
    links = {str(found["href"]) for found, _ in page.all("a")}
    links |= set(re.findall(r"\]\(([^)]+)\)", (out / "report.md").read_text(encoding="utf-8")))
    files = sorted(link for link in links if not link.startswith("#"))
    assert len(files) > 30
    assert [link for link in files if not (out / link).is_file()] == []


def test_the_figures_of_the_page_hold_the_numbers_of_their_csv(out: Path, page: Parsed) -> None:
    (data,) = page.texts("script", type="application/json")
    figures: dict[str, Any] = json.loads(data)
    assert [found["id"] for found, _ in page.all("figure")] == list(figures)
    for name, figure in figures.items():
        csv = pd.read_csv(out / "figures" / f"{name}.csv")
        csv = csv[csv["drawn"].astype(bool)] if "drawn" in csv else csv
        drawn = [mean for panel in figure["panels"] for line in panel["lines"] for mean in line["mean"]]
        assert drawn == pytest.approx(csv["mean"].tolist(), rel=1e-5), name


def test_scores_are_drawn_with_the_unit_of_the_study(page: Parsed) -> None:
    (data,) = page.texts("script", type="application/json")
    score, accuracy = json.loads(data)["score_and_accuracy"]["panels"]
    assert SCORE_LABEL in score.values()
    assert SCORE_LABEL not in accuracy.values()


def test_what_is_confounded_repeats_the_detectors_and_judges_nothing_itself(tmp_path: Path) -> None:
    verdicts = results().verdicts
    judged = verdicts.assign(detector="over_optimization", verdict="aligned")[verdicts["detector"] == "kl_train_sample"]
    page, _ = written(tmp_path, results(verdicts=pd.concat([verdicts, judged], ignore_index=True)))
    (confounded,) = page.texts("section", id="what-is-confounded")
    assert "Over-optimization. Score and true accuracy agree in 8 of 8 runs." in confounded
    assert "Reward hockey stick. No run was diagnosed for it." in confounded


def test_every_figure_is_described_for_those_who_cannot_see_it(page: Parsed) -> None:
    pictures = list(page.all("img"))
    assert len(pictures) == len(list(page.all("figure"))) == 11
    for found, _ in pictures:
        assert re.search(r"from \S+ to \S+", str(found["alt"]))


def test_tables_have_captions_and_heads_that_are_buttons_and_scroll_in_their_own_box(page: Parsed) -> None:
    tables = list(page.all("table"))
    assert len(page.texts("caption")) == len(tables) == len(list(page.all("div", class_="scroll")))
    heads = list(page.all("th", scope="col"))
    assert all(found["aria-sort"] == "none" for found, _ in heads)
    assert len(heads) == len(list(page.all("button")))


def test_the_best_row_is_bold_and_holes_say_why(out: Path) -> None:
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| BAI | 1 | **0.600 ± 0.060** | **0.600 ± 0.060** | **0.600" in text
    assert "| Paradigm 2 | 0 | not run | not run | not run | \\<script>" in text


def test_the_summary_says_what_happened(page: Parsed) -> None:
    (summary,) = page.texts("section", id="summary")
    for sentence in (
        "8 PPO runs of 4 initializations (Paradigm 1, Paradigm 3, alpha 0.1 and alpha 0.5), 2 seeds each, 12 steps.",
        "Sequence Length Collapse: collapsed in 2 of 8 runs: Paradigm 3 (2 of 2)",
        "Paradigms: the highest average score is 0.600 ± 0.042, of BAI; by a paired test it differs from every other",
        "Best for length: alpha 0.5, 0.9 (0.8 to 1) ratio, not resolved from every other alpha.",
        "Best for average: none can be named. No benchmark.",
        "One chain.",
    ):
        assert sentence in summary


def test_a_recommended_alpha_whose_runs_failed_is_no_plain_advice(tmp_path: Path) -> None:
    verdicts = results().verdicts
    collapsed = (
        (verdicts["init"] == "alpha 0.5") & (verdicts["detector"] == "length_collapse") & (verdicts["seed"] == 1)
    )
    page, _ = written(
        tmp_path, results(verdicts=verdicts.assign(verdict=verdicts["verdict"].mask(collapsed, "collapsed")))
    )
    (summary,) = page.texts("section", id="summary")
    assert "not resolved from every other alpha. Beware: Sequence Length Collapse in 1 of its 2 runs." in summary


def test_the_reason_of_an_advice_stands_below_its_numbers(page: Parsed) -> None:
    (recommendation,) = page.texts("section", id="recommendation")
    assert "length: It is not resolved." in recommendation
    assert "tied" not in recommendation


def test_costs_are_summed(page: Parsed) -> None:
    (costs,) = page.texts("section", id="costs")
    assert "8 runs; 1,197 sampled tokens; 0.08 CPU hours; 0.02 hours of wall time" in costs


def test_costs_that_a_run_did_not_report_are_dashes_and_counted(tmp_path: Path) -> None:
    costs = results().costs.astype({"sampled_tokens": "object"})
    costs.loc[0, "sampled_tokens"] = None
    page, _ = written(tmp_path, replace(nothing(), costs=costs))
    (text,) = page.texts("section", id="costs")
    assert "8 runs; 1,188 sampled tokens" in text
    assert "1 of them did not report everything." in text


def test_the_papers_values_come_last_and_are_labelled(out: Path) -> None:
    ours, papers = (out / "report.md").read_text(encoding="utf-8").split("## The paper's values")
    assert "MMLU" not in ours
    assert papers.count("Not measured here") == 2


def test_a_study_of_nothing_is_a_page_of_holes(tmp_path: Path) -> None:
    page, markdown = written(tmp_path, nothing())
    assert page.texts("h2") == ["Contents", *SECTIONS]
    holes = page.texts("p", class_="hole")
    # 2 of the summary, 1 of the verdicts, 12 of the dynamics (11 figures), 1, 2 and 1 of the scores and confounders,
    # 2 of the recommendation, 1 of the cases, 2 of the recipe, 1 of the costs
    assert len(holes) == markdown.count("*Not here: ") == 25
    for what in ("Verdicts", "Costs", "Lineage", "Case studies", "Recommendation", "Merge weights", "Contamination"):
        assert any(hole.startswith(f"Not here: {what}.") for hole in holes), what
    assert list((tmp_path / "figures").iterdir()) == []


def test_what_is_missing_is_a_hole_where_it_belongs(tmp_path: Path) -> None:
    empty = pd.DataFrame()
    missing: dict[str, object] = {
        "responses": empty,
        "prefixes": empty,
        "case_studies": None,
        "comparisons": {},
        "next_alphas": empty,
    }
    page, markdown = written(tmp_path, results(**missing, costs=pd.DataFrame(columns=["init", "seed"])))
    for section, hole in (
        ("training-dynamics", "No scores of single responses were recorded"),
        ("training-dynamics", "No value errors by prefix length were recorded"),
        ("case-studies", "No questions were laid side by side"),
        ("scores-by-ratio", "none is marked as best"),
        ("recommendation", "None is proposed"),
        ("costs", "No run has reported what it took"),
    ):
        assert hole in page.texts("section", id=section)[0]
        assert hole in markdown


def test_the_same_results_give_the_same_page(tmp_path: Path, out: Path) -> None:
    path = write_report(tmp_path, results())
    assert path.read_bytes() == (out / "report.html").read_bytes()
