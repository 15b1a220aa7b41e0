import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bai_pipeline.eval_settings import REGISTERED, BenchmarkOverrides, EvalSettings
from bai_pipeline.evals import BENCHMARKS
from bai_pipeline.evals.code import find_isolation
from bai_pipeline.evals.evaluation import evaluate
from bai_pipeline.evals.judging import JudgeSettings
from bai_pipeline.evals.registry.benchmark import Tools
from bai_pipeline.jobspec import canonical_json
from bai_pipeline.progress import SilentReporter
from tests.evals import nine
from tests.evals.judging.judge_server import Asked, Reply, says, serving
from tests.evals.livebench.rows import RIGHT, ROWS
from tests.evals.scripted import ScriptedEngine

RULED = ("mmlu_pro", "mmlu", "supergpqa", "livebench", "aime_2024", "math", "mbpp_plus")
"""Benchmarks that no judge grades."""


def settings(*benchmarks: str, **changes: Any) -> EvalSettings:
    values: dict[str, Any] = {
        "benchmarks": benchmarks,
        "engine": "embedded",
        "max_new_tokens": None,
        "temperature": None,
        "limit": None,
        "batch_size": 4,
        "overrides": {"aime_2024": BenchmarkOverrides(samples=2)},
        "code_isolation": "bubblewrap",
        "judge": None,
    }
    return EvalSettings.model_validate(values | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return nine.write_nine(tmp_path_factory.mktemp("data"), ROWS)


def run(
    engine: ScriptedEngine,
    data: Mapping[str, Path],
    out: Path,
    asked: EvalSettings,
    judge: JudgeSettings | None = None,
) -> tuple[Any, dict[str, Any]]:
    out.mkdir(parents=True)
    tools = Tools(judge=judge, judge_cache=out.parent / "verdicts", isolation=find_isolation())
    journal = out.parent / "journal.jsonl"
    metrics = evaluate(engine, data, out, asked, 0, SilentReporter(), journal=journal, tools=tools)
    return pd.read_parquet(out / "scores.parquet").set_index("benchmark"), metrics


def answers(right: bool) -> Callable[[str], str]:
    """What a model says that knows everything, or nothing: found by the question's text in the prompt."""
    known: dict[str, tuple[str, str]] = {}
    for row in nine.MMLU:
        known[row["question"]] = ("ABCD"[row["answer"]], "ABCD"[(row["answer"] + 1) % 4])
    for row in [*nine.MMLU_PRO, *nine.SUPERGPQA]:
        letter = row.get("answer_letter", row["answer"])
        known[row["question"]] = (f"<think>Is it (C)?</think>The answer is ({letter}).", "<think>hm</think>Answer: J")
    for row in nine.AIME_2024:
        known[row["Problem"]] = (f"<think>7</think>So it is \\boxed{{{row['Answer']}}}.", "It is \\boxed{7}.")
    for row, value in zip(nine.MATH, ("0.5", "2", "\\binom{5}{3}", "(0, 3]"), strict=True):
        known[row["problem"]] = (f"Hence $\\boxed{{{value}}}$.", "Hence $\\boxed{77}$.")
    known[nine.MBPP_PLUS[0]["prompt"]] = (
        "```python\ndef double(x):\n    return x + x\n```",
        "```python\ndef double(x):\n    return x * x\n```",
    )
    known[nine.MBPP_PLUS[1]["prompt"]] = ("```python\ndef root(x):\n    return x ** 0.5\n```", "I can't.")
    for rows in ROWS.values():
        for row in rows:
            known[row["turns"][0]] = (RIGHT[row["question_id"]], "no idea")

    def answer(prompt: str) -> str:
        found = [text for text in known if text in prompt]
        last = max(found, key=lambda text: (prompt.rindex(text) + len(text), len(text)))
        return known[last][0 if right else 1]

    return answer


def test_a_model_that_knows_every_answer_scores_one_on_every_benchmark(data: dict[str, Path], tmp_path: Path) -> None:
    scores, metrics = run(ScriptedEngine(answers(right=True)), data, tmp_path / "out", settings(*RULED))

    assert scores["score"].to_dict() == dict.fromkeys(RULED, 1.0)
    assert scores["reason"].isna().all()
    assert scores["n"].to_dict() == {
        "mmlu_pro": 6,
        "mmlu": 8,
        "supergpqa": 4,
        "livebench": sum(map(len, ROWS.values())),
        "aime_2024": 4,
        "math": 4,
        "mbpp_plus": 2,
    }
    assert metrics["average"] == 1.0
    assert metrics["mbpp_plus_base"] == 1.0
    assert sorted(path.name for path in (tmp_path / "out/samples").glob("*.html")) == sorted(f"{n}.html" for n in RULED)


def test_a_model_that_knows_nothing_scores_zero_on_every_benchmark(data: dict[str, Path], tmp_path: Path) -> None:
    scores, metrics = run(ScriptedEngine(answers(right=False)), data, tmp_path / "out", settings(*RULED))

    assert scores["score"].to_dict() == dict.fromkeys(RULED, 0.0)
    # x * x doubles 2 and 0, but not 3: the base tests pass, the further ones do not
    assert metrics["mbpp_plus_base"] == 0.5
    samples: Any = pd.read_parquet(tmp_path / "out/samples/mbpp_plus.parquet").set_index("id")
    assert samples.loc["2", "detail"].startswith("base passed, plus wrong")


def test_the_longer_answer_is_no_better_because_the_judge_was_asked_in_both_orders(
    data: dict[str, Path], tmp_path: Path
) -> None:
    with serving(always_a) as server:
        first, numbers = run(ScriptedEngine(mine), data, tmp_path / "out", settings("arena_hard"), judge_at(server.url))
        asked = len(server.asked)
        again, _ = run(
            ScriptedEngine(mine),
            data,
            tmp_path / "again",
            settings("arena_hard"),
            judge_at(server.url),
        )
        assert asked == 2 * len(nine.ARENA_HARD)
        assert len(server.asked) == asked  # the second run asked nothing
    assert first.loc["arena_hard", "score"] == 0.5
    assert numbers["arena_hard_consistency"] == 0.0
    pd.testing.assert_frame_equal(first, again)


def test_free_form_answers_are_judged_and_options_are_read_by_rule(data: dict[str, Path], tmp_path: Path) -> None:
    def answer(prompt: str) -> str:
        return {"fruit": "B. a pear", "awake": "B", "nuts": "three", "manometer": "I do not know"}[
            next(word for word in ("fruit", "awake", "nuts", "manometer") if word in prompt)
        ]

    def judge(asked: Asked, number: int) -> Reply:
        return says("So [[0.9]]") if "three" in asked.user else says("I cannot tell")

    with serving(judge) as server:
        scores, numbers = run(
            ScriptedEngine(answer), data, tmp_path / "out", settings("mixeval_hard"), judge_at(server.url)
        )
    # the options 1 and 0, the nuts 0.9; the judge's grade of the manometer cannot be read and counts nowhere
    assert scores.loc["mixeval_hard", "score"] == pytest.approx((1 + 0 + 0.9) / 3)
    assert scores.loc["mixeval_hard", "n"] == 3
    assert numbers["mixeval_hard_unparsable"] == 1


def test_a_budget_that_is_spent_makes_a_hole_and_keeps_what_was_judged(data: dict[str, Path], tmp_path: Path) -> None:
    with serving(always_a) as server:
        # ten prompt tokens at a dollar each are above two dollars: the third request does not start
        poor = judge_at(server.url, budget=15.0, price_input=1e6, parallel=1)
        scores, _ = run(ScriptedEngine(mine), data, tmp_path / "out", settings("arena_hard"), poor)
        assert "budget" in scores.loc["arena_hard", "reason"]
        assert scores["score"].isna().all()
        spent = len(server.asked)
        rich, _ = run(ScriptedEngine(mine), data, tmp_path / "rich", settings("arena_hard"), judge_at(server.url))
        assert rich.loc["arena_hard", "score"] == 0.5
        assert spent == 2
        assert len(server.asked) == 2 * len(nine.ARENA_HARD)


def test_without_a_judge_or_a_template_there_are_holes_and_no_zeros(data: dict[str, Path], tmp_path: Path) -> None:
    engine = ScriptedEngine(answers(right=True), template=False)
    scores, metrics = run(engine, data, tmp_path / "out", settings("arena_hard", "mmlu", "math"))
    assert scores["reason"].fillna("").to_dict() == {
        "arena_hard": "the model has no chat template",
        "mmlu": "",
        "math": "the model has no chat template",
    }
    assert metrics["average"] == scores.loc["mmlu", "score"] == 1.0
    judged, _ = run(ScriptedEngine(str), data, tmp_path / "judged", settings("arena_hard"))
    assert judged.loc["arena_hard", "reason"] == "no judge is configured (evals.judge)"


def test_a_model_is_not_asked_what_could_not_be_compared(data: dict[str, Path], tmp_path: Path) -> None:
    for name in ("mmlu", "arena_hard"):
        shutil.copytree(data[name], tmp_path / name)
    (tmp_path / "mmlu/dev.jsonl").write_text(json.dumps(nine.MMLU_DEV[0]) + "\n")
    (tmp_path / "arena_hard/baseline.jsonl").write_text(json.dumps(nine.ARENA_BASELINE[0]) + "\n")
    engine = ScriptedEngine(mine)
    there = {name: tmp_path / name for name in ("mmlu", "arena_hard")}
    scores, _ = run(engine, there, tmp_path / "out", settings("mmlu", "arena_hard"), judge_at("http://127.0.0.1:9/v1"))
    assert scores["reason"].to_dict() == {
        "mmlu": "expected 5 worked examples of abstract_algebra in the split 'dev', got 1",
        "arena_hard": "no answer of the baseline to 2 questions, the first is q1",
    }
    assert engine.asked == []


def test_readings_are_numbers_that_a_job_can_report(data: dict[str, Path], tmp_path: Path) -> None:
    """Of verdicts in one order only nobody can say whether both orders agree."""

    def judge(asked: Asked, number: int) -> Reply:
        first = asked.user.index("mine") < asked.user.index("baseline")
        return says("[[A>B]]" if first else "I cannot tell")

    with serving(judge) as server:
        _, numbers = run(ScriptedEngine(mine), data, tmp_path / "out", settings("arena_hard"), judge_at(server.url))
    assert numbers["arena_hard"] == 1.0
    assert "arena_hard_consistency" not in numbers
    canonical_json(numbers)


def test_thinking_that_the_template_opened_is_not_the_answer(data: dict[str, Path], tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda prompt: "the answer is (A)", opening="<think>")
    run(engine, data, tmp_path / "out", settings("supergpqa"))
    samples: Any = pd.read_parquet(tmp_path / "out/samples/supergpqa.parquet")
    assert samples["extracted"].isna().all()
    assert set(samples["response"]) == {"<think>the answer is (A)"}


def test_aime_is_the_mean_over_its_samples(data: dict[str, Path], tmp_path: Path) -> None:
    replies = iter(["\\boxed{7}", "\\boxed{1}"] * 4)

    def answer(prompt: str) -> str:
        return next(replies)

    scores, _ = run(ScriptedEngine(answer), data, tmp_path / "out", settings("aime_2024"))
    samples: Any = pd.read_parquet(tmp_path / "out/samples/aime_2024.parquet")
    assert samples.groupby("id")["repeat"].apply(list).tolist() == [[0, 1]] * 4
    # of the answers 1, 10, 100 and 3 one sample in two is right about the first
    assert scores.loc["aime_2024", "score"] == 0.5 / 4
    assert scores.loc["aime_2024", "n"] == 4


def test_a_limit_takes_the_same_questions_every_time(data: dict[str, Path], tmp_path: Path) -> None:
    ids = []
    for name, limit in (("a", 2), ("b", 2), ("c", 3)):
        run(ScriptedEngine(answers(right=True)), data, tmp_path / name / "out", settings("mmlu", limit=limit))
        ids.append(set(pd.read_parquet(tmp_path / name / "out/samples/mmlu.parquet")["id"]))
    assert ids[0] == ids[1] < ids[2]
    assert list(map(len, ids)) == [2, 2, 3]


def test_every_benchmark_of_the_paper_is_in_the_registry() -> None:
    from bai_pipeline.paper import BENCHMARKS as PRINTED

    assert [benchmark.title for benchmark in BENCHMARKS.values()] == list(PRINTED)
    assert set(BENCHMARKS) == REGISTERED


def mine(prompt: str) -> str:
    return "mine"


def always_a(asked: Asked, number: int) -> Reply:
    return says("My verdict: [[A>B]]")


def judge_at(url: str, **changes: Any) -> JudgeSettings:
    return JudgeSettings.model_validate({"url": url, "model": "judge", "max_tokens": 64, "timeout": 20.0} | changes)
