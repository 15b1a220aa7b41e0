"""Contamination: which benchmark questions share word n-grams with training texts (Brown et al. 2020, arXiv:2005.14165,
appendix C: 13 words, regardless of case and punctuation). A shorter question is compared with whole texts.

Memory is set by the benchmarks; training texts stream through.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bai_pipeline.errors import DataError
from bai_pipeline.evals.ngrams import NgramIndex

if TYPE_CHECKING:
    import pandas as pd

SHOWN: Final = 50
"""Hits that the Markdown lists."""

_BATCH_ROWS: Final = 256


@dataclass(frozen=True)
class Hit:
    """A question of which n-grams stand in a training table."""

    benchmark: str
    id: str
    gram: str
    """Of its n-grams that were found there the one that the fewest training texts have: what many have says little."""
    corpus: str
    row: str
    """The first training row with that n-gram."""
    texts: int
    """Training texts with that n-gram."""
    share: float
    """Of the question's n-grams that were found anywhere in that table."""


@dataclass(frozen=True)
class Judged:
    """How many questions of a benchmark were looked for, and found."""

    benchmark: str
    questions: int
    judged: int
    """Questions of at least `min_words` words."""
    contaminated: int
    """Judged questions of which an n-gram was found in any table."""

    @property
    def share(self) -> float:
        """Contaminated of the judged; NaN where none was judged."""
        return self.contaminated / self.judged if self.judged else float("nan")


@dataclass(frozen=True)
class Contamination:
    """What `find_contamination` found."""

    n: int
    min_words: int
    benchmarks: tuple[Judged, ...]
    hits: tuple[Hit, ...]
    """By benchmark and question in the order given, then by table name."""
    words: Mapping[str, int]
    """Words that were read of each training table."""

    def to_frame(self) -> "pd.DataFrame":
        """A row per hit: benchmark, id, gram, corpus, row, texts, share."""
        import pandas as pd

        columns = ("benchmark", "id", "gram", "corpus", "row", "texts", "share")
        frame = pd.DataFrame([[getattr(hit, c) for c in columns] for hit in self.hits], columns=list(columns))
        return frame.astype(dict.fromkeys(columns[:5], "str") | {"texts": "int64", "share": "float64"})

    def summary(self) -> "pd.DataFrame":
        """A row per benchmark: benchmark, questions, judged, contaminated, share."""
        import pandas as pd

        columns = ("benchmark", "questions", "judged", "contaminated", "share")
        frame = pd.DataFrame([[getattr(row, c) for c in columns] for row in self.benchmarks], columns=list(columns))
        return frame.astype({"benchmark": "str"} | dict.fromkeys(columns[1:4], "int64") | {"share": "float64"})


def find_contamination(
    questions: Mapping[str, Sequence[tuple[str, str]]],
    corpora: Mapping[str, Path | Iterable[tuple[str, str]]],
    *,
    n: int = 13,
    min_words: int = 5,
) -> Contamination:
    """Look for the n-grams of benchmark questions in training texts.

    Args:
        questions: (id, text) of every question, by benchmark.
        corpora: training tables, or (row, text) one after the other, by name; each is read once and not kept.
        n: words of an n-gram. A question of fewer is one gram, found where it is a whole text.
        min_words: a question of fewer is not judged: too many texts would contain it by chance.

    Languages that write no spaces have few and long words, so that little is found in them.

    Raises:
        DataError: n or min_words makes no sense, a table cannot be read, or holds no word: it was not compared.
    """
    if not 1 <= min_words <= n:
        raise DataError(f"expected 1 <= min_words <= n, got min_words = {min_words} and n = {n}")
    index = NgramIndex.of([text for rows in questions.values() for _, text in rows], n, min_words)
    labels = [(benchmark, name) for benchmark, rows in questions.items() for name, _ in rows]
    found = {}
    for corpus in sorted(corpora):
        texts = corpora[corpus]
        found[corpus] = index.scan(training_texts(texts) if isinstance(texts, Path) else texts)
        if not found[corpus].words:
            raise DataError(f"expected texts in the training table {corpus}, got no word; nothing was compared with it")
    hits: list[Hit] = []
    contaminated: set[int] = set()
    for number, (benchmark, name) in enumerate(labels):
        grams = index.grams_of(number)
        for corpus, seen in found.items():
            held = grams[seen.texts[grams] > 0]
            if held.size:
                contaminated.add(number)
                rarest = int(held[seen.texts[held].argmin()])
                share = held.size / grams.size
                texts_with = int(seen.texts[rarest])
                hits.append(Hit(benchmark, name, index.gram(rarest), corpus, seen.rows[rarest], texts_with, share))
    benchmarks, first = [], 0
    for benchmark, rows in questions.items():
        numbers = range(first, first + len(rows))
        judged = sum(index.grams_of(number).size > 0 for number in numbers)
        benchmarks.append(Judged(benchmark, len(rows), judged, sum(number in contaminated for number in numbers)))
        first += len(rows)
    read = {corpus: seen.words for corpus, seen in found.items()}
    return Contamination(n, min_words, tuple(benchmarks), tuple(hits), read)


def contamination_markdown(found: Contamination) -> str:
    """What was compared with what, the summary, and the hits: those with the greatest shares first."""
    from bai_pipeline.evals.writing import plain_markdown

    summary = found.summary()
    summary["share"] = [f"{row.share:.3f}" if row.judged else "none judged" for row in found.benchmarks]
    read = ", ".join(f"{corpus} ({words:,} words)" for corpus, words in found.words.items())
    rule = (
        f"A question is contaminated if {found.n} of its words in a row stand in a training text, or if it has fewer "
        "and is a whole text, regardless of case and punctuation. Questions of fewer than "
        f"{found.min_words} words are not judged."
        f" Training tables: {read or 'none'}."
    )
    blocks = [rule, plain_markdown(summary)]
    if found.hits:
        hits = found.to_frame().sort_values("share", ascending=False, kind="stable").head(SHOWN)
        hits["share"] = [f"{share:.3f}" for share in hits["share"]]
        more = f" Of {len(found.hits)} the first {SHOWN}." if len(found.hits) > SHOWN else ""
        legend = (
            "What was found: the words of each question that the fewest training texts have, the first row with them, "
            f"how many texts have them, and the share of the question's n-grams that are anywhere in that table.{more}"
        )
        blocks += [legend, plain_markdown(hits)]
    return "\n\n".join(blocks) + "\n"


def training_texts(path: Path) -> Iterator[tuple[str, str]]:
    """(row, text) of a training table: each message, chosen and rejected answer is a text; read piece by piece.

    Tables are prompts and SFT {messages}, preferences {prompt, chosen, rejected} (see bai_pipeline/tables.py) and
    pretraining {text}. A row is named by its `id`, else by its number from 0.

    Raises:
        DataError: unreadable, none of these tables, or a row without its text.
    """
    for number, row in enumerate(_rows(path)):
        name = str(number) if row.get("id") is None else str(row["id"])
        turns = row.get("messages", row.get("prompt"))
        try:
            texts = [turn["content"] for turn in turns or ()]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"expected messages {{role, content}}, got {turns!r:.60} in row {number} of {path}"
            ) from error
        texts += [row[column] for column in ("text", "chosen", "rejected") if column in row]
        for text in texts:
            if not isinstance(text, str):
                raise DataError(f"expected text, got {text!r:.60} in row {number} of {path}")
            yield name, text
        if not texts:
            raise DataError(
                f"expected a column messages, prompt with chosen and rejected, or text, got {', '.join(row)} in row "
                f"{number} of {path}"
            )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet or JSON Lines file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    yield from batch.to_pylist()
        elif path.suffix in (".jsonl", ".json"):
            with path.open(encoding="utf-8") as lines:
                yield from (_object(line, number, path) for number, line in enumerate(lines, start=1) if line.strip())
        else:
            raise DataError(f"expected a .parquet or .jsonl file, got {path}")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _object(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"cannot read line {number} of {path}: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"expected an object, got {row!r:.60} in line {number} of {path}")
    return row
