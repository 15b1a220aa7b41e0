"""Errors of the judge room."""

from bai_pipeline.errors import EvaluationError


class JudgeError(EvaluationError):
    """The judge could not be reached, refused the request or answered what is no completion."""


class BudgetExceeded(EvaluationError):
    """The cap on what a run may spend was reached before the last verdict."""

    def __init__(self, spent: float, budget: float, done: int, missing: int) -> None:
        """Amounts in dollars; `done` verdicts are in the cache, `missing` were not asked for to the end."""
        self.spent = spent
        self.budget = budget
        self.done = done
        self.missing = missing
        super().__init__(
            f"the judge's budget of {budget:.4f} dollars is reached ({spent:.4f} spent in this run): {done} of "
            f"{done + missing} verdicts are done and cached, {missing} are missing; run again with a larger budget to "
            "ask for these only; no score was written"
        )


class Halted(EvaluationError):
    """No further request starts: the run is over its budget, or has failed elsewhere."""
