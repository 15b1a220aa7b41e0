"""The tables of the embedded world: pretraining documents, SFT examples, prompts and benchmarks.

Each is drawn from its own stream of random numbers (seed and purpose), so that changing one leaves the others as they
are. Held-out problems appear in benchmarks only.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from bai_pipeline.errors import DataError
from bai_pipeline.settings import WorldSettings
from bai_pipeline.synthetic.documents import sample_document
from bai_pipeline.synthetic.tasks import (
    TASKS,
    Problem,
    Task,
    brief_answer,
    direct_answer,
    is_held_out,
    long_answer,
    prompt_text,
    sample_problem,
    sample_training_problem,
    solve,
    weighted_choice,
)
from bai_pipeline.tables import Row, write_table

Style = Literal["instruct", "reasoning"]
VERIFIER = "final_answer"
"""Name of the check that the prompts ask for: `tasks.verify`."""

_TRIES_PER_PROBLEM = 1000


def write_pretraining_data(out: Path, world: WorldSettings, seed: int) -> dict[str, float | int | str]:
    """Write out/pretraining.parquet {id, text}: `pretraining_documents` documents."""
    rng = random.Random(f"{seed}/pretraining")
    rows: list[Row] = [
        {"id": f"document-{index}", "text": sample_document(world, rng)} for index in range(world.pretraining_documents)
    ]
    write_table(rows, out / "pretraining.parquet")
    return {"documents": len(rows), "words": sum(len(row["text"].split(" ")) for row in rows)}


def write_sft_data(
    out: Path, world: WorldSettings, styles: Mapping[str, Style], seed: int
) -> dict[str, float | int | str]:
    """Write out/<role>.parquet {id, messages} for each role: `sft_examples` conversations of two turns.

    Args:
        styles: role -> how its answers are written (see `sft_answer`).
    """
    for role, style in styles.items():
        rng = random.Random(f"{seed}/sft/{role}")
        rows: list[Row] = []
        for index in range(world.sft_examples):
            problem = sample_training_problem(world, rng)
            answer = {"role": "assistant", "content": sft_answer(problem, style, world, rng)}
            rows.append({"id": f"{role}-{index}", "messages": [*messages(problem), answer]})
        write_table(rows, out / f"{role}.parquet")
    return {f"{role}_examples": world.sft_examples for role in styles}


def sft_answer(problem: Problem, style: Style, world: WorldSettings, rng: random.Random) -> str:
    """An answer to imitate.

    "instruct" is direct for a maximum and for `direct_share` of the other problems, else brief; "reasoning" is long
    with 1 to 3 verification passes.
    """
    if style == "reasoning":
        return long_answer(problem, rng, weighted_choice(world.verification_passes, rng))
    if problem.task == "max" or rng.random() < world.direct_share:
        return direct_answer(problem)
    return brief_answer(problem)


def write_prompts(
    out: Path, world: WorldSettings, seed: int, *, purpose: str = "prompts", count: int | None = None
) -> dict[str, float | int | str]:
    """Write out/prompts.parquet {id, messages, answer, verifier}: training problems, possibly repeated.

    Args:
        purpose: names the stream of random numbers; preference pairs take other prompts than PPO.
        count: number of prompts, by default the world's.
    """
    rng = random.Random(f"{seed}/{purpose}")
    rows: list[Row] = []
    for index in range(world.prompts if count is None else count):
        problem = sample_training_problem(world, rng)
        rows.append(
            {
                "id": f"prompt-{index}",
                "messages": messages(problem),
                "answer": str(solve(problem)),
                "verifier": VERIFIER,
            }
        )
    write_table(rows, out / "prompts.parquet")
    return {"prompts": len(rows)}


def write_benchmark_data(
    out: Path, world: WorldSettings, benchmarks: Sequence[str], seed: int
) -> dict[str, float | int | str]:
    """Write out/<benchmark>/test.jsonl {id, messages, prompt, answer}: different held-out problems of one task each.

    Args:
        benchmarks: names "held_out_<task>".

    Raises:
        DataError: an unknown benchmark, or a world with fewer held-out problems than `benchmark_problems`.
    """
    tasks = {f"held_out_{task}": task for task in TASKS}
    unknown = [name for name in benchmarks if name not in tasks]
    if unknown:
        raise DataError(
            f"expected benchmarks out of {', '.join(tasks)} or of `bai evals list`, got {', '.join(unknown)}; nothing "
            "was written"
        )
    drawn = {name: held_out_problems(world, tasks[name], world.benchmark_problems, seed) for name in benchmarks}
    for name, problems in drawn.items():
        rows = [
            {
                "id": f"{name}-{index}",
                "messages": messages(problem),
                "prompt": prompt_text(problem),
                "answer": str(solve(problem)),
            }
            for index, problem in enumerate(problems)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (out / name).mkdir(exist_ok=True)
        (out / name / "test.jsonl").write_text(text, encoding="utf-8")
    return {f"{name}_problems": len(problems) for name, problems in drawn.items()}


def held_out_problems(world: WorldSettings, task: Task, count: int, seed: int) -> list[Problem]:
    """`count` different held-out problems of a task.

    Raises:
        DataError: the world seems to hold fewer (drawing a thousand times as many found no more).
    """
    rng = random.Random(f"{seed}/held out/{task}")
    one_task = world.model_copy(update={"task_weights": {task: 1.0}})
    found: dict[Problem, None] = {}
    for _ in range(_TRIES_PER_PROBLEM * count):
        problem = sample_problem(one_task, rng)
        if is_held_out(problem, world):
            found[problem] = None
            if len(found) == count:
                return list(found)
    raise DataError(
        f"expected {count} held-out problems of the task {task!r}, found {len(found)} with {world.operands_min} to "
        f"{world.operands_max} operands and held_out_modulus {world.held_out_modulus}; lower benchmark_problems or "
        "held_out_modulus"
    )


def messages(problem: Problem) -> list[dict[str, str]]:
    """The conversation that asks for a problem's answer."""
    return [{"role": "user", "content": prompt_text(problem)}]
