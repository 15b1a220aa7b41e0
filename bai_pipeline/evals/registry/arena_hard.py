"""ArenaHard v0.1 (Li et al. 2024, arXiv:2406.11939): answers judged against a baseline's, in both orders."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, model_validator

from bai_pipeline.errors import DataError
from bai_pipeline.evals.data import Source
from bai_pipeline.evals.grades import Row
from bai_pipeline.evals.registry.benchmark import (
    Answered,
    Asking,
    Benchmark,
    Graded,
    NotRunError,
    Question,
    Splits,
    Task,
    Tools,
    cost_numbers,
    judge_of,
)
from bai_pipeline.evals.registry.lm_eval_tasks import generated
from bai_pipeline.evals.thinking import after_thinking

BASELINE = "baseline"


class ArenaHardRow(BaseModel):
    """A question, as the repository published it first (question_id, turns) or later (uid, prompt)."""

    question_id: str | None = None
    uid: str | None = None
    turns: list[dict[str, Any]] | None = None
    prompt: str | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> "ArenaHardRow":
        row = self.model_dump()
        if not _id(row) or not _text(row):
            raise ValueError("expected question_id and turns, or uid and prompt")
        return self


def questions(splits: Splits) -> list[Question]:
    return [Question(_id(row), str(row.get("cluster") or row.get("category") or ""), row) for row in splits["test"]]


def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
    """One response to each question that the baseline answered.

    Raises:
        NotRunError: several responses are asked for, or answers of the baseline are absent.
    """
    if asking.samples > 1:
        raise NotRunError("one response to each question is compared with the baseline's: samples has to be 1")
    answered = _baseline(splits)
    if absent := [question.id for question in asked if question.id not in answered]:
        raise NotRunError(f"no answer of the baseline to {len(absent)} questions, the first is {absent[0]}")
    return [generated("arena_hard", asked, [_text(question.row) for question in asked], asking)]


def grade(answered: Sequence[Answered], tools: Tools) -> Graded:
    """The win rate over the judge's verdicts; the readings give its interval and the win rate at equal length.

    Length is counted in characters of the two answers, thinking excluded: baseline and model have other tokenizers.
    """
    from bai_pipeline.evals.judging import PairQuestion, arena_scores, judge_pairs

    settings, cache = judge_of(tools)
    baseline = _baseline(tools.support)
    pairs = [
        PairQuestion(
            item.question.id,
            _text(item.question.row),
            after_thinking(item.responses[0]),
            baseline[item.question.id],
        )
        for item in answered
    ]
    result = judge_pairs(pairs, settings, cache, tools.report)
    lengths = {pair.id: (len(pair.answer), len(pair.baseline)) for pair in pairs}
    scores = arena_scores(result.grades, lengths if settings.length_control else None)
    numbers = {
        "low": scores.win_rate.low,
        "high": scores.win_rate.high,
        "consistency": scores.consistency,
        "unparsable": scores.unparsable,
        "without_score": scores.without_score,
        **cost_numbers(result.cost),
    }
    if scores.length_control is not None:
        numbers |= {
            "length_controlled": scores.length_control.win_rate.value,
            "length_controlled_low": scores.length_control.win_rate.low,
            "length_controlled_high": scores.length_control.win_rate.high,
        }
    return Graded([(grade.grade,) if grade.grade else () for grade in result.grades], numbers)


def _baseline(support: Splits) -> dict[str, str]:
    """The baseline's answers by question."""
    if BASELINE not in support:
        raise NotRunError("no answers of a baseline (split `baseline`)")
    return {_id(row): _answer(row) for row in support[BASELINE]}


def _answer(row: Row) -> str:
    """The text of an answer file's row, in either of its published forms."""
    if row.get("choices"):
        return str(_content(row["choices"][0]["turns"][0]["content"]))
    if row.get("messages"):
        return str(_content(row["messages"][-1]["content"]))
    raise DataError(f"expected choices or messages in the baseline's answer to {_id(row)!r}, got neither")


def _content(value: Any) -> str:
    return str(value["answer"] if isinstance(value, dict) else value)


def _id(row: Row) -> str:
    return str(row.get("question_id") or row.get("uid") or "")


def _text(row: Row) -> str:
    if turns := row.get("turns"):
        return str(turns[0]["content"])
    return str(row.get("prompt") or "")


def _target(row: Row) -> str:
    return ""


ARENA_HARD = Benchmark(
    name="arena_hard",
    title="ArenaHard",
    kind="generation",
    metric="win rate against the baseline",
    source=Source(
        "lmarena-ai/arena-hard-auto",
        {
            "test": "data/arena-hard-v0.1/question.jsonl",
            BASELINE: "data/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl",
        },
        licence="Apache-2.0",
    ),
    schema=ArenaHardRow,
    asking=Asking(shots=0, chat=True, samples=1, temperature=0.0, top_p=1.0, max_new_tokens=32768),
    aggregation="over 500 questions' games in both orders; a decisive verdict counts three times",
    questions=questions,
    text=_text,
    target=_target,
    tasks=tasks,
    grade=grade,
    needs=("judge",),
    other_splits=(BASELINE,),
    note="baseline gpt-4-0314",
)
