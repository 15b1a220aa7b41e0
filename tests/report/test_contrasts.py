import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bai_pipeline.report.contrasts import HEADLINE, Announcement, Contrast, Interval, Setting, interval
from bai_pipeline.report.run_numbers import FACTOR


def setting(rows: list[dict[str, Any]], name: str = "micro") -> dict[str, Setting]:
    return {name: Setting(name, "alpha 0.5", pd.DataFrame(rows))}


def row(chain: int, init: str, seed: int, value: float, **more: Any) -> dict[str, Any]:
    return {"chain": chain, "init": init, "seed": seed, "length": value, **more}


def test_the_interval_of_three_chains_is_students_with_two_degrees_of_freedom() -> None:
    found = interval(pd.Series([1.0, 2.0, 3.0]))
    half = 4.302653 / math.sqrt(3)  # t_{0.975, 2} from a table, times sd 1 / √3
    assert (found.effect, found.chains) == (2.0, 3)
    assert [found.low, found.high] == pytest.approx([2 - half, 2 + half], abs=1e-5)


def test_one_chain_has_an_effect_and_no_interval() -> None:
    found = interval(pd.Series([2.0]))
    assert (found.effect, found.chains) == (2.0, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_chain_has_nothing() -> None:
    assert math.isnan(interval(pd.Series(dtype="float64")).effect)


def test_a_factor_is_shown_without_its_logarithm() -> None:
    shown = Interval(math.log(2), 0.0, math.log(4), 3).shown(FACTOR)
    assert [shown.effect, shown.low, shown.high] == pytest.approx([2.0, 1.0, 4.0])
    assert Interval(2.0, 0.0, 4.0, 3).shown("sd").effect == 2.0


def test_more_seeds_of_the_same_chains_do_not_narrow_the_interval() -> None:
    few = setting([row(c, "paradigm_3", s, c) for c in range(3) for s in range(1)])
    many = setting([row(c, "paradigm_3", s, c) for c in range(3) for s in range(9)])
    found = [interval(Contrast("length", "paradigm_3").per_chain(study, "micro").values) for study in (few, many)]
    assert found[0] == found[1]


def test_a_chain_with_more_seeds_weighs_no_more_than_another() -> None:
    rows = [row(0, "paradigm_3", s, 1.0) for s in range(9)] + [row(1, "paradigm_3", 0, 3.0)]
    found = Contrast("length", "paradigm_3").per_chain(setting(rows), "micro")
    assert (float(found.values.mean()), found.runs) == (2.0, 10)


def test_what_a_chain_does_to_both_sides_cancels_in_a_difference() -> None:
    rows = [row(c, init, s, 10.0 * c + s + (init == "alpha 0.5")) for c in range(3) for s in range(2) for init in SIDES]
    found = Contrast("length", HEADLINE, "paradigm_3").per_chain(setting(rows), "micro")
    assert found.values.tolist() == [1.0, 1.0, 1.0]
    assert found.runs == 6


SIDES = ("paradigm_3", "alpha 0.5")


def test_seeds_that_one_side_lacks_are_in_no_difference() -> None:
    rows = [row(0, "alpha 0.5", 0, 5.0), row(0, "alpha 0.5", 1, 100.0), row(0, "paradigm_3", 0, 2.0)]
    found = Contrast("length", HEADLINE, "paradigm_3").per_chain(setting(rows), "micro")
    assert (found.values.tolist(), found.runs) == ([3.0], 1)


def test_an_untrained_model_stands_beside_every_seed_of_its_chain() -> None:
    rows = [row(c, "paradigm_3", s, 10.0 * c + s) for c in range(2) for s in range(3)]
    rows += [row(0, "reasoning_sft", -1, 1.0), row(1, "reasoning_sft", -1, 2.0)]
    found = Contrast("length", "paradigm_3", "reasoning_sft").per_chain(setting(rows), "micro")
    assert (found.values.tolist(), found.runs) == ([0.0, 9.0], 6)


def test_another_setting_is_paired_by_chain_and_seed() -> None:
    here = setting([row(c, "paradigm_3", s, 2.0 + c + s) for c in range(2) for s in range(2)], "micro-kl")
    there = setting([row(c, "paradigm_3", s, 1.0 + c + s) for c in range(2) for s in range(2)])
    contrast = Contrast("length", "paradigm_3", reference="micro")
    assert contrast.per_chain(here | there, "micro-kl").values.tolist() == [1.0, 1.0]
    assert contrast.per_chain(here, "micro-kl").absent == "the setting micro was not run"


def test_what_is_absent_is_named() -> None:
    study = setting([row(0, "paradigm_3", 0, math.nan)])
    assert "not recorded for Paradigm 3" in Contrast("length", "paradigm_3").per_chain(study, "micro").absent
    absent = Contrast("length", HEADLINE).per_chain(study, "micro").absent
    assert absent == "BAI (alpha 0.5) was not run in micro"
    both = [row(0, "paradigm_3", 0, 1.0), row(1, "alpha 0.5", 0, 1.0)]
    absent = Contrast("length", HEADLINE, "paradigm_3").per_chain(setting(both), "micro").absent
    assert absent == "no chain and seed has both sides"


def test_an_announcement_compares_runs_within_a_chain() -> None:
    def run(chain: int, seed: int, value: float, verdict: str) -> dict[str, Any]:
        return row(chain, "alpha 0.5", seed, value, **{"verdict critic_offset": verdict})

    rows = [run(0, 0, -0.5, "under"), run(0, 1, 0.1, "calibrated"), run(0, 2, 0.3, "over")]
    rows += [run(1, 0, -0.2, "under"), run(1, 1, 0.0, "calibrated"), run(1, 2, 9.0, "undetermined")]
    rows += [run(2, 0, 1.0, "calibrated")]  # of one kind only
    found = Announcement("length", "critic_offset", "under").per_chain(setting(rows), "micro")
    assert found.values.tolist() == pytest.approx([-0.7, -0.2])
    assert (list(found.values.index), found.runs) == ([0, 1], 5)


def test_without_verdicts_nothing_was_announced() -> None:
    found = Announcement("length", "critic_offset", "under").per_chain(setting([row(0, "a", 0, 1.0)]), "micro")
    assert found.absent == "there are no verdicts of critic_offset"


def test_the_interval_covers_the_truth_as_often_as_it_says_and_one_over_runs_would_not() -> None:
    """Chains differ by sd 1, seeds of a chain by 0.1, three of each."""
    generator = np.random.default_rng(0)
    covered = {"chains": 0, "runs": 0}
    for _ in range(1000):
        runs = generator.normal(size=(3, 1)) + 0.1 * generator.normal(size=(3, 3))
        for over, values in (("chains", runs.mean(axis=1)), ("runs", runs.ravel())):
            found = interval(pd.Series(values))
            covered[over] += found.low < 0 < found.high
    assert 930 <= covered["chains"] <= 970
    assert covered["runs"] < 800
