"""The plan of successive halving: a short run of every alpha, then longer ones of those that are worth it.

Jamieson and Talwalkar 2016 (arXiv:1502.07943); the rungs are a bracket of Hyperband (Li et al. 2018, arXiv:1603.06560).
With k alphas, T steps, r = `first_step` and η = `factor`, rung i ends at step r η^i, the last one at T, and all that
continue resume from their checkpoints:

    n_0     = k
    n_{i+1} = min(⌊n_i / η⌋, what the budget allows), at least `survivors`
    cost    = Σ n_i (r_i − r_{i−1}) ≤ k T / 2

The budget allows the most alphas with which, after their rung, `survivors` can still be trained to the end. Hyperband's
rule alone keeps to half of the full grid only with four rungs or more. A rung after which none could be dropped is not
made. Seeds multiply both sides.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass

from bai_pipeline.dynamics_settings import HalvingSettings
from bai_pipeline.errors import StudyError


@dataclass(frozen=True)
class Rung:
    """A number of alphas trained up to a step."""

    until_step: int
    alphas: int
    """That are trained up to here."""
    survivors: int
    """That continue, at most; of the last rung all."""


@dataclass(frozen=True)
class Cost:
    """PPO steps over all alphas and seeds."""

    spent: int
    full_grid: int

    @property
    def share(self) -> float:
        return self.spent / self.full_grid


def rungs(alphas: Sized, until_step: int, settings: HalvingSettings) -> tuple[Rung, ...]:
    """The plan: at least two rungs, at most half the steps of the full grid.

    Raises:
        StudyError: no plan costs as little.
    """
    count, least, step = len(alphas), settings.survivors, settings.first_step
    spent = count * step
    if step >= until_step or 2 * (spent + least * (until_step - step)) > count * until_step:
        raise StudyError(_too_dear(count, until_step, settings))
    plan = []
    while step < until_step:
        after = min(until_step, step * settings.factor)
        # Half the full grid, without what is spent and what `least` alphas take from the next rung to the end; doubled.
        room = len(alphas) * until_step - 2 * spent - 2 * least * (until_step - after)
        survivors = max(least, min(count // settings.factor, room // (2 * (after - step))))
        plan.append(Rung(step, count, survivors))
        if survivors == least:
            after = until_step
        spent += survivors * (after - step)
        count, step = survivors, after
    return (*plan, Rung(until_step, count, count))


def cost(rungs_done: Sequence[Rung], alphas: Sized, seeds: Sized, until_step: int) -> Cost:
    """What the rungs took and what the full grid takes.

    Args:
        rungs_done: with the alphas that were trained in each, which may be fewer than planned where some collapsed.
            Runs that ended early count in full.
        alphas, seeds, until_step: of the full grid.
    """
    starts = [0, *(rung.until_step for rung in rungs_done)]
    steps = sum(rung.alphas * (rung.until_step - start) for rung, start in zip(rungs_done, starts, strict=False))
    return Cost(steps * len(seeds), len(alphas) * len(seeds) * until_step)


def _too_dear(count: int, until_step: int, settings: HalvingSettings) -> str:
    least = settings.survivors
    longest = (count - 2 * least) * until_step // (2 * (count - least)) if count > 2 * least else 0
    change = (
        f"first_step must be at most {longest}"
        if longest
        else f"more than {2 * least} alphas, more steps or fewer survivors are needed"
    )
    return (
        f"halving: {count} alphas to step {settings.first_step} and {least} of them to step {until_step} cost more "
        f"than half of the full grid's {count * until_step} steps: {change}; nothing was started"
    )
