"""What a run makes of its own dynamics while it trains."""

from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from bai_pipeline.dynamics.monitor import Monitor
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import UNDETERMINED, Verdict
from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.ppo.metrics import MetricsTables
from bai_pipeline.ppo.records import StepRecord
from bai_pipeline.progress import Reporter

OnCollapse = Literal["observe", "warn", "stop"]

COLLAPSE, COLLAPSED = "length_collapse", "collapsed"
CHECK = "no_length_collapse"


@dataclass(frozen=True)
class WatchRule:
    """By which thresholds a run is watched, and what follows from a collapse of its lengths."""

    on_collapse: OnCollapse = "observe"
    settings: DynamicsSettings = field(default_factory=DynamicsSettings)


class Watch:
    """The detectors over the steps so far; on the first rank only, where the tables are."""

    def __init__(self, rule: WatchRule, report: Reporter) -> None:
        self._rule, self._report = rule, report
        self._monitor = Monitor(rule.settings)
        self._said: dict[str, str] = {}

    def resume(self, tables: MetricsTables) -> None:
        """Take over the steps that `tables` hold."""
        steps = pd.DataFrame(tables.rows("steps"))
        if not steps.empty:
            others = (pd.DataFrame(tables.rows(name)) for name in ("responses", "prefixes"))
            self._monitor.resume(RunTables.of(steps, *others))
            self._said = {name: verdict.verdict for name, verdict in self._monitor.verdicts().items()}

    def observe(self, record: StepRecord) -> None:
        """Look at one more step, and say in the log what has changed if the rule wants that."""
        self._monitor.observe(record.steps, record.responses, record.prefixes)
        for name, verdict in self._monitor.verdicts().items():
            if self._said.get(name, UNDETERMINED) != verdict.verdict and self._rule.on_collapse != "observe":
                self._report.log(f"{name}: {verdict.verdict}. {verdict.reason}")
            self._said[name] = verdict.verdict

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """What the detectors say now."""
        return self._monitor.verdicts()

    @property
    def reason_to_stop(self) -> str | None:
        """Why the run is to end here, if it is."""
        if self._rule.on_collapse != "stop" or self._said.get(COLLAPSE) != COLLAPSED:
            return None
        return self.verdicts[COLLAPSE].reason

    def check(self) -> None:
        """Report whether the lengths have collapsed as a check; only a run that stops for it fails by it."""
        verdict = self.verdicts[COLLAPSE]
        self._report.check(
            CHECK,
            verdict.verdict != COLLAPSED,
            severity="error" if self._rule.on_collapse == "stop" else "warn",
            verdict=verdict.verdict,
            reason=verdict.reason,
        )
