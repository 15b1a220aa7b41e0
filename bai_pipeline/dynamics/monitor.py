"""Detectors that watch a run while it trains.

Of a step's responses only what the detectors read of them is kept, so that a look costs the same however many responses
a step has: the error of their mean length (`length.length_errors`), and all rows of the first `critic_steps` steps. Of
`prefixes` it is the same, and the buckets that no earlier step had. The verdicts are those over the whole tables.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from bai_pipeline.dynamics import critic, length
from bai_pipeline.dynamics.diagnosis import DETECTORS
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict, undetermined
from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.errors import DataError

Row = Mapping[str, float | int | str | bool | None]

WATCHED = ("length_collapse", "critic_offset")
NEED_ALL_RESPONSES = frozenset({"reward_hockey_stick", "over_optimization"})
"""Detectors that read every response of every step: not for use at each step."""


class Monitor:
    """The verdicts of some detectors on the steps that were observed so far.

    Raises:
        DataError: a detector is unknown, or reads all responses of a run.
    """

    def __init__(self, settings: DynamicsSettings, detectors: Sequence[str] = WATCHED) -> None:
        online = [name for name in DETECTORS if name not in NEED_ALL_RESPONSES]
        wrong = [name for name in detectors if name not in online]
        if wrong:
            raise DataError(f"expected detectors among {', '.join(online)}, got {', '.join(wrong)}")
        self._settings, self._detectors = settings, tuple(detectors)
        self._verdicts: dict[str, Verdict] | None = None
        self._forget()

    def observe(self, step_row: Row, response_rows: Iterable[Row], prefix_rows: Iterable[Row]) -> None:
        """One more step: its row of `steps`, and its rows of `responses` and `prefixes`."""
        responses, prefixes = pd.DataFrame(list(response_rows)), pd.DataFrame(list(prefix_rows))
        self._add(pd.DataFrame([dict(step_row)]), responses, prefixes)

    def resume(self, tables: RunTables) -> None:
        """Start over from the tables of the steps that were recorded."""
        self._forget()
        none = pd.DataFrame()
        self._add(
            tables.steps,
            none if tables.responses is None else tables.responses,
            none if tables.prefixes is None else tables.prefixes,
        )

    def verdicts(self) -> dict[str, Verdict]:
        """By detector, of all steps so far; computed once a step."""
        if self._verdicts is None:
            self._verdicts = {name: self._verdict(name) for name in self._detectors}
        return dict(self._verdicts)

    def _forget(self) -> None:
        self._steps: list[pd.DataFrame] = []
        self._responses: list[pd.DataFrame] = []
        self._prefixes: list[pd.DataFrame] = []
        self._first: list[float] = []
        self._buckets: set[float] = set()
        self._verdicts = None

    def _add(self, steps: pd.DataFrame, responses: pd.DataFrame, prefixes: pd.DataFrame) -> None:
        """Keep new steps, what `length_errors` makes of their responses, and the rows of the first steps."""
        if not responses.empty:
            steps = length.with_length_errors(RunTables(steps, responses))
        room = self._settings.critic_steps - len(self._first)
        self._first += steps["step"].head(max(room, 0)).tolist()
        if not responses.empty:
            self._responses.append(responses[responses["step"].isin(self._first)])
        if not prefixes.empty:
            new = ~prefixes["prefix"].isin(self._buckets) & ~prefixes["prefix"].duplicated()
            self._prefixes.append(prefixes[prefixes["step"].isin(self._first) | new])
            self._buckets |= set(prefixes["prefix"])
        # Of one type, so that a column does not depend on whether its first value was None.
        self._steps = [pd.concat([*self._steps, steps.astype("float64")], ignore_index=True)]
        self._verdicts = None

    def _verdict(self, name: str) -> Verdict:
        if not self._steps:
            return undetermined(name, "No step was observed yet.")
        early = name == critic.DETECTOR
        tables = [
            pd.concat(kept, ignore_index=True) if kept and early else None for kept in (self._responses, self._prefixes)
        ]
        return DETECTORS[name](RunTables.of(self._steps[0], *tables), self._settings)
