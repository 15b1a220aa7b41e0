"""Small data of the nine benchmarks in their published schemas, written by hand, and right and wrong answers to it.

The right options differ from question to question: a grader that always says B is right once in four.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bai_pipeline.evals.grades import Row

MMLU_SUBJECTS = ("abstract_algebra", "anatomy")

MMLU: list[dict[str, Any]] = [
    {
        "question": f"Which of these is the number {n}?",
        "subject": MMLU_SUBJECTS[n % 2],
        "choices": [str(n + (k - n * 3 % 4)) for k in range(4)],
        "answer": n * 3 % 4,
    }
    for n in range(8)
]
MMLU_DEV: list[dict[str, Any]] = [
    {"question": f"What is {n} + 1?", "subject": subject, "choices": ["0", str(n + 1), "9", "8"], "answer": 1}
    for subject in MMLU_SUBJECTS
    for n in range(5)
]
MMLU_PRO: list[dict[str, Any]] = [
    {
        "question_id": 70 + n,
        "question": f"How many sides has shape {n}?",
        "options": [str(3 + k) for k in range(10)],
        "answer": "ABCDEFGHIJ"[n * 7 % 10],
        "answer_index": n * 7 % 10,
        "cot_content": "",
        "category": ("math", "computer science", "law")[n % 3],
        "src": "by hand",
    }
    for n in range(6)
]
MMLU_PRO_VALIDATION: list[dict[str, Any]] = [
    {
        **row,
        "question_id": n,
        "category": category,
        "cot_content": f"A: Let's think step by step. The answer is ({row['answer']}).",
    }
    for category in ("math", "computer science", "law")
    for n, row in enumerate(MMLU_PRO[:5])
]
SUPERGPQA: list[dict[str, Any]] = [
    {
        "uuid": f"uuid-{n}",
        "question": f"Which metal melts at {n} degrees?",
        "options": ["iron", "tin", "lead", "zinc", "gold", "copper", "silver"][: 4 + n],
        "answer": "x",
        "answer_letter": "CADB"[n],
        "discipline": "Engineering",
        "field": ("Materials", "Mechanics")[n % 2],
        "subfield": "Metals",
        "difficulty": ("easy", "middle", "hard")[n % 3],
        "is_calculation": False,
    }
    for n in range(4)
]
AIME_2024: list[dict[str, Any]] = [
    {"ID": f"2024-I-{n}", "Problem": f"Find the remainder of $10^{n}$ by $997$.", "Solution": "", "Answer": answer}
    for n, answer in enumerate((1, 10, 100, 3), start=0)
]
MATH: list[dict[str, Any]] = [
    {
        "problem": "What is $\\frac14+\\frac14$?",
        "level": "Level 1",
        "type": "Prealgebra",
        "solution": "It is $\\boxed{\\frac{1}{2}}$.",
    },
    {"problem": "Solve $x^2=4$ for $x>0$.", "level": "Level 2", "type": "Algebra", "solution": "So $x=\\boxed{2}$."},
    {
        "problem": "What is $\\binom{5}{2}$?",
        "level": "Level 1",
        "type": "Counting & Probability",
        "solution": "\\boxed{10}",
    },
    {
        "problem": "Name the interval of positive numbers up to 3.",
        "level": "Level 1",
        "type": "Algebra",
        "solution": "$\\boxed{(0,3]}$",
    },
]
MBPP_PLUS: list[dict[str, Any]] = [
    {
        "task_id": 2,
        "code": "",
        "prompt": "Write a function double(x) that doubles a number.",
        "source_file": "by hand",
        "test_imports": [],
        "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
        "test": "for x, y in zip([3, -5, 10**6], [6, -10, 2 * 10**6]):\n    assert double(x) == y",
    },
    {
        "task_id": 3,
        "code": "def root(x):\n    return x ** 0.5",
        "prompt": "Write a function root(x) for the square root.",
        "source_file": "by hand",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(root(4), 2)"],
        "test": "assert math.isclose(root(0.25), 0.5)\nassert math.isclose(root(9), 3)",
    },
]
MIXEVAL_FREE_FORM: dict[str, dict[str, Any]] = {
    "0": {
        "problem_type": "free-form",
        "context": None,
        "prompt": "What does a manometer measure?",
        "target": ["pressure"],
        "benchmark_name": "TriviaQA",
    },
    "1": {
        "problem_type": "free-form",
        "context": "Ann has 3 nuts.",
        "prompt": "How many nuts?",
        "target": ["3", "three"],
        "benchmark_name": "DROP",
    },
}
MIXEVAL_CHOICE: dict[str, dict[str, Any]] = {
    "0": {
        "problem_type": "single-choice",
        "context": None,
        "prompt": "Which is a fruit?",
        "options": ["a stone", "a pear", "a car"],
        "target": [1],
        "benchmark_name": "PIQA",
    },
    "1": {
        "problem_type": "single-choice",
        "context": "Tom slept.",
        "prompt": "Was Tom awake?",
        "options": ["no", "yes"],
        "target": [0],
        "benchmark_name": "BoolQ",
    },
}
ARENA_HARD: list[dict[str, Any]] = [
    {
        "question_id": f"q{n}",
        "category": "arena-hard-v0.1",
        "cluster": "by hand",
        "turns": [{"content": f"Explain tide {n}."}],
    }
    for n in range(3)
]
ARENA_BASELINE: list[dict[str, Any]] = [
    {
        "question_id": f"q{n}",
        "model_id": "gpt-4-0314",
        "choices": [{"index": 0, "turns": [{"content": f"baseline {n}", "token_len": 2}]}],
    }
    for n in range(3)
]


def write_nine(root: Path, livebench: Mapping[str, Sequence[Row]]) -> dict[str, Path]:
    """The files of every benchmark, as `bai data fetch` would put them; name → directory."""
    files: dict[str, dict[str, Any]] = {
        "mmlu_pro": {"test.jsonl": MMLU_PRO, "validation.jsonl": MMLU_PRO_VALIDATION},
        "mmlu": {"test.jsonl": MMLU, "dev.jsonl": MMLU_DEV},
        "supergpqa": {"test.jsonl": SUPERGPQA},
        "livebench": {f"{category}.jsonl": list(rows) for category, rows in livebench.items()},
        "mixeval_hard": {"free_form.json": MIXEVAL_FREE_FORM, "multiple_choice.json": MIXEVAL_CHOICE},
        "arena_hard": {"test.jsonl": ARENA_HARD, "baseline.jsonl": ARENA_BASELINE},
        "aime_2024": {"test.jsonl": AIME_2024},
        "math": {"test.jsonl": MATH},
        "mbpp_plus": {"test.jsonl": MBPP_PLUS},
    }
    for name, splits in files.items():
        (root / name).mkdir(parents=True)
        for file, rows in splits.items():
            lines = json.dumps(rows) if file.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
            (root / name / file).write_text(lines, encoding="utf-8")
    return {name: root / name for name in files}
