from math import isnan, sqrt

import numpy as np
import pytest

from bai_pipeline.errors import DataError, EvaluationError
from bai_pipeline.evals.judging import PairGrade, arena_scores, length_controlled

WON = PairGrade("won", "A>>B", "B>>A")
LOST = PairGrade("lost", "B>A", "A>B")


def mirrored(grade: PairGrade) -> PairGrade:
    """The same verdicts with answer and baseline exchanged."""
    return PairGrade(grade.id, grade.second, grade.first)


def simulated(seed: int, count: int, preference: float) -> tuple[list[PairGrade], dict[str, tuple[int, int]]]:
    """Answers mostly longer than the baseline's and as good; P(win) = σ(preference · relative length difference)."""
    generator = np.random.default_rng(seed)
    lengths = {f"q{n}": (int(generator.integers(300, 3000)), int(generator.integers(200, 1200))) for n in range(count)}
    grades = []
    for name, (answer, baseline) in lengths.items():
        chance = 1 / (1 + np.exp(-preference * (answer - baseline) / (answer + baseline)))
        as_a, as_b = generator.random(2) < chance
        grades.append(PairGrade(name, "A>B" if as_a else "B>A", "B>A" if as_b else "A>B"))
    return grades, lengths


def test_the_win_rate_is_weighted_by_the_strength_of_the_verdicts() -> None:
    # 6 of weight won, 2 lost
    scores = arena_scores([WON, LOST])
    assert scores.win_rate.value == pytest.approx(0.75)
    assert (scores.questions, scores.without_score, scores.unparsable, scores.consistency) == (2, 0, 0, 1.0)


def test_consistency_is_the_share_of_orders_that_agree() -> None:
    grades = [
        PairGrade("same winner, other strength", "A>>B", "B>A"),
        PairGrade("the place", "A>B", "A>B"),
        PairGrade("tie and win", "A=B", "B>A"),
        PairGrade("ties", "A=B", "A=B"),
        PairGrade("unknown", "A>B", None),
    ]
    assert arena_scores(grades).consistency == 0.5
    assert isnan(arena_scores(grades[-1:]).consistency)


def test_the_interval_is_of_questions_and_not_of_games() -> None:
    # 400 questions, half won in both games: a question's score has sd 1/2, so the mean's is 1/40, and the percentiles
    # are 1.645 of these away; were games resampled, 800 of them would give 1/(2 sqrt(800))
    grades = [PairGrade(f"q{n}", *(("A>B", "B>A") if n % 2 else ("B>A", "A>B"))) for n in range(400)]
    rate = arena_scores(grades, resamples=4000).win_rate
    assert rate.value == 0.5
    assert rate.stderr == pytest.approx(1 / 40, rel=0.05)
    assert rate.low == pytest.approx(0.5 - 1.645 / 40, abs=0.003)
    assert rate.high == pytest.approx(0.5 + 1.645 / 40, abs=0.003)


def test_with_unequal_weights_the_bootstrap_meets_the_linearized_error_of_a_ratio() -> None:
    generator = np.random.default_rng(3)
    labels = np.array(["A>>B", "A>B", "A=B", "B>A", "B>>A"])
    drawn = generator.choice(labels, (500, 2))
    grades = [PairGrade(f"q{n}", str(first), str(second)) for n, (first, second) in enumerate(drawn)]
    w = np.array([grade.weight for grade in grades])
    x = np.array([grade.score for grade in grades])
    mean = (w * x).sum() / w.sum()
    stderr = sqrt(500 / 499 * (w**2 * (x - mean) ** 2).sum()) / w.sum()
    rate = arena_scores(grades, resamples=4000).win_rate
    assert rate.value == pytest.approx(mean)
    assert rate.stderr == pytest.approx(stderr, rel=0.06)


def test_a_seed_gives_the_same_interval_and_another_one_another() -> None:
    grades, lengths = simulated(0, 40, 2.0)
    assert arena_scores(grades, lengths, resamples=50) == arena_scores(grades, lengths, resamples=50)
    assert arena_scores(grades, lengths, resamples=50, seed=1) != arena_scores(grades, lengths, resamples=50)


def test_one_question_has_no_interval() -> None:
    rate = arena_scores([WON], {"won": (5, 3)}, resamples=2).win_rate
    assert rate.value == 1.0
    assert all(isnan(number) for number in (rate.low, rate.high, rate.stderr))


def test_a_judge_that_loves_length_is_seen_through() -> None:
    grades, lengths = simulated(1, 2000, 4.0)
    scores = arena_scores(grades, lengths, resamples=200)
    control = scores.length_control
    assert control is not None
    assert scores.win_rate.value > 0.7
    assert control.win_rate.value == pytest.approx(0.5, abs=0.04)
    assert control.win_rate.low < 0.5 < control.win_rate.high
    # the coefficient is of one standard deviation: 4 sd of the differences
    differences = [(a - b) / (a + b) for a, b in lengths.values()]
    assert control.coefficient == pytest.approx(4 * np.std(differences), rel=0.1)
    assert control.mean_difference == pytest.approx(np.mean(differences))


def test_a_judge_that_does_not_look_at_length_is_left_as_it_is() -> None:
    grades, lengths = simulated(2, 2000, 0.0)
    scores = arena_scores(grades, lengths, resamples=50)
    assert scores.length_control is not None
    assert scores.length_control.win_rate.value == pytest.approx(scores.win_rate.value, abs=0.04)
    assert abs(scores.length_control.coefficient) < 0.1


@pytest.mark.parametrize("pair", [(100, 100), (0, 0), (300, 100)], ids=["equal", "empty", "always three times as long"])
def test_where_the_length_difference_is_constant_control_changes_nothing(pair: tuple[int, int]) -> None:
    labels = ("A>>B", "A>B", "A=B", "B>A", "B>>A", None)
    grades = [PairGrade(f"q{n}", labels[n % 5], labels[n * n % 6]) for n in range(60)]
    scores = arena_scores(grades, {grade.id: pair for grade in grades}, resamples=100)
    control = scores.length_control
    assert control is not None
    assert control.coefficient == 0.0
    for name in ("value", "low", "high", "stderr"):
        assert getattr(control.win_rate, name) == pytest.approx(getattr(scores.win_rate, name), abs=1e-5)


def test_exchanging_answer_and_baseline_mirrors_both_rates() -> None:
    grades, lengths = simulated(5, 200, 3.0)
    there = arena_scores(grades, lengths, resamples=20)
    back = arena_scores([mirrored(g) for g in grades], {k: (b, a) for k, (a, b) in lengths.items()}, resamples=20)
    assert there.length_control is not None
    assert back.length_control is not None
    assert back.win_rate.value == pytest.approx(1 - there.win_rate.value)
    assert back.length_control.win_rate.value == pytest.approx(1 - there.length_control.win_rate.value)
    assert back.length_control.coefficient == pytest.approx(there.length_control.coefficient)


def test_two_groups_of_opposite_lengths_are_fitted_exactly() -> None:
    # x = ±1 after scaling, log-odds b0 ± b1: with 3/4 won where longer and 1/2 where shorter, b0 = b1 = log(3)/2, and
    # σ(log(3)/2) = √3 / (1 + √3)
    score, weight, difference = np.array([0.75, 0.5]), np.array([4.0, 4.0]), np.array([0.2, -0.2])
    rate, coefficient = length_controlled(score, weight, difference)
    assert rate == pytest.approx(sqrt(3) / (1 + sqrt(3)), abs=1e-5)
    assert coefficient == pytest.approx(np.log(3) / 2, abs=1e-4)


def test_the_fit_is_the_maximum_of_the_weighted_likelihood() -> None:
    grades, lengths = simulated(6, 300, 3.0)
    score = np.array([grade.score for grade in grades])
    weight = np.array([grade.weight * (1 + n % 3) for n, grade in enumerate(grades)])
    difference = np.array([(a - b) / (a + b) for a, b in lengths.values()])
    rate, coefficient = length_controlled(score, weight, difference)
    # at the maximum the residuals are orthogonal to the intercept and to the covariate
    fitted = 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + coefficient * difference / difference.std())))
    assert (weight * (score - fitted)).sum() / weight.sum() == pytest.approx(0.0, abs=1e-5)
    assert (weight * (score - fitted) * difference).sum() / weight.sum() == pytest.approx(0.0, abs=1e-5)


def test_games_that_are_all_won_do_not_diverge() -> None:
    grades = [PairGrade(f"q{n}", "A>>B", "B>>A") for n in range(30)]
    lengths = {f"q{n}": (100 + n, 120) for n in range(30)}
    control = arena_scores(grades, lengths, resamples=50).length_control
    assert control is not None
    assert 0.9999 < control.win_rate.value < 1.0
    # at equal lengths the gradient is 0 where 1 − σ(b) = 1e-6 b, so b = 11.38
    rate, _ = length_controlled(np.ones(30), np.full(30, 6.0), np.zeros(30))
    assert 1 - rate == pytest.approx(1.138e-5, rel=0.01)


def test_lengths_that_separate_wins_from_losses_do_not_diverge() -> None:
    longer = [PairGrade(f"q{n}", *(("A>B", "B>A") if n % 2 else ("B>A", "A>B"))) for n in range(40)]
    lengths = {f"q{n}": (150 + n, 100) if n % 2 else (60 - n, 100) for n in range(40)}
    control = arena_scores(longer, lengths, resamples=50).length_control
    assert control is not None
    assert np.isfinite([control.win_rate.value, control.coefficient, control.win_rate.stderr]).all()
    assert control.coefficient > 1.0


def test_what_cannot_be_scored_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="got 4 games of which none can be read"):
        arena_scores([PairGrade("a", None, None), PairGrade("b", None, None)])
    with pytest.raises(DataError, match="expected the lengths of both answers to question 'lost', got none"):
        arena_scores([WON, LOST], {"won": (1, 2)})
    with pytest.raises(DataError, match="expected lengths of at least 0 for question 'won', got -1 and 2"):
        arena_scores([WON], {"won": (-1, 2)})
