import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_pipeline.settings import WorldSettings
from bai_pipeline.synthetic.tasks import (
    TASKS,
    Problem,
    brief_answer,
    can_be_right,
    direct_answer,
    extract_answer,
    is_held_out,
    long_answer,
    parse_prompt,
    prompt_text,
    sample_problem,
    sample_training_problem,
    solve,
    verify,
    without_markers,
)

problems = st.builds(Problem, st.sampled_from(TASKS), st.lists(st.integers(0, 9), min_size=1, max_size=12).map(tuple))


@pytest.mark.parametrize(
    ("task", "operands", "answer"),
    [
        ("sum", (4, 7), 1),  # 11
        ("sum", (9, 9, 9), 7),  # 27
        ("alt", (4, 7), 7),  # -3
        ("alt", (1, 2, 3, 4, 5), 3),  # 1 - 2 + 3 - 4 + 5
        ("max", (4, 7, 2), 7),
    ],
)
def test_answers_are_those_of_arithmetic_by_hand(task: str, operands: tuple[int, ...], answer: int) -> None:
    assert solve(Problem(task, operands)) == answer  # type: ignore[arg-type]


def test_a_problem_is_stated_with_labelled_operands() -> None:
    assert prompt_text(Problem("sum", (4, 7))) == "sum a 4 b 7"


@given(problems)
def test_a_stated_problem_reads_back(problem: Problem) -> None:
    assert parse_prompt(prompt_text(problem)) == problem


@pytest.mark.parametrize("text", ["", "sum", "sum a", "sum b 4", "sum a 12", "sum a 4 c 7", "mean a 4", "sum  a 4"])
def test_text_that_states_no_problem_reads_as_none(text: str) -> None:
    assert parse_prompt(text) is None


def test_answers_spell_out_their_steps() -> None:
    problem = Problem("alt", (1, 2, 3))
    assert direct_answer(problem) == "ans 2"
    assert brief_answer(problem) == "b 1 - 2 = 9 , c 9 + 3 = 2 , ans 2"
    text = long_answer(problem, random.Random(0), passes=1)
    assert text.replace("hmm", "wait") == (
        "<think> b 1 - 2 = 9 , c 9 + 3 = 2 , wait check b 2 - 3 = 9 , a 1 - 9 = 2 , ok so 2 </think> ans 2"
    )


@given(problems, st.integers(1, 3))
def test_every_step_is_right_and_every_pass_ends_at_the_answer(problem: Problem, passes: int) -> None:
    operators: dict[str, Callable[[int, int], int]] = {
        "+": lambda a, b: (a + b) % 10,
        "-": lambda a, b: (a - b) % 10,
        "?": max,
    }
    text = without_markers(long_answer(problem, random.Random(0), passes))
    for part in text.removesuffix(direct_answer(problem)).split("check"):
        steps = [step.split() for step in part.split(",")[:-1]]
        for _, left, operator, right, _, result in steps:
            assert operators[operator](int(left), int(right)) == int(result)
        if len(problem.operands) > 1:
            assert steps[-1][-1] == str(solve(problem))


@given(problems, st.integers(0, 3))
def test_each_style_of_answer_verifies_and_no_other_digit_does(problem: Problem, passes: int) -> None:
    for text in (direct_answer(problem), brief_answer(problem), long_answer(problem, random.Random(0), passes)):
        assert [digit for digit in "0123456789" if verify(text, digit)] == [str(solve(problem))]


@pytest.mark.parametrize("text", ["", "ans", "ans 12", "ans 7 ok", "trans 7", "ans 7 </think>", "ans\n7"])
def test_text_that_does_not_end_with_an_answer_has_none(text: str) -> None:
    assert extract_answer(text) is None


def test_the_last_answer_counts() -> None:
    assert extract_answer("ans 3 wait ans 7") == "7"


def test_about_one_problem_in_the_modulus_is_held_out_and_none_of_them_is_trained_on(world: WorldSettings) -> None:
    rng = random.Random(0)
    drawn = [sample_problem(world, rng) for _ in range(4000)]
    share = sum(is_held_out(problem, world) for problem in drawn) / len(drawn)
    assert abs(share - 1 / 8) < 4 * (1 / 8 * 7 / 8 / len(drawn)) ** 0.5
    assert not any(is_held_out(sample_training_problem(world, rng), world) for _ in range(500))
    assert {problem.task for problem in drawn} == set(TASKS)
    assert {len(problem.operands) for problem in drawn} == {2, 3, 4}


@pytest.mark.parametrize(("answer", "possible"), [("7", True), ("0", True), ("12", False), ("", False), (" 1", False)])
def test_only_one_digit_can_be_a_right_answer(answer: str, possible: bool) -> None:
    assert can_be_right(answer) is possible
