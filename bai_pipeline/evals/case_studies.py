"""The same questions answered by several models, side by side (the paper's Tables 3 and 4).

Of each benchmark's share of the questions, half (rounded up) are those on which the models' scores differ most, so that
there is something to see, and the others are drawn at random. They illustrate; they are no evidence of how often
anything happens.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bai_pipeline.errors import DataError

COLUMNS = ("benchmark", "id", "prompt", "answer", "row", "response", "extracted", "score", "tokens", "chosen")
DIFFERS = "scores differ most"
RANDOM = "at random"
SHOWN = 6_000
"""Characters of a prompt or response that are shown."""
ANSWER_SHOWN = 400
_NEEDED = ("id", "repeat", "prompt", "answer", "response", "extracted", "score", "tokens")


def case_studies(samples: Mapping[str, Mapping[str, pd.DataFrame]], count: int, seed: int = 0) -> pd.DataFrame:
    """Choose questions and line up the answers.

    The questions are shared equally between the benchmarks; what one cannot fill goes to the others. Only questions
    that every row which ran the benchmark answered are chosen, and the first repeat is shown. The choice depends on
    the scores, the ids and the seed alone.

    Args:
        samples: row label → benchmark → samples table, rows in the order in which they are shown.
        count: of the questions, at most.
        seed: of the random ones and of ties.

    Returns:
        A line per question and row: benchmark, id, prompt, answer, row, response, extracted (null without an answer),
        score (null where it was not graded), tokens, chosen ("scores differ most" or "at random").

    Raises:
        DataError: a column is absent, or two rows were asked different things under the same id.
    """
    tables = {
        benchmark: {
            row: _first_repeats(of[benchmark], row, benchmark) for row, of in samples.items() if benchmark in of
        }
        for benchmark in dict.fromkeys(name for of in samples.values() for name in of)
    }
    shared = {benchmark: _shared_ids(rows) for benchmark, rows in tables.items()}
    lines: list[pd.DataFrame] = []
    for benchmark, quota in _quotas({name: len(ids) for name, ids in shared.items()}, count).items():
        rows = tables[benchmark]
        for question, chosen in _choose(rows, shared[benchmark], quota, seed).items():
            lines.extend(
                table.loc[[question]].reset_index().assign(benchmark=benchmark, row=row, chosen=chosen)
                for row, table in rows.items()
            )
    if not lines:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(lines, ignore_index=True)[list(COLUMNS)]


def write_case_studies(studies: pd.DataFrame, out: Path) -> list[Path]:
    """Write `case_studies.parquet` and `case_studies.md` into an existing directory; returns both."""
    table, page = out / "case_studies.parquet", out / "case_studies.md"
    studies.to_parquet(table, index=False)
    page.write_text(case_studies_markdown(studies), encoding="utf-8")
    return [table, page]


def case_studies_markdown(studies: pd.DataFrame, shown: int = SHOWN) -> str:
    """A section per question and a sub-section per row, thinking included.

    Args:
        studies: made by `case_studies`.
        shown: characters of a prompt or response beyond which its middle is left out.
    """
    blocks = ["# Case studies", _how_chosen(studies)]
    rows = list(dict.fromkeys(studies["row"]))
    for (benchmark, question), lines in studies.groupby(["benchmark", "id"], sort=False):
        first = lines.iloc[0]
        blocks += [
            f"## {_inline(str(benchmark))}, question {_inline(str(question))}",
            f"Chosen: {first['chosen']}. Reference answer: {_answer(first['answer'])}.",
            _fenced(cut_middle(str(first["prompt"]), shown)),
        ]
        for line in lines.to_dict("records"):
            verdict = "Not graded" if pd.isna(line["score"]) else f"Score {line['score']:.3g}"
            blocks += [
                f"### {_inline(str(line['row']))}",
                f"{verdict}; answer found: {_answer(line['extracted'])}; {line['tokens']} tokens.",
                _fenced(cut_middle(str(line["response"]), shown)),
            ]
        silent = [row for row in rows if row not in set(lines["row"])]
        if silent:
            blocks.append(f"Did not run this benchmark: {', '.join(_inline(row) for row in silent)}.")
    return "\n\n".join(blocks) + "\n"


def cut_middle(text: str, limit: int) -> str:
    """`text`, or its first and last `limit` / 2 characters with the number of those left out between them."""
    if len(text) <= limit:
        return text
    tail = limit // 2
    head = limit - tail
    return f"{text[:head]}\n[… {len(text) - limit:,} characters left out …]\n{text[len(text) - tail :]}"


def _first_repeats(samples: pd.DataFrame, row: str, benchmark: str) -> pd.DataFrame:
    absent = [c for c in _NEEDED if c not in samples.columns]
    if absent:
        raise DataError(
            f"expected samples of {row} on {benchmark} with columns {', '.join(_NEEDED)}, {', '.join(absent)} absent; "
            "no case was chosen"
        )
    return samples.sort_values("repeat", kind="stable").drop_duplicates("id").set_index("id")[list(_NEEDED[2:])]


def _shared_ids(rows: Mapping[str, pd.DataFrame]) -> list[str]:
    """Ids that every row answered, sorted.

    Raises:
        DataError: the prompts or reference answers of an id differ.
    """
    (label, first), *others = rows.items()
    for other, table in others:
        both = first.index.intersection(table.index)
        for column in ("prompt", "answer"):
            left, right = first.loc[both, column].fillna(""), table.loc[both, column].fillna("")
            different = both[(left != right).to_numpy()]
            if len(different):
                raise DataError(
                    f"expected the same {column} for question {different[0]!r} of {label} and of {other}; the two rows "
                    "were asked different things, no case was chosen"
                )
    return sorted(set(first.index).intersection(*(table.index for _, table in others)))


def _quotas(available: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` dealt out one by one to the benchmarks that have a question left."""
    quotas = dict.fromkeys(available, 0)
    left = min(count, sum(available.values()))
    while left > 0:
        for name in available:
            if left > 0 and quotas[name] < available[name]:
                quotas[name] += 1
                left -= 1
    return quotas


def _choose(rows: Mapping[str, pd.DataFrame], ids: Sequence[str], quota: int, seed: int) -> dict[str, str]:
    """Question → how it was chosen."""
    shuffled = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    scores = pd.concat([table["score"].loc[shuffled] for table in rows.values()], axis=1)
    spread = scores.var(axis=1, ddof=0, skipna=False).round(12)  # what was not graded does not differ
    # Stable: of equal spreads the shuffled order decides. Rounded: equal scores have none, in any order of the rows.
    by_spread = spread[spread > 0].sort_values(ascending=False, kind="stable").index
    differing = [str(question) for question in by_spread[: (quota + 1) // 2]]
    drawn = [question for question in shuffled if question not in differing][: quota - len(differing)]
    return dict.fromkeys(differing, DIFFERS) | dict.fromkeys(drawn, RANDOM)


def _how_chosen(studies: pd.DataFrame) -> str:
    if studies.empty:
        return "No question was answered by every model: there is no case to show."
    questions = studies.drop_duplicates(["benchmark", "id"])
    differ, drawn = (int((questions["chosen"] == how).sum()) for how in (DIFFERS, RANDOM))
    return (
        f"{len(questions)} questions, each answered by every model that ran its benchmark. {differ} were chosen "
        f"because the models' scores differ most on them, {drawn} were drawn at random. They show what responses look "
        "like and are no evidence of how often anything happens: for that, see the tables and their comparisons. A "
        "model's first response is shown, thinking included."
    )


def _answer(value: Any) -> str:
    return "none" if pd.isna(value) or not str(value).strip() else _inline(cut_middle(str(value), ANSWER_SHOWN))


def _fenced(text: str) -> str:
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def _inline(text: str) -> str:
    """Code on one line; a space inside the ticks on each side is no part of it (CommonMark 6.1)."""
    ticks = "`" * (_longest_run(text) + 1)
    line = " ".join(text.split())
    return f"{ticks} {line} {ticks}" if "`" in line else f"{ticks}{line}{ticks}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
