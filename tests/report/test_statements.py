import pandas as pd

from bai_pipeline.report import summarize
from bai_pipeline.report.statements import hockey_stick, over_optimisation, seeds_and_errors, short_starts


def runs(
    *rows: tuple[str, list[float], list[float], list[float]], seeds: int = 3, spread: float = 0.01
) -> pd.DataFrame:
    """(init, lengths, scores, accuracies) per step; seed s adds (s - 1) * spread to the later scores and accuracies."""
    tables = []
    for init, lengths, scores, accuracies in rows:
        for seed in range(seeds):
            shift = [0.0] + [(seed - 1) * spread] * (len(scores) - 1)
            table = pd.DataFrame({"step": range(len(scores)), "length_mean": lengths})
            table["score_mean"] = [a + b for a, b in zip(scores, shift, strict=True)]
            table["accuracy"] = [a + b for a, b in zip(accuracies, shift, strict=True)]
            tables.append(table.assign(init=init, seed=seed))
    return pd.concat(tables, ignore_index=True)


FLAT = [0.5] * 5
LONG, SHORT = [60.0] * 5, [20.0] * 5


def test_an_init_below_three_quarters_of_the_reference_starts_short() -> None:
    summary = summarize(
        runs(("paradigm_3", LONG, FLAT, FLAT), ("alpha 0.1", SHORT, FLAT, FLAT), ("alpha 0.5", [50.0] * 5, FLAT, FLAT))
    )
    text = short_starts(summary)
    assert "Paradigm 3 starts at 60.0 tokens" in text
    assert "Below 0.75 of that start: alpha 0.1 (20.0 tokens, 0.33)." in text
    assert "alpha 0.5" not in text


def test_without_the_reference_nothing_is_said_of_short_starts() -> None:
    assert "cannot be said" in short_starts(summarize(runs(("alpha 0.1", SHORT, FLAT, FLAT))))


def test_when_no_init_starts_short_the_report_says_so() -> None:
    summary = summarize(runs(("paradigm_3", LONG, FLAT, FLAT), ("alpha 0.5", LONG, FLAT, FLAT)))
    assert short_starts(summary).endswith("No other init starts below 0.75 of that.")


def test_a_score_that_holds_while_accuracy_falls_is_named() -> None:
    falling, rising = [0.9, 0.8, 0.7, 0.6, 0.5], [0.5, 0.6, 0.7, 0.8, 0.9]
    text = over_optimisation(
        summarize(
            runs(
                ("paradigm_3", LONG, rising, falling),
                ("alpha 0.1", LONG, rising, rising),
                ("alpha 0.5", LONG, falling, falling),
            )
        )
    )
    assert "It holds for Paradigm 3 (score 0.50 → 0.90" in text
    assert "alpha" not in text


def test_a_fall_within_two_standard_errors_is_not_named() -> None:
    # accuracy changes by -0.1 with standard error 0.1 / sqrt(3) = 0.058: 1.7 errors
    summary = summarize(runs(("paradigm_3", LONG, FLAT, [0.5, 0.5, 0.5, 0.5, 0.4]), spread=0.1))
    assert over_optimisation(summary).endswith("It holds for no init.")


def test_accuracy_that_was_not_recorded_is_said_to_be_missing() -> None:
    assert "not recorded" in over_optimisation(summarize(runs(("a", LONG, FLAT, FLAT)).drop(columns="accuracy")))


def test_a_hockey_stick_needs_an_early_fall_and_a_recovery() -> None:
    stick, drop, rise = [0.5, 0.1, 0.2, 0.4, 0.8], [0.5, 0.1, 0.1, 0.1, 0.1], [0.5, 0.6, 0.7, 0.8, 0.9]
    text = hockey_stick(
        summarize(
            runs(("paradigm_3", LONG, stick, FLAT), ("alpha 0.1", LONG, drop, FLAT), ("alpha 0.5", LONG, rise, FLAT))
        )
    )
    assert "It holds for Paradigm 3 (by +0.400 ± 0.006)." in text
    assert hockey_stick(summarize(runs(("a", LONG, rise, FLAT)))).endswith("It holds for no init.")


def test_a_single_step_shows_no_dip() -> None:
    assert "No run has a second step" in hockey_stick(summarize(runs(("a", [1.0], [0.5], [0.5]))))


def test_one_seed_is_said_to_give_no_error() -> None:
    assert seeds_and_errors(summarize(runs(("a", LONG, FLAT, FLAT), seeds=1))).startswith("One seed per init")


def test_what_one_seed_shows_is_named_as_possible_noise() -> None:
    stick, falling = [0.5, 0.1, 0.2, 0.4, 0.8], [0.9, 0.8, 0.7, 0.6, 0.5]
    summary = summarize(runs(("paradigm_3", LONG, stick, falling), seeds=1))
    for text in (hockey_stick(summary), over_optimisation(summary)):
        assert "It holds for no init. With one seed, and so no error to compare with: Paradigm 3" in text
