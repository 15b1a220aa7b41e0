"""Which alpha for which goal, and which to train next (`next_alphas`).

The best alpha of a goal has the highest mean over its runs. It is resolved only if it differs from every other alpha
(`standings`: p_holm at most `false_alarms`); otherwise the reason names those that it is tied with. Nothing is resolved
with one seed. What is compared, and of which alphas, see `sweeps.goals_of`.

A difference on a benchmark holds for the benchmark's own questions: the comparisons of the ratio table say whether it
holds for other questions like them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import exp, isnan, nan

import pandas as pd

from bai_pipeline.dynamics.next_alphas import next_alphas
from bai_pipeline.dynamics.sentences import listed
from bai_pipeline.dynamics.standings import Goal, Standing, stand
from bai_pipeline.dynamics.sweeps import AVERAGE, failures, goals_of, runs_of_alphas
from bai_pipeline.dynamics_settings import DynamicsSettings

GOAL_COLUMNS = ["goal", "alpha", "value", "low", "high", "unit", "seeds", "resolved", "tied", "reason"]


@dataclass(frozen=True, eq=False)
class Recommendation:
    """Advice on a sweep."""

    goals: pd.DataFrame
    """goal, alpha (None where none can be compared), value, low, high (NaN where there is no band), unit, seeds (runs
    of the alpha), resolved, tied (alphas, "0.3, 0.7"), reason."""
    next_alphas: pd.DataFrame
    """alpha, reason; an alpha of the grid where more seeds are what is needed."""

    def to_text(self) -> str:
        """Markdown."""
        lines = ["Which alpha for which goal:", ""]
        for line in self.goals.to_dict("records"):
            lines.append(f"- **{line['goal']}**: {line['reason']}")
        lines += ["", "What to train next:", ""]
        lines += [f"- **alpha {line['alpha']}**: {line['reason']}" for line in self.next_alphas.to_dict("records")]
        return "\n".join(lines if len(self.next_alphas) else [*lines, "Nothing: no rule asks for an alpha or a seed."])


def recommend(
    runs: pd.DataFrame,
    verdicts: pd.DataFrame,
    scores: pd.DataFrame | None = None,
    *,
    alphas: Sequence[str],
    settings: DynamicsSettings,
) -> Recommendation:
    """Compare the alphas of a sweep.

    Args:
        runs: `steps` tables of all runs with `init` ("alpha 0.5"; lines of other inits are ignored), seed, and
            optionally chain.
        verdicts: init, seed, detector, verdict, and chain if `runs` has it.
        scores: alpha ("0.5"), seed, benchmark, score (null: not run), stderr, and chain if `runs` has it.
        alphas: the grid, as texts; without runs they are named as absent.
        settings: `false_alarms` is the chance, at most, that a goal tells any alphas apart where none differ; bands
            hold the rest of it.

    Raises:
        DataError: a column is absent, or a line is there twice.
    """
    grid = sorted(alphas, key=Decimal)
    standings = [stand(goal, grid, settings.false_alarms) for goal in goals_of(runs, verdicts, scores, grid)]
    diagnosed = failures(runs_of_alphas(verdicts, grid))
    lines = [_line(standing, diagnosed) for standing in standings]
    if scores is None or not any(s.goal.kind == "benchmark" for s in standings):
        lines.append(_hole(AVERAGE, "score", "No benchmark was scored."))
    goals = pd.DataFrame(lines, columns=GOAL_COLUMNS)
    goals["alpha"] = pd.Series([line["alpha"] for line in lines], dtype=object)  # so that None stays None
    return Recommendation(goals, next_alphas(standings, grid))


def _line(standing: Standing, diagnosed: pd.DataFrame) -> dict[str, object]:
    goal, best = standing.goal, standing.best
    if best is None:
        return _hole(goal.name, goal.unit, f"No alpha can be compared: {_left_out(goal)}.")
    value, (low, high) = standing.means[best], standing.bands[best]
    runs = int((goal.values["alpha"] == best).sum())
    band = "no band" if isnan(low) else f"{1 - standing.level:.0%} band {_shown(goal, low)} to {_shown(goal, high)}"
    times = " times the start" if goal.kind == "log_ratio" else ""
    place = "best" if len(standing.order) > 1 else "the only alpha that can be compared"
    sentences = [
        f"Alpha {best} is {place}: {goal.what} is {_shown(goal, value)}{times} ({band}; {_units(standing, runs)}).",
        *_resolution(standing),
        *_warnings(best, diagnosed),
        *_remarks(standing, best),
    ]
    return {
        "goal": goal.name,
        "alpha": best,
        "value": _scaled(goal, value),
        "low": _scaled(goal, low),
        "high": _scaled(goal, high),
        "unit": goal.unit,
        "seeds": runs,
        "resolved": len(standing.order) > 1 and not standing.tied,
        "tied": ", ".join(standing.tied),
        "reason": " ".join(sentences),
    }


def _hole(name: str, unit: str, reason: str) -> dict[str, object]:
    values = {"value": nan, "low": nan, "high": nan, "unit": unit, "seeds": 0, "resolved": False, "tied": ""}
    return {"goal": name, "alpha": None, **values, "reason": reason}


def _resolution(standing: Standing) -> Iterable[str]:
    """Whether the best is better than the others, in words."""
    best, *others = standing.order
    equal = [other for other in others if standing.means[other] == standing.means[best]]
    unresolved = [other for other in standing.tied if other not in equal]
    if equal:
        yield f"Alpha {listed(equal)} {'is' if len(equal) == 1 else 'are'} equal to it: the first of the grid is named."
    if not others:
        return
    if standing.units < 2:
        yield "With one seed nothing is resolved: any other alpha may be as good."
    elif unresolved:
        yield f"It is not resolved from alpha {listed(unresolved)} {_correction(standing)}."
    elif not equal:
        p = max(standing.p_holm[frozenset((best, other))] for other in others)
        yield f"It is better than every other alpha, p ≤ {p:.2g} {_correction(standing)}."


def _correction(standing: Standing) -> str:
    pairs = len(standing.p_holm)
    return "by the paired test" if pairs == 1 else f"by paired tests, corrected for {pairs} pairs"


def _warnings(best: str, diagnosed: pd.DataFrame) -> Iterable[str]:
    """That runs of the recommended alpha failed, whatever the goal."""
    runs = diagnosed[diagnosed["alpha"] == best]
    failed = runs[runs["failed"] != ""]
    if len(failed):
        kinds = sorted({kind for text in failed["failed"] for kind in text.split(", ")})
        counts = f"{len(failed)} of {len(runs)}"
        most = 2 * len(failed) > len(runs)
        beware = f"Beware: most of its runs failed, {counts}" if most else f"Of its runs, {counts} failed"
        yield f"{beware} ({listed(kinds)})."


def _remarks(standing: Standing, best: str) -> Iterable[str]:
    goal = standing.goal
    expected = _shown(goal, standing.expected)
    if goal.kind != "share" and not isnan(standing.expected) and expected != _shown(goal, standing.means[best]):
        yield (
            f"The best of {len(standing.order)} is picked for being high: by the noise of its runs, "
            f"{expected} is to be expected of new ones."
        )
    if not standing.clustered and standing.units > 1:
        yield "All runs are of one chain: what another base, SFT and reward model would give is not in the band."
    if goal.left_out:
        yield f"Not compared: {_left_out(goal)}."


def _scaled(goal: Goal, value: float) -> float:
    return exp(value) if goal.kind == "log_ratio" else value


def _shown(goal: Goal, value: float) -> str:
    return f"{_scaled(goal, value):.3g}"


def _units(standing: Standing, runs: int) -> str:
    counted = f"{runs} run" + ("s" if runs != 1 else "")
    return f"{counted} of {standing.units} chains" if standing.clustered else counted


def _left_out(goal: Goal) -> str:
    by_reason: dict[str, list[str]] = {}
    for alpha, reason in goal.left_out.items():
        by_reason.setdefault(reason, []).append(alpha)
    return "; ".join(f"alpha {listed(alphas)} ({reason})" for reason, alphas in by_reason.items())
