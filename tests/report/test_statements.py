import json

import pandas as pd

from bai_pipeline.report import summarize
from bai_pipeline.report.statements import hockey_sticks, over_optimized, seeds_and_errors, short_starts


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


Found = tuple[str, str, dict[str, float | None]]
"""init, verdict, evidence of a run."""


def verdicts(detector: str, *found: Found, reason: str = "Why.") -> pd.DataFrame:
    """A run each; a second detector, of other verdicts, must not enter."""
    columns = ["init", "seed", "detector", "verdict", "reason", "evidence"]
    rows = [
        (init, n, detector, verdict, reason, json.dumps(evidence)) for n, (init, verdict, evidence) in enumerate(found)
    ]
    others = [(init, n, "entropy_collapse", "collapsed", "Other.", "{}") for n, (init, _, _) in enumerate(found)]
    return pd.DataFrame([*rows, *others], columns=columns)


def test_over_optimization_is_what_the_detector_says_with_what_was_lost() -> None:
    text = over_optimized(
        verdicts(
            "over_optimization",
            ("paradigm_3", "over_optimized", {"accuracy_loss": 0.31}),
            ("paradigm_3", "over_optimized", {"accuracy_loss": 0.2}),
            ("alpha 0.1", "aligned", {"accuracy_loss": 0.9}),
            ("alpha 0.5", "undetermined", {}),
        )
    )
    assert text.startswith("Score and true accuracy part ways in 2 of 4 runs: Paradigm 3 (2 of 2);")
    assert "undetermined in 1 of 4 runs." in text
    assert "True accuracy fell by 0.20 to 0.31 since its best." in text
    assert "0.9" not in text


def test_a_hockey_stick_and_a_decline_are_what_the_detector_says() -> None:
    text = hockey_sticks(
        verdicts(
            "reward_hockey_stick",
            ("paradigm_3", "hockey_stick", {"decline": 0.45}),
            ("alpha 0.1", "decline", {"decline": 0.3}),
            ("alpha 0.5", "steady", {"decline": 0.01}),
        )
    )
    assert "declined and recovered in 1 of 3 runs: Paradigm 3 (1 of 1)" in text
    assert text.startswith("Declined, with no recovery yet in 1 of 3 runs: alpha 0.1 (1 of 1);")
    assert "fell by 0.30 to 0.45 standard deviations" in text


def test_where_nothing_was_found_nothing_is_warned_of() -> None:
    text = hockey_sticks(verdicts("reward_hockey_stick", ("alpha 0.5", "steady", {"decline": 0.2})))
    assert text == "Steady in 1 of 1 runs."


def test_where_no_run_could_be_judged_for_one_reason_the_reason_is_given() -> None:
    unknown: list[Found] = [(init, "undetermined", {}) for init in ("paradigm_3", "alpha 0.5")]
    text = over_optimized(verdicts("over_optimization", *unknown, reason="True accuracy was not recorded."))
    assert text == "Undetermined in 2 of 2 runs. True accuracy was not recorded."


def test_evidence_that_is_unknown_is_left_out_of_the_numbers() -> None:
    found: list[Found] = [("paradigm_3", "decline", {"decline": value}) for value in (None, 0.4)]
    assert "fell by 0.40 standard deviations" in hockey_sticks(verdicts("reward_hockey_stick", *found))
    assert "fell by" not in hockey_sticks(verdicts("reward_hockey_stick", found[0]))


def test_runs_that_nobody_diagnosed_are_said_not_to_be() -> None:
    for table in (pd.DataFrame(), verdicts("entropy_collapse", ("alpha 0.5", "collapsed", {}))):
        assert over_optimized(table) == hockey_sticks(table) == "No run was diagnosed for it."


def test_one_seed_is_said_to_give_no_error() -> None:
    assert seeds_and_errors(summarize(runs(("a", LONG, FLAT, FLAT), seeds=1))).startswith("One seed per init")
