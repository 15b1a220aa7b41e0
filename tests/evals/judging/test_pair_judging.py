from pathlib import Path

import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.evals.grades import Grade
from bai_pipeline.evals.judging import PairGrade, PairQuestion, PairwiseResult, arena_scores, judge_pairs
from bai_pipeline.progress import SilentReporter
from tests.evals.judging.conftest import judge_at
from tests.evals.judging.judge_server import Asked, Behaviour, Reply, says, serving


def questions(count: int) -> list[PairQuestion]:
    return [PairQuestion(f"q{n}", f"question {n}?", f"answer {n}.", f"baseline {n}.") for n in range(count)]


def answer_is_a(asked: Asked) -> bool:
    return asked.user.index("answer ") < asked.user.index("baseline ")


def judge(behaviour: Behaviour, cache: Path, count: int) -> tuple[PairwiseResult, list[Asked]]:
    with serving(behaviour) as server:
        return judge_pairs(questions(count), judge_at(server.url), cache, SilentReporter()), server.asked


def test_both_orders_are_asked(tmp_path: Path) -> None:
    result, asked = judge(lambda asked, number: says("[[A=B]]"), tmp_path, 3)
    orders = sorted((f"question {n}?" in request.user, answer_is_a(request)) for n in range(3) for request in asked)
    assert orders == sorted([(True, True), (True, False)] * 3 + [(False, True), (False, False)] * 6)
    assert [grade.id for grade in result.grades] == ["q0", "q1", "q2"]


@pytest.mark.parametrize("label", ["A>B", "A>>B", "A=B", "B>A", "B>>A"])
def test_a_judge_that_sees_only_the_place_gives_one_half_to_every_question(tmp_path: Path, label: str) -> None:
    result, _ = judge(lambda asked, number: says(f"[[{label}]]"), tmp_path, 4)
    assert [grade.score for grade in result.grades] == [0.5] * 4
    assert arena_scores(result.grades).win_rate.value == 0.5
    assert arena_scores(result.grades).consistency == (1.0 if label == "A=B" else 0.0)


def test_a_judge_that_prefers_the_answer_makes_it_win_in_both_places(tmp_path: Path) -> None:
    result, _ = judge(lambda asked, number: says("[[A>B]]" if answer_is_a(asked) else "[[B>>A]]"), tmp_path, 2)
    assert [(grade.first, grade.second) for grade in result.grades] == [("A>B", "B>>A")] * 2
    assert [(grade.score, grade.weight, grade.consistent) for grade in result.grades] == [(1.0, 4.0, True)] * 2


@pytest.mark.parametrize(
    ("first", "second", "score", "weight"),
    [
        ("A>>B", "A>B", 0.75, 4.0),  # won with weight 3, lost with weight 1
        ("A>B", "A>>B", 0.25, 4.0),  # won with weight 1, lost with weight 3
        ("A>>B", "A=B", 0.875, 4.0),  # (3 + 0.5) / 4
        ("B>A", "B>A", 0.5, 2.0),
        ("B>>A", "A>>B", 0.0, 6.0),
        ("A=B", "A=B", 0.5, 2.0),
        ("A>B", None, 1.0, 1.0),
        (None, "A>>B", 0.0, 3.0),
        (None, None, None, 0.0),
    ],
)
def test_a_strong_verdict_weighs_three_times_as_much(
    first: str | None, second: str | None, score: float | None, weight: float
) -> None:
    grade = PairGrade("q", first, second)
    assert (grade.score, grade.weight) == (score, weight)


def test_a_grade_says_what_the_verdicts_were() -> None:
    assert PairGrade("q", "A>>B", None).grade == Grade(
        1.0, "A>>B, unparsable", 3.0, "verdict with the answer as A: A>>B; as B: unparsable"
    )
    assert PairGrade("q", None, None).grade is None


def test_malformed_and_contradictory_verdicts_are_counted_and_not_asked_again(tmp_path: Path) -> None:
    def behaviour(asked: Asked, number: int) -> Reply:
        if "question 0?" in asked.user:
            return says("[[A>B]] or [[B>A]]")
        if "question 1?" in asked.user and answer_is_a(asked):
            return says("[[A>>>B]]")
        return says("[[A>B]]")

    result, asked = judge(behaviour, tmp_path, 3)
    assert len(asked) == 6
    assert [grade.unparsable for grade in result.grades] == [2, 1, 0]
    assert (result.unparsable, result.without_score) == (3, ("q0",))
    scores = arena_scores(result.grades)
    # q1: lost as B; q2: won as A, lost as B: one of three games
    assert scores.win_rate.value == pytest.approx(1 / 3)
    assert (scores.questions, scores.without_score, scores.unparsable, scores.consistency) == (2, 1, 3, 0.0)


def test_a_judge_that_forgot_its_verdict_is_reminded_once(tmp_path: Path) -> None:
    def behaviour(asked: Asked, number: int) -> Reply:
        return says("A is nice.") if len(asked.body["messages"]) == 2 else says("[[A>B]]")

    result, asked = judge(behaviour, tmp_path, 1)
    assert (result.grades[0].first, result.grades[0].second) == ("A>B", "A>B")
    assert len(asked) == 4
    longest = max((request.body["messages"] for request in asked), key=len)
    assert [message["role"] for message in longest] == ["system", "user", "assistant", "user"]
    assert longest[2]["content"] == "A is nice."
    assert len(set(result.grades[0].requests)) == 4
    assert {f"{digest}.json" for digest in result.grades[0].requests} == {path.name for path in tmp_path.iterdir()}
    again, asked = judge(behaviour, tmp_path, 1)
    assert again == result
    assert asked == []


def test_a_judge_that_never_gives_a_verdict_is_unparsable_after_one_reminder(tmp_path: Path) -> None:
    result, asked = judge(lambda asked, number: says("I would rather not."), tmp_path, 2)
    assert len(asked) == 8
    assert (result.unparsable, result.without_score) == (4, ("q0", "q1"))


def test_what_a_judge_thinks_aloud_is_not_its_verdict(tmp_path: Path) -> None:
    result, asked = judge(lambda asked, number: says("<think>[[A>B]]? Rather not.</think>[[B>A]]"), tmp_path, 1)
    assert (result.grades[0].first, result.grades[0].second, len(asked)) == ("B>A", "B>A", 2)


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_an_empty_answer_is_unparsable_and_kept(tmp_path: Path, content: str | None) -> None:
    result, asked = judge(lambda asked, number: says(content, finish_reason="length"), tmp_path, 1)
    assert (result.unparsable, len(asked)) == (2, 2)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_same_answers_give_the_same_scores(tmp_path: Path) -> None:
    def behaviour(asked: Asked, number: int) -> Reply:
        return says(("[[A>B]]", "[[A>>B]]", "[[B>A]]", "[[A=B]]", "what?")[sum(asked.user.encode()) % 5])

    lengths = {f"q{n}": (10 + n, 20) for n in range(12)}
    one, _ = judge(behaviour, tmp_path / "one", 12)
    two, _ = judge(behaviour, tmp_path / "two", 12)
    assert one == two
    assert arena_scores(one.grades, lengths, resamples=50) == arena_scores(two.grades, lengths, resamples=50)


def test_an_answer_equal_to_the_baseline_is_asked_about_once_and_ties(tmp_path: Path) -> None:
    same = [PairQuestion("q", "question?", "text", "text")]
    with serving(lambda asked, number: says("[[A>B]]")) as server:
        result = judge_pairs(same, judge_at(server.url), tmp_path, SilentReporter())
    assert len(server.asked) == 1
    assert result.grades[0].score == 0.5


def test_progress_counts_games(tmp_path: Path) -> None:
    class Counting(SilentReporter):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int]] = []

        def progress(self, done: int, total: int, **numbers: float) -> None:
            self.seen.append((done, total))

    reporter = Counting()
    with serving(lambda asked, number: says("[[A=B]]")) as server:
        judge_pairs(questions(3), judge_at(server.url), tmp_path, reporter)
    assert reporter.seen == [(number, 6) for number in range(1, 7)]


def test_questions_without_difference_are_refused(tmp_path: Path) -> None:
    settings = judge_at("http://127.0.0.1:9/v1")
    with pytest.raises(DataError, match="expected questions to judge, got none"):
        judge_pairs([], settings, tmp_path, SilentReporter())
    with pytest.raises(DataError, match="with different ids, got 'q0' twice"):
        judge_pairs([*questions(2), *questions(1)], settings, tmp_path, SilentReporter())
