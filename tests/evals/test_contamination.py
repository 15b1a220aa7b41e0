"""Word n-gram overlap between questions and training texts."""

import json
import math
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_pipeline.errors import DataError
from bai_pipeline.evals import ngrams
from bai_pipeline.evals.contamination import Hit, contamination_markdown, find_contamination, training_texts
from bai_pipeline.evals.ngrams import words_of
from bai_pipeline.tables import write_table

FIFTEEN = "A farmer has 17 sheep; all but nine run away. How many sheep are left?"
"""Fifteen words, so three 13-grams."""
SHORT = "Who wrote the Iliad, probably?"
"""Five words."""

LETTERS = st.sampled_from("abc")
TEXTS = st.lists(LETTERS, max_size=12).map(" ".join)


def found(question: str, *texts: str, **options: int) -> tuple[Hit, ...]:
    corpus = [(f"row {number}", text) for number, text in enumerate(texts)]
    return find_contamination({"b": [("q", question)]}, {"sft": corpus}, **options).hits


def test_words_are_letters_and_digits_whatever_their_case_form_and_punctuation() -> None:
    assert words_of("It's  x_1 = ３.5²,\n“NAÏVE” — ﬁne!") == ["it", "s", "x", "1", "3", "52", "naïve", "fine"]
    assert words_of("nai\u0308ve") == ["naïve"]
    assert words_of(" .,;\n") == []


def test_a_question_that_stands_in_a_text_is_found_with_its_row_and_share() -> None:
    text = "Here it is: a FARMER has 17 sheep, all-but nine run away - how many sheep are left? Nine."
    (hit,) = found(FIFTEEN, "Nothing of it is in here.", text, text)
    assert (hit.benchmark, hit.id) == ("b", "q")
    assert (hit.corpus, hit.row, hit.texts, hit.share) == ("sft", "row 1", 2, 1.0)
    assert hit.gram == "a farmer has 17 sheep all but nine run away how many sheep"


def test_the_share_is_of_the_questions_grams() -> None:
    # Its last thirteen of fifteen words, so one gram of three; then its last fourteen in another text.
    last = "has 17 sheep; all but nine run away. How many sheep are left?"
    assert found(FIFTEEN, last)[0].share == 1 / 3
    assert found(FIFTEEN, last, f"farmer {last}")[0].share == 2 / 3
    # The gram that fewer texts have is the one that is shown.
    hit = found(FIFTEEN, last, f"farmer {last}")[0]
    assert (hit.gram.split()[0], hit.row, hit.texts) == ("farmer", "row 1", 1)


def test_twelve_words_are_not_enough() -> None:
    assert not found(FIFTEEN, "17 sheep; all but nine run away. How many sheep are left?")
    # Nor are thirteen that are parted by another word, or by the end of a text.
    assert not found(FIFTEEN, "a farmer has 17 sheep all but nine of them run away how many sheep are left")
    assert not found(FIFTEEN, "a farmer has 17 sheep all but nine", "run away how many sheep are left")
    assert found(FIFTEEN, "17 sheep; all but nine run away. How many sheep are left?", n=12)


def test_a_short_question_is_compared_with_whole_texts() -> None:
    hit = found(SHORT, "Probably Homer.", "WHO wrote the Iliad?! Probably.", "Homer")[0]
    assert (hit.gram, hit.row) == ("who wrote the iliad probably", "row 1")
    assert not found(SHORT, "Who wrote the Iliad?")
    # It is the beginning of another question there, or its end.
    assert not found(SHORT, "Who wrote the Iliad probably without help?", "Do you know who wrote the Iliad, probably?")


def test_a_question_that_is_too_short_is_counted_apart() -> None:
    questions = {"b": [("1", SHORT), ("2", "Who wrote the Iliad"), ("3", "?!")], "none": [("1", "Why?")], "void": []}
    result = find_contamination(questions, {"sft": [("w", "Who wrote the Iliad"), ("x", SHORT)]})
    assert [(row.questions, row.judged, row.contaminated) for row in result.benchmarks] == [
        (3, 1, 1),
        (1, 0, 0),
        (0, 0, 0),
    ]
    summary = result.summary()
    assert summary.columns.tolist() == ["benchmark", "questions", "judged", "contaminated", "share"]
    assert summary["share"].tolist()[0] == 1.0
    assert summary["share"].isna().tolist() == [False, True, True]
    assert math.isnan(result.benchmarks[1].share)
    assert found("Who wrote the Iliad", "who wrote the iliad", min_words=4)


def test_each_table_has_its_own_hits() -> None:
    corpora = {"sft": [("x", FIFTEEN)], "prompts": [("y", f"Question: {FIFTEEN}")], "pairs": [("z", "Something else.")]}
    result = find_contamination({"one": [("q", FIFTEEN)], "two": [("q", FIFTEEN), ("r", SHORT)]}, corpora)
    frame = result.to_frame()
    assert frame[["benchmark", "id", "corpus", "row"]].to_numpy().tolist() == [
        ["one", "q", "prompts", "y"],
        ["one", "q", "sft", "x"],
        ["two", "q", "prompts", "y"],
        ["two", "q", "sft", "x"],
    ]
    assert [(row.benchmark, row.judged, row.contaminated, row.share) for row in result.benchmarks] == [
        ("one", 1, 1, 1.0),
        ("two", 2, 1, 0.5),
    ]
    assert result.words == {"pairs": 2, "prompts": 16, "sft": 15}


def test_frames_without_hits_have_their_columns() -> None:
    result = find_contamination({"b": [("q", FIFTEEN)]}, {"sft": [("x", "Something else.")]})
    assert result.hits == ()
    frame = result.to_frame()
    assert frame.columns.tolist() == ["benchmark", "id", "gram", "corpus", "row", "texts", "share"]
    assert (len(frame), str(frame["share"].dtype), str(frame["texts"].dtype)) == (0, "float64", "int64")
    assert find_contamination({}, {"sft": [("x", "words")]}).summary().empty


def test_the_markdown_says_what_was_compared_and_lists_the_hits() -> None:
    questions = {"b": [(str(number), f"{FIFTEEN} {number}") for number in range(60)], "none": [("q", "Why?")]}
    text = contamination_markdown(find_contamination(questions, {"sft": [("x | y", f"{FIFTEEN} 7")]}))
    for part in (
        "13 of its words",
        "fewer than 5 words",
        "sft (16 words)",
        "| b | 60 | 60 | 60 | 1.000 |",
        "none judged",
    ):
        assert part in text
    # The one with all of its four 13-grams comes first, of the others only three stand there.
    lines = [line for line in text.splitlines() if "x \\| y" in line]
    assert len(lines) == 50
    assert lines[0].startswith("| b | 7 |")
    assert lines[1].endswith("| 0.750 |")
    assert "Of 60 the first 50." in text
    clean = contamination_markdown(find_contamination({"b": [("q", FIFTEEN)]}, {"sft": [("x", "words")]}))
    assert "What was found" not in clean


def test_what_was_compared_with_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="expected texts in the training table sft"):
        find_contamination({"b": [("q", FIFTEEN)]}, {"sft": [("x", "…")]})
    for options in ({"n": 0}, {"min_words": 0}, {"n": 4}):
        with pytest.raises(DataError, match="1 <= min_words <= n"):
            find_contamination({}, {}, **options)


@given(
    question=st.lists(st.text(alphabet="abcdexyz", min_size=1, max_size=4), min_size=5, max_size=40),
    before=TEXTS,
    after=TEXTS,
    others=st.lists(TEXTS),
    marks=st.lists(st.sampled_from([" ", ", ", "\n", " — ", "...", "_", "$"]), min_size=39, max_size=39),
    data=st.data(),
)
def test_a_planted_question_is_always_found(
    question: list[str], before: str, after: str, others: list[str], marks: list[str], data: st.DataObject
) -> None:
    planted = "".join(word.upper() + mark for word, mark in zip(question, [*marks, " "], strict=False))
    texts = [*others, f"{before} {planted} {after}" if len(question) >= 13 else planted]
    corpus = [(str(number), text) for number, text in enumerate(data.draw(st.permutations(texts)))]
    (hit,) = find_contamination({"b": [("q", " ".join(question))]}, {"c": corpus}).hits
    assert hit.share == 1.0


@given(
    questions=st.lists(st.text(alphabet="abc ", max_size=60), min_size=1),
    texts=st.lists(st.text(alphabet="xyzé .", max_size=60), min_size=1),
)
def test_an_unrelated_corpus_never_contaminates(questions: list[str], texts: list[str]) -> None:
    asked = [(str(number), text) for number, text in enumerate(questions)]
    corpus = [*((str(number), text) for number, text in enumerate(texts)), ("last", "word")]
    assert not find_contamination({"b": asked}, {"c": corpus}, n=5, min_words=1).hits


@given(
    questions=st.lists(TEXTS, max_size=5),
    corpora=st.dictionaries(st.sampled_from("klm"), st.lists(TEXTS.filter(bool), min_size=1, max_size=5)),
    n=st.integers(1, 4),
    min_words=st.integers(1, 4),
    data=st.data(),
)
def test_hits_are_those_that_the_definition_gives(
    questions: list[str], corpora: dict[str, list[str]], n: int, min_words: int, data: st.DataObject
) -> None:
    """Of texts over three words, where nearly everything overlaps; the order of the tables does not matter."""

    def grams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
        return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]

    min_words = min(min_words, n)
    expected = []
    for number, question in enumerate(questions):
        words = question.split()
        for corpus, texts in sorted(corpora.items()):
            own = grams(words, min(n, len(words))) if len(words) >= min_words else []
            # a question of fewer than n words is compared with whole texts
            having = {
                gram: [
                    text
                    for text in texts
                    if (gram in grams(text.split(), n) if len(gram) == n else gram == tuple(text.split()))
                ]
                for gram in own
            }
            held = [gram for gram in own if having[gram]]
            if held:
                fewest = min(len(having[gram]) for gram in held)
                rarest = {" ".join(gram) for gram in held if len(having[gram]) == fewest}
                expected.append((str(number), corpus, fewest, len(held) / len(own), rarest))
    named = {c: [(f"{c}{row}", text) for row, text in enumerate(texts)] for c, texts in corpora.items()}
    shuffled = dict(data.draw(st.permutations(list(named.items()))))
    asked = {"b": [(str(number), question) for number, question in enumerate(questions)]}
    result = find_contamination(asked, named, n=n, min_words=min_words)
    assert find_contamination(asked, shuffled, n=n, min_words=min_words) == result
    assert [(hit.id, hit.corpus, hit.texts, hit.share) for hit in result.hits] == [e[:4] for e in expected]
    for hit, (*_, rarest) in zip(result.hits, expected, strict=True):
        assert hit.gram in rarest
        short = len(hit.gram.split()) < n
        (first, *_) = [
            row
            for row, text in named[hit.corpus]
            if (text.split() == hit.gram.split() if short else f" {hit.gram} " in f" {text} ")
        ]
        assert hit.row == first


def test_what_only_has_the_same_hash_is_no_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hashes that are all the same, of runs of a length, only the comparison of the words is left."""
    random = ngrams._word_values

    def worthless(count: int, seed: int) -> Any:
        return np.zeros(count, np.uint64) if seed == 0 else random(count, seed)

    monkeypatch.setattr(ngrams, "_word_values", worthless)
    assert not found(SHORT, "the iliad wrote who probably")
    assert found(SHORT, "who wrote the iliad probably")
    # Of two grams with one hash the questions themselves make two, with other hashes.
    assert found(FIFTEEN, f"farmer has {FIFTEEN[13:]}")[0].share == 2 / 3
    assert found(FIFTEEN, FIFTEEN)[0].share == 1


def test_more_texts_than_a_batch_holds_are_all_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "_BATCH_WORDS", 40)
    texts = ["some words that no question has " * (number % 7) for number in range(50)]
    texts[31] = texts[49] = FIFTEEN
    (hit,) = found(FIFTEEN, *texts)
    assert (hit.row, hit.texts) == ("row 31", 2)


def test_memory_does_not_grow_with_the_training_texts() -> None:
    def texts(count: int) -> Iterator[tuple[str, str]]:
        for number in range(count):
            yield str(number), f"word{number} " * 40_000

    def peak(count: int) -> int:
        tracemalloc.start()
        result = find_contamination({"b": [("q", FIFTEEN)]}, {"c": texts(count)})
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert result.words["c"] == 40_000 * count
        return most

    assert peak(20) < 1.1 * peak(4)


def test_a_generator_is_read_once_and_only_as_far_as_it_goes() -> None:
    read = []

    def texts() -> Iterator[tuple[str, str]]:
        for number in range(3):
            read.append(number)
            yield str(number), FIFTEEN
        raise DataError("row 3 is damaged")

    with pytest.raises(DataError, match="row 3 is damaged"):
        find_contamination({"b": [("q", FIFTEEN)]}, {"c": texts()})
    assert read == [0, 1, 2]


def test_every_training_table_gives_its_texts(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    tables: dict[str, list[dict[str, Any]]] = {
        "prompts": [{"id": "p", "messages": turns[:1], "answer": "4", "verifier": None}],
        "sft": [{"messages": turns}, {"messages": turns[:1]}],
        "preferences": [{"id": "x", "prompt": turns[:1], "chosen": "good", "rejected": "bad"}],
        "pretraining": [{"id": "document-0", "text": "words"}],
    }
    expected = {
        "prompts": [("p", "question")],
        "sft": [("0", "question"), ("0", "answer"), ("1", "question")],
        "preferences": [("x", "question"), ("x", "good"), ("x", "bad")],
        "pretraining": [("document-0", "words")],
    }
    for name, rows in tables.items():
        write_table(rows, tmp_path / f"{name}.parquet")
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
        for suffix in ("parquet", "jsonl"):
            assert list(training_texts(tmp_path / f"{name}.{suffix}")) == expected[name]
    result = find_contamination({"b": [("q", "Question")]}, {"sft": tmp_path / "sft.parquet"}, n=1, min_words=1)
    assert (result.hits[0].row, result.hits[0].texts, result.words) == ("0", 2, {"sft": 3})


def test_a_table_is_read_piece_by_piece(tmp_path: Path) -> None:
    """The first texts come although the last row group is damaged."""
    path = tmp_path / "pretraining.parquet"
    table = pa.table({"text": [f"{number} " * 50 for number in range(2000)]})
    pq.write_table(table, path, row_group_size=1000, use_dictionary=False, compression="none")
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 100] = bytes(100)
    path.write_bytes(content)
    texts = training_texts(path)
    assert next(texts) == ("0", "0 " * 50)
    with pytest.raises(DataError, match="cannot read"):
        list(texts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"question": "a", "id": "x"}', "expected a column messages, .* got question, id in row 0"),
        ("t.jsonl", '{"messages": ["a"]}', "expected messages .* in row 0"),
        ("t.jsonl", '{"messages": [{"role": "user"}]}', "expected messages .* in row 0"),
        ("t.jsonl", '{"text": "a"}\n{"text": null}', "expected text, got None in row 1"),
        ("t.jsonl", '{"text": "a"}\n\n{"text"', "cannot read line 3 of"),
        ("t.jsonl", "3", "expected an object, got 3 in line 1"),
        ("t.parquet", "PAR1", "cannot read"),
        ("t.txt", "text", r"expected a \.parquet or \.jsonl file"),
    ],
)
def test_what_is_no_training_table_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        list(training_texts(tmp_path / name))
    with pytest.raises(DataError, match="cannot read"):
        list(training_texts(tmp_path / "absent.jsonl"))
