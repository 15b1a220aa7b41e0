import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.evals.browse import samples_page, write_pages

HOSTILE = "<script>alert(1)</script><!--<script></script> --> <img src=x onerror=alert(2)> & \u2028 \"'"


class Page(HTMLParser):
    """The elements of a page, and the text in its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self.text = ""
        self._raw: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._raw = tag
            self.raw.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._raw:
            self._raw = None

    def handle_data(self, data: str) -> None:
        if self._raw:
            tag, before = self.raw[-1]
            self.raw[-1] = (tag, before + data)
        else:
            self.text += data

    def scripts(self) -> list[str]:
        return [text for tag, text in self.raw if tag == "script"]

    def samples(self) -> list[dict[str, Any]]:
        loaded: list[dict[str, Any]] = json.loads(self.scripts()[0])
        return loaded


def sample(**changes: object) -> dict[str, object]:
    return {
        "id": "q0",
        "group": "law",
        "repeat": 0,
        "prompt": "why?",
        "response": "<think> so </think> 7",
        "extracted": "7",
        "answer": "7",
        "score": 1.0,
        "weight": 1.0,
        "tokens": 5,
        "finish_reason": "stop",
        "detail": "equal",
    } | changes


def page(*samples: dict[str, object], limit: int = 2000) -> Page:
    return Page(samples_page(pd.DataFrame(list(samples)), "BAI: mmlu", limit))


def test_samples_are_in_the_page_as_they_are() -> None:
    (found,) = page(sample()).samples()
    assert found == sample() | {"verdict": "right"}


def test_hostile_texts_stay_texts() -> None:
    found = page(sample(response=HOSTILE, prompt=HOSTILE, extracted=HOSTILE, id=HOSTILE, detail=HOSTILE))
    plain = page(sample())
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    assert len(found.scripts()) == 2
    assert found.scripts()[1] == plain.scripts()[1]
    (read,) = found.samples()
    assert {read[name] for name in ("response", "prompt", "extracted", "id", "detail")} == {HOSTILE}


def test_a_hostile_title_stays_text() -> None:
    found = Page(samples_page(pd.DataFrame([sample()]), HOSTILE))
    assert "img" not in [tag for tag, _ in found.tags]
    assert len(found.scripts()) == 2
    assert HOSTILE in found.text


def test_no_data_is_ever_parsed_as_markup() -> None:
    script = page(sample()).scripts()[1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|new Function", script)


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else() -> None:
    found = page(sample())
    (policy,) = [a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a]

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    style = next(text for tag, text in found.raw if tag == "style")
    assert policy == f"default-src 'none'; script-src {digest(found.scripts()[1])}; style-src {digest(style)}"


def test_nothing_is_fetched() -> None:
    found = page(sample())
    assert not [a for _, a in found.tags if {"src", "href", "action"} & a.keys()]


@pytest.mark.parametrize(
    ("score", "extracted", "verdict"),
    [
        (1.0, "7", "right"),
        (0.0, "8", "wrong"),
        (0.0, None, "no answer"),
        (0.4, "7", "partly right"),
        (1.0, None, "right"),
    ],
)
def test_verdicts(score: float, extracted: str | None, verdict: str) -> None:
    (found,) = page(sample(score=score, extracted=extracted)).samples()
    assert (found["verdict"], found["extracted"]) == (verdict, extracted)


def test_a_response_that_was_not_graded_has_no_score() -> None:
    (found,) = page(sample(score=nan, extracted=None, weight=0.0)).samples()
    assert (found["verdict"], found["score"]) == ("not graded", None)
    assert "NaN" not in page(sample(score=nan)).scripts()[0]


def test_the_filter_offers_every_verdict() -> None:
    text = samples_page(pd.DataFrame([sample()]), "t")
    options = re.findall(r"<option(?: value=\"\")?>([^<]+)</option>", text)
    assert options == ["all", "right", "partly right", "wrong", "no answer", "not graded"]


def test_a_large_table_is_thinned_evenly_and_says_so() -> None:
    found = page(*[sample(id=f"q{i}") for i in range(10)], limit=4)
    assert [s["id"] for s in found.samples()] == ["q0", "q2", "q5", "q7"]
    assert "4 samples; 6 of 10 are left out" in found.text
    assert "left out" not in page(sample()).text


def test_a_huge_response_is_cut() -> None:
    (found,) = page(sample(response="x" * 1_000_000)).samples()
    assert len(found["response"]) < 60_000
    assert "950,000 characters left out" in found["response"]


def test_an_empty_benchmark_makes_an_empty_page() -> None:
    assert Page(samples_page(pd.DataFrame(columns=list(sample())), "t")).samples() == []


def test_a_page_per_benchmark_is_written(tmp_path: Path) -> None:
    tables = {"mmlu": pd.DataFrame([sample()]), "mbpp_plus": pd.DataFrame([sample()])}
    files = write_pages(tables, tmp_path, "BAI")
    assert [f.name for f in files] == ["mmlu.html", "mbpp_plus.html"]
    assert "BAI: mmlu" in files[0].read_text(encoding="utf-8")


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    table = pd.DataFrame([sample()])
    with pytest.raises(DataError, match=r"\.\./x"):
        write_pages({"mmlu": table, "../x": table}, tmp_path, "BAI")
    with pytest.raises(DataError, match="detail absent"):
        write_pages({"mmlu": table, "b": table.drop(columns="detail")}, tmp_path, "BAI")
    assert list(tmp_path.iterdir()) == []
