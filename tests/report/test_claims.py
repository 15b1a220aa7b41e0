"""Statuses on constructed worlds: one in which the paper is right in everything, and changes to it."""

from collections.abc import Mapping, Sequence
from math import isnan, log
from typing import Any

import pandas as pd
import pytest

from bai_pipeline.report.claims import CLAIMS, FINDINGS, Claim, Criterion
from bai_pipeline.report.contrasts import Contrast, Interval, Setting
from bai_pipeline.report.judgements import (
    FAILS,
    HOLDS,
    NO_DATA,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    ONE_CHAIN,
    OPEN,
    REPRODUCED,
    Judgement,
    answer,
    judge,
    table_of,
)
from bai_pipeline.report.run_numbers import QUANTITIES

World = Mapping[str, Mapping[str, float]]
"""init → quantity → value, logarithms undone."""
FACTORS = {name for name, quantity in QUANTITIES.items() if quantity.unit == "factor"}
BAI = "alpha 0.5"

RIGHT: World = {
    "paradigm_1": {"length": 1.5, "benchmark": 0.5, "length_next": 1.1},
    "paradigm_3": {
        "length": 0.6,
        "length_early": 0.7,
        "length_next": 0.8,
        "decline": 0.5,
        "recovery": 0.4,
        "kl": 0.003,
        "kl_volatility": 0.6,
        "benchmark": 0.4,
        "score_change": 0.1,
        "accuracy_change": -0.3,
        "accuracy_end": 0.4,
    },
    BAI: {
        "length": 1.2,
        "length_first_half": 1.1,
        "length_second_half": 1.09,
        "length_next": 1.1,
        "decline": 0.1,
        "kl": 0.001,
        "kl_volatility": 0.2,
        "benchmark": 0.8,
        "worse_side": 0.9,
        "accuracy_change": -0.05,
        "accuracy_end": 0.7,
    },
    "alpha 0.1": {"worse_side": 0.6, "length_next": 1.1},
    "alpha 0.9": {"worse_side": 0.5, "length_next": 1.1},
    "reasoning_sft": {"benchmark": 0.6},
}
BETTER: World = {
    "paradigm_3": {"accuracy_end": 0.6, "length_early": 1.1},
    BAI: {"accuracy_end": 0.9},
}
"""What calibration, a KL penalty and a verifiable reward change of it."""
WRONG: Mapping[str, World] = {
    "length_collapse": {"paradigm_3": {"length": 0.95}},
    "collapse_is_specific": {"paradigm_1": {"length": 0.5}},
    "bai_resolves_collapse": {BAI: {"length": 0.55}},
    "bai_length_grows": {BAI: {"length_second_half": 0.9}},
    "hockey_stick": {"paradigm_3": {"decline": 0.02}},
    "bai_mitigates_hockey_stick": {BAI: {"decline": 0.7}},
    "kl_level": {BAI: {"kl": 0.004}},
    "kl_volatility": {BAI: {"kl_volatility": 0.9}},
    "rlhf_hurts_reasoning": {"paradigm_3": {"benchmark": 0.7}},
    "bai_scores_best": {"paradigm_1": {"benchmark": 0.85}},
    "balanced_ratios": {"alpha 0.1": {"worse_side": 0.95}},
    "over_optimization": {"paradigm_3": {"score_change": -0.5}},
    "bai_softens_over_optimization": {BAI: {"accuracy_change": -0.4}},
    "critic_announces_shortening": {"paradigm_3": {"length_next": 1.3}},
    "calibration_lengthens": {"paradigm_3": {"length_early": 0.5}},
    "kl_penalty_keeps_accuracy": {BAI: {"accuracy_end": 0.6}},
    "verifiable_reward_keeps_accuracy": {"paradigm_3": {"accuracy_end": 0.2}},
}
"""For each claim, what refutes it; the last three in their own setting."""
TESTABLE = [claim for claim in (*CLAIMS, *FINDINGS) if not claim.untestable]
IDS = [claim.id for claim in TESTABLE]


def changed(world: World, change: World) -> World:
    return {init: {**world.get(init, {}), **change.get(init, {})} for init in {**world, **change}}


def setting(
    world: World, name: str = "micro", chains: Sequence[int] = (0, 1, 2), spread: tuple[str, str, float] | None = None
) -> Setting:
    """Two seeds a chain; `spread` (init, quantity, size) pulls the chains' values of one quantity apart."""
    rows = []
    for chain in chains:
        for init, values in world.items():
            seeds = (-1,) if init == "reasoning_sft" else (0, 1)
            for seed in seeds:
                row: dict[str, object] = {"chain": chain, "init": init, "seed": seed}
                for quantity, value in values.items():
                    number = (log(value) if quantity in FACTORS else value) + 0.004 * (chain - 1) + 0.002 * seed
                    if spread is not None and spread[:2] == (init, quantity):
                        number += spread[2] * (chain - 1)
                    row[quantity] = number
                called = "underestimates_long_prefixes" if init == "paradigm_3" else "calibrated"
                rows.append(row | ({"verdict critic_offset": called} if "length_next" in values else {}))
    return Setting(
        name, BAI, pd.DataFrame(rows, columns=["chain", "init", "seed", *QUANTITIES, "verdict critic_offset"])
    )


def found_in(claim: Claim, change: World | None = None, reference: World | None = None, **options: Any) -> Judgement:
    """The claim in a world with `change`: in micro, or in its own setting beside a micro of the world `reference`."""
    needed = [other for other in CLAIMS if other.id == claim.premise] + [claim]
    if not claim.settings:
        return judge({"micro": setting(changed(RIGHT, change or {}), **options)}, needed)[-1]
    world = changed(changed(RIGHT, BETTER), change or {})
    own = claim.settings[0]
    both = {"micro": setting(reference or RIGHT, chains=options.get("chains", (0, 1, 2)))}
    return judge(both | {own: setting(world, own, **options)}, needed)[-1]


def named(name: str) -> Claim:
    (found,) = (claim for claim in (*CLAIMS, *FINDINGS) if claim.id == name)
    return found


@pytest.mark.parametrize("claim", TESTABLE, ids=IDS)
def test_where_the_paper_is_right_a_claim_is_reproduced(claim: Claim) -> None:
    found = found_in(claim)
    assert (found.status, found.reason) == (REPRODUCED, ""), found.sentence
    assert [m.answer for m in found.measured] == [HOLDS] * len(claim.criteria)


@pytest.mark.parametrize("claim", TESTABLE, ids=IDS)
def test_where_the_opposite_was_found_it_is_not_reproduced(claim: Claim) -> None:
    found = found_in(claim, WRONG[claim.id])
    assert (found.status, found.reason) == (NOT_REPRODUCED, ""), found.sentence
    assert FAILS in [m.answer for m in found.measured]


@pytest.mark.parametrize("claim", TESTABLE, ids=IDS)
def test_where_chains_disagree_it_is_not_testable(claim: Claim) -> None:
    ((init, values),) = WRONG[claim.id].items()
    (quantity,) = values
    found = found_in(claim, spread=(init, quantity, 3.0))
    assert (found.status, found.reason) == (NOT_TESTABLE, "the interval holds both answers"), found.sentence
    assert {m.answer for m in found.measured} <= {OPEN, HOLDS}


@pytest.mark.parametrize("claim", TESTABLE, ids=IDS)
def test_one_chain_decides_nothing(claim: Claim) -> None:
    found = found_in(claim, chains=(0,))
    assert (found.status, found.reason) == (NOT_TESTABLE, ONE_CHAIN)
    assert "no interval" in found.sentence
    assert all(isnan(m.interval.low) and isnan(m.interval.high) for m in found.measured)


@pytest.mark.parametrize("claim", TESTABLE, ids=IDS)
def test_without_any_run_there_is_no_number(claim: Claim) -> None:
    names = {"micro", *claim.settings}
    found = judge({name: setting({}, name) for name in sorted(names)}, [claim])[-1]
    assert (found.status, found.reason) == (NOT_TESTABLE, NO_DATA)
    assert all(isnan(m.interval.effect) and m.runs == 0 for m in found.measured)
    assert "not run" in found.sentence or "no chain has runs" in found.sentence


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.untestable], ids=lambda claim: claim.id)
def test_what_no_result_could_decide_is_never_decided(claim: Claim) -> None:
    for world, chains in ((RIGHT, (0, 1, 2)), (RIGHT, (0,)), ({}, ())):
        (found,) = judge({"micro": setting(world, chains=chains)}, [claim])
        assert (found.status, found.reason) == (NOT_TESTABLE, claim.untestable)


def test_every_claim_has_a_name_of_its_own_and_a_known_premise_before_it() -> None:
    ids = [claim.id for claim in (*CLAIMS, *FINDINGS)]
    assert len(set(ids)) == len(ids)
    assert all(ids.index(claim.premise) < ids.index(claim.id) for claim in (*CLAIMS, *FINDINGS) if claim.premise)
    assert all(bool(claim.criteria) != bool(claim.untestable) for claim in (*CLAIMS, *FINDINGS))
    assert all(claim.of_paper == (claim in CLAIMS) for claim in (*CLAIMS, *FINDINGS))


def test_where_nothing_collapses_there_is_nothing_to_resolve() -> None:
    for name in ("collapse_is_specific", "bai_resolves_collapse"):
        found = found_in(named(name), WRONG["length_collapse"])
        assert found.status == NOT_TESTABLE
        assert found.reason == "its premise length_collapse was not reproduced here"


def test_a_shorter_bai_refutes_nothing_where_nothing_collapsed() -> None:
    found = found_in(named("bai_resolves_collapse"), {"paradigm_3": {"length": 1.3}, BAI: {"length": 1.1}})
    assert [m.answer for m in found.measured] == [HOLDS, FAILS]
    assert found.status == NOT_TESTABLE


def test_a_bai_that_collapses_itself_is_not_reproduced_even_without_the_premise() -> None:
    found = found_in(named("bai_resolves_collapse"), {"paradigm_3": {"length": 0.95}, BAI: {"length": 0.5}})
    assert (found.status, found.reason) == (NOT_REPRODUCED, "")


def test_a_failed_criterion_weighs_more_than_a_missing_one() -> None:
    world = {init: values for init, values in RIGHT.items() if init != "reasoning_sft"}
    worse = changed(world, WRONG["bai_scores_best"])
    found = [judge({"micro": setting(w)}, [named("bai_scores_best")])[0] for w in (world, worse)]
    assert [(j.status, j.reason) for j in found] == [(NOT_TESTABLE, NO_DATA), (NOT_REPRODUCED, "")]


def test_a_finding_about_two_settings_needs_both() -> None:
    alone = {"micro-kl": setting(changed(RIGHT, BETTER), "micro-kl")}
    (found,) = judge(alone, [named("kl_penalty_keeps_accuracy")])
    assert (found.status, found.reason) == (NOT_TESTABLE, NO_DATA)
    assert "the setting micro was not run" in found.sentence


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [(0.1, 0.3, HOLDS, FAILS), (-0.3, -0.1, FAILS, HOLDS), (-0.1, 0.1, OPEN, OPEN), (0.0, 0.0, OPEN, OPEN)],
)
def test_the_side_of_the_whole_interval_answers(low: float, high: float, above: str, below: str) -> None:
    found = Interval((low + high) / 2, low, high, 3)
    assert (answer(found, "above", 0.0), answer(found, "below", 0.0)) == (above, below)


def test_the_threshold_of_a_factor_is_a_factor() -> None:
    claim = Claim("c", "s", "w", (Criterion(Contrast("length", "paradigm_3"), "below", 0.8),))
    for length, status in ((0.7, REPRODUCED), (0.9, NOT_REPRODUCED)):
        (found,) = judge({"micro": setting({"paradigm_3": {"length": length}})}, [claim])
        assert found.status == status
        assert f"{length:.2f} [" in found.sentence


def test_counts_of_verdicts_are_told_and_decide_nothing() -> None:
    here = setting(RIGHT)
    verdicts = ["collapsed", "healthy", "undetermined", "collapsed", "healthy", "healthy"]
    numbers = here.numbers.assign(**{"verdict length_collapse": None})
    numbers.loc[numbers["init"] == "paradigm_3", "verdict length_collapse"] = verdicts
    found = judge({"micro": Setting("micro", BAI, numbers)}, CLAIMS[:1])[0]
    assert found.status == REPRODUCED
    assert found.counts == "length_collapse calls 2 of 6 runs of Paradigm 3 collapsed (1 undetermined)"


def test_the_table_has_a_line_per_criterion_and_a_sentence_per_claim() -> None:
    table = table_of(judge({"micro": setting(RIGHT)}))
    lines = table[table["claim"] == "bai_resolves_collapse"]
    assert lines["effect"].tolist() == pytest.approx([1.2, 2.0], rel=0.01)
    assert lines["chains"].tolist() == [3, 3]
    assert lines["runs"].tolist() == [6, 6]
    assert lines["threshold"].tolist() == [0.8, 1.0]
    (sentence,) = lines["sentence"].unique()
    assert sentence.startswith("reproduced: length, end over start, BAI: 1.20 [")
    assert set(table["source"]) == {"paper", "own"}
    assert table["status"].notna().all()


def test_an_exact_tie_with_the_threshold_stays_open() -> None:
    claim = Claim("c", "s", "w", (Criterion(Contrast("decline", "paradigm_3"), "above", 0.1),))
    rows = [{"chain": c, "init": "paradigm_3", "seed": 0, "decline": 0.1} for c in range(3)]
    (found,) = judge({"micro": Setting("micro", BAI, pd.DataFrame(rows))}, [claim])
    assert found.reason == "the interval holds both answers"
