"""Questions in the schema of LiveBench's published rows, written by hand, and right answers to them."""

import base64
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

ARTICLE = "The following are the beginning sentences of a news article.\n-------\n It rained in {town}.\n-------\n"


def row(task: str, category: str, question: str, **fields: Any) -> dict[str, Any]:
    """A row of the release 2024-11-25; its id is the task, unless it says otherwise."""
    return {
        "question_id": task,
        "category": category,
        "task": task,
        "turns": [question],
        "livebench_release_date": "2024-11-25",
        "livebench_removal_date": "",
    } | fields


def math_row(task: str, subtask: str, question: str, truth: str) -> dict[str, Any]:
    more = {"year": "", "hardness": None, "expressions": "", "release_date": None}
    return row(task, "math", question, question_id=subtask, subtask=subtask, ground_truth=truth, **more)


def instructed(task: str, question: str, **kinds: Mapping[str, Any]) -> dict[str, Any]:
    """A row with instructions: `group__name={argument: value}`; as published, each names the arguments of all."""
    names = {name for arguments in kinds.values() for name in arguments}
    return row(
        task,
        "instruction_following",
        ARTICLE.format(town=task) + question,
        instruction_id_list=[kind.replace("__", ":") for kind in kinds],
        kwargs=[{name: arguments.get(name) for name in names} for arguments in kinds.values()],
        task_prompt=question,
    )


def packed(tests: Sequence[Mapping[str, str]]) -> str:
    """Hidden tests as they are published: base 64 of a zipped pickle of their JSON."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def tests(kind: str, **outputs: str) -> list[dict[str, str]]:
    """Tests of a kind (stdin or functional); `_3="9"` expects 9 for 3."""
    return [{"input": name.strip("_"), "output": output, "testtype": kind} for name, output in outputs.items()]


def coding_row(task: str, question: str, kind: str, function: str | None, **fields: Any) -> dict[str, Any]:
    metadata = {"func_name": function} if function else {}
    return row(
        task,
        "coding",
        question,
        question_title=task,
        public_test_cases=json.dumps(tests(kind, _3="9")),
        private_test_cases=packed(tests(kind, _0="0", _12="144")),
        original_json={"question_title": task, "metadata": json.dumps(metadata), "starter_code": ""},
        **fields,
    )


AMC = math_row(
    "math_comp",
    "amc_12a_2023",
    "What is $6 \\cdot 7$? $\\textbf{(A) }13\\qquad\\textbf{(B) }42\\qquad\\textbf{(C) }67$ Repeat the letter 5 times.",
    "B",
)
AIME = math_row("math_comp", "aime_i_2024", "What is the value of $xy$? End with the three digits.", "025")
OLYMPIAD = math_row("olympiad", "usamo", "Match the formulae to the missing tags. End with Answer: 1, 2, …", "5,22,3,7")
AMPS = math_row("AMPS_Hard", "amps_hard_variance", "Find the sample variance in a $\\boxed{}$.", "\\frac{1877}{10}")
ZEBRA = row(
    "zebra_puzzle",
    "reasoning",
    "There are 2 people standing in a line. Answer 4 questions.",
    ground_truth="1, filmmaking, police-officer, journalist",
    level=15,
)
LIES = row("web_of_lies_v2", "reasoning", "Do they tell the truth?", ground_truth="no, yes, yes", level=None)
SPATIAL = row("spatial", "reasoning", "What shape is it? Answer in **bold**.", ground_truth="triangle", level=None)
CONNECTIONS = row(
    "connections",
    "language",
    "Put 12 words in groups of four.",
    ground_truth="ash, elm, oak, yew, ant, bee, fly, wasp, cod, eel, pike, ray",
)
PLOT = row(
    "plot_unscrambling",
    "language",
    "Put the sentences of the plot in order.",
    ground_truth="Ada leaves home. Bo follows her by train. They meet in a storm. Both return at dawn.",
)
"""Not among `ROWS`: by its rule, no answer of one sentence scores less than a quarter."""
TYPOS = row("typos", "language", "Correct the typos.", ground_truth="We propose to study emergent abilities.")
CTA = row("cta", "data_analysis", "Pick the column's class. Classes: ['case_number' 'id']", ground_truth="case_number")
TABLEJOIN = row(
    "tablejoin",
    "data_analysis",
    "Please create a valid join mapping between two tables.",
    ground_truth='{"zip": "a1", "city": "b2", "name": "c3"}',
)
TABLEREFORMAT = row(
    "tablereformat",
    "data_analysis",
    "Please convert the Input Table from JSON format to CSV format. Please respond only with the table.",
    ground_truth="name,size\nash,1.5\nelm,\n",
)
PARAPHRASE = instructed(
    "paraphrase",
    "Please paraphrase.",
    startend__quotation={},
    keywords__existence={"keywords": ["sun", "media"]},
    length_constraints__number_words={"num_words": 5, "relation": "at least"},
)
SIMPLIFY = instructed(
    "simplify",
    "Please simplify.",
    detectable_format__title={},
    detectable_content__postscript={"postscript_marker": "P.S."},
)
STORY = instructed(
    "story_generation",
    "Please write a story.",
    length_constraints__number_paragraphs={"num_paragraphs": 2},
    startend__end_checker={"end_phrase": "Any other questions?"},
)
SUMMARIZE = instructed("summarize", "Please summarize.", detectable_format__number_bullet_lists={"num_bullets": 2})
GENERATION = coding_row(
    "LCB_generation", "Write Solution.square.", "functional", "square", partial_solution=None, remainder=None
)
COMPLETION = coding_row(
    "coding_completion",
    "Complete a program that squares a number.",
    "stdin",
    None,
    partial_solution="n = int(input())\nif n == 0:",
    remainder="    print(0)\nelse:\n    print(n * n)",
)

ROWS: Mapping[str, Sequence[dict[str, Any]]] = {
    "math": [AMC, AIME, OLYMPIAD, AMPS],
    "reasoning": [ZEBRA, LIES, SPATIAL],
    "language": [CONNECTIONS, TYPOS],
    "data_analysis": [CTA, TABLEJOIN, TABLEREFORMAT],
    "instruction_following": [PARAPHRASE, SIMPLIFY, STORY, SUMMARIZE],
    "coding": [GENERATION, COMPLETION],
}
"""Questions by category: "no idea" scores 0 on each."""

RIGHT: Mapping[str, str] = {
    "amc_12a_2023": "It is 42, so BBBBB",
    "aime_i_2024": "The answer is 025",
    "usamo": "Answer: 5, 22, 3, 7",
    "amps_hard_variance": "The variance is $\\boxed{\\frac{1877}{10}}$.",
    "zebra_puzzle": "<solution>1, filmmaking, police-officer, journalist</solution>",
    "web_of_lies_v2": "So: **no, yes, yes**",
    "spatial": "It is a **triangle**.",
    "connections": "<solution>ash, elm, oak, yew, ant, bee, fly, wasp, cod, eel, pike, ray</solution>",
    "plot_unscrambling": f"<PLOT_SUMMARY>{PLOT['ground_truth']}</PLOT_SUMMARY>",
    "typos": "We propose to study emergent abilities.",
    "cta": "case_number",
    "tablejoin": "{'zip': 'a1', 'city': 'b2', 'name': 'c3'}",
    "tablereformat": "name,size\nash,1.5\nelm,\n",
    "paraphrase": '"The sun came out, the media say."',
    "simplify": "<<Rain>>\nIt was wet.\nP.S. Take a coat.",
    "story_generation": "Once it rained.\n***\nThen it stopped. Any other questions?",
    "summarize": "* It rained.\n* It stopped.",
    "LCB_generation": "```python\nclass Solution:\n    def square(self, n: int) -> int:\n        return n * n\n```",
    "coding_completion": "```python\n    print(0)\nelse:\n    print(n * n)\n```",
}
"""A right answer to each question, by its id."""
