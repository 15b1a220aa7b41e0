"""Effects over independent chains, with their intervals.

The PPO seeds of a chain share its base, its SFT models and its reward model: they are repeated measurements of one
initialization, not independent replicates of the experiment. What differs between chains (which facts a base learned,
what its reward model mistakes) would be no part of an error over seeds, and such an error would shrink with more PPO
seeds of the same chain without the experiment having been repeated once. So each chain c gives one value, the mean
over its seeds, and with C chains

    x_c = mean_s x_cs,    effect = mean_c x_c,    interval = effect ± t_{0.975, C−1} √(Σ_c (x_c − effect)² / (C−1) / C)

Student's t takes the chains' values as normal. Three chains have two degrees of freedom, t = 4.30: the interval is wide
because three chains say little. One chain has no interval.

A difference is taken seed by seed where both sides have the chain and the seed; an untrained model stands beside every
seed of its chain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, nan, sqrt
from typing import Protocol

import pandas as pd

from bai_pipeline.dynamics.standings import t_quantile
from bai_pipeline.dynamics.verdicts import UNDETERMINED
from bai_pipeline.report.colours import display_name
from bai_pipeline.report.run_numbers import FACTOR, QUANTITIES
from bai_pipeline.report.setting_results import UNTRAINED

LEVEL = 0.95
HEADLINE = "BAI"
"""Stands for the init of the headline alpha."""


def name_of(side: str) -> str:
    """How an init, a model or BAI is called."""
    return side if side == HEADLINE else display_name(side).replace(" sft", " SFT")


@dataclass(frozen=True)
class Setting:
    """The runs of a setting as numbers."""

    name: str
    headline: str
    """The init that HEADLINE stands for."""
    numbers: pd.DataFrame
    """Made by `run_numbers`."""

    def init(self, side: str) -> str:
        return self.headline if side == HEADLINE else side

    def label(self, side: str) -> str:
        """How a side is called: "BAI (alpha 0.5)"."""
        return f"{HEADLINE} ({self.headline})" if side == HEADLINE else name_of(side)

    def values(self, side: str, quantity: str) -> "pd.Series[float]":
        """By chain and seed, without NaN."""
        rows = self.numbers[self.numbers["init"] == self.init(side)]
        return rows.set_index(["chain", "seed"])[quantity].astype("float64").dropna()

    def absent(self, side: str, quantity: str) -> str:
        """Why there are no such values; "" where there are some."""
        if not bool((self.numbers["init"] == self.init(side)).any()):
            return f"{self.label(side)} was not run in {self.name}"
        if self.values(side, quantity).empty:
            return f"{QUANTITIES[quantity].words}: not recorded for {self.label(side)} in {self.name}"
        return ""


@dataclass(frozen=True)
class PerChain:
    """One value per chain."""

    values: "pd.Series[float]"
    """By chain; without NaN."""
    runs: int
    """Runs, or pairs of runs, that the values are means of."""
    absent: str
    """Why there is no value; "" where there is one."""


@dataclass(frozen=True)
class Interval:
    """An effect over chains; NaN where there are too few chains."""

    effect: float
    low: float
    high: float
    chains: int

    def shown(self, unit: str) -> "Interval":
        """Without the logarithm, where `unit` is FACTOR."""
        if unit != FACTOR:
            return self
        return Interval(exp(self.effect), exp(self.low), exp(self.high), self.chains)


def interval(values: "pd.Series[float]") -> Interval:
    """Mean over chains and its 95 % interval."""
    count = len(values)
    if count == 0:
        return Interval(nan, nan, nan, 0)
    mean = float(values.mean())
    if count == 1:
        return Interval(mean, nan, nan, 1)
    half = t_quantile((1 + LEVEL) / 2, count - 1) * float(values.std(ddof=1)) / sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


class Effect(Protocol):
    """What a criterion is about."""

    @property
    def quantity(self) -> str:
        """A key of QUANTITIES."""

    def per_chain(self, settings: Mapping[str, Setting], setting: str) -> PerChain:
        """One value per chain of the setting, logarithms not undone."""

    @property
    def is_difference(self) -> bool:
        """Whether its sign says something: a difference, or a change within runs."""

    def words(self) -> str:
        """What is measured, for a sentence."""

    def equation(self) -> str:
        """The same as mathematics."""


@dataclass(frozen=True)
class Contrast:
    """A quantity of an init; less that of another init, or less that of the same init in another setting."""

    quantity: str
    of: str
    minus: str | None = None
    reference: str | None = None
    """A setting."""

    def per_chain(self, settings: Mapping[str, Setting], setting: str) -> PerChain:
        here = settings[setting]
        other = settings.get(self.reference) if self.reference else here
        if other is None:
            return _none(f"the setting {self.reference} was not run")
        against = self.of if self.reference else self.minus
        absent = here.absent(self.of, self.quantity)
        if not absent and against is not None:
            absent = other.absent(against, self.quantity)
        if absent:
            return _none(absent)
        values = here.values(self.of, self.quantity)
        if against is not None:
            base = other.values(against, self.quantity)
            if other.init(against) in UNTRAINED:
                base = base.droplevel("seed").reindex(values.index, level="chain")
            values = (values - base).dropna()
        if values.empty:
            return _none("no chain and seed has both sides")
        return PerChain(values.groupby("chain").mean(), len(values), "")

    @property
    def is_difference(self) -> bool:
        return QUANTITIES[self.quantity].is_change or self.minus is not None or self.reference is not None

    def words(self) -> str:
        against = f" against {name_of(self.minus)}" if self.minus else ""
        against += f" against {self.reference}" if self.reference else ""
        return f"{QUANTITIES[self.quantity].words}, {name_of(self.of)}{against}"

    def equation(self) -> str:
        other = f" − x[{self.minus}]" if self.minus else ""
        other += f" − x[{self.of}, {self.reference}]" if self.reference else ""
        return f"x[{self.of}]{other}, x = {QUANTITIES[self.quantity].equation}"


@dataclass(frozen=True)
class Announcement:
    """A quantity of the runs that a detector calls `verdict`, less that of the runs that it calls otherwise.

    Means over the runs of a chain, of all inits; a chain that has not both kinds gives no value.
    """

    quantity: str
    detector: str
    verdict: str

    def per_chain(self, settings: Mapping[str, Setting], setting: str) -> PerChain:
        table, column = settings[setting].numbers, f"verdict {self.detector}"
        if column not in table.columns:
            return _none(f"there are no verdicts of {self.detector}")
        known = table[table[column].notna() & (table[column] != UNDETERMINED)].dropna(subset=[self.quantity])
        called = known[column] == self.verdict
        means = [known[kind].groupby("chain")[self.quantity].mean() for kind in (called, ~called)]
        values = (means[0] - means[1]).dropna()
        if values.empty:
            return _none(f"no chain has runs that {self.detector} calls {self.verdict} and others")
        return PerChain(values, int(known["chain"].isin(values.index).sum()), "")

    @property
    def is_difference(self) -> bool:
        return True

    def words(self) -> str:
        called = f"runs that {self.detector} calls {self.verdict}"
        return f"{QUANTITIES[self.quantity].words}, {called} against the chain's other runs"

    def equation(self) -> str:
        return f"x[{self.verdict}] − x[others], all inits, x = {QUANTITIES[self.quantity].equation}"


def _none(reason: str) -> PerChain:
    return PerChain(pd.Series(dtype="float64"), 0, reason)
