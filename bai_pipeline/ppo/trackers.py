"""Experiment trackers: where the numbers of a run go beside its own tables. They change nothing of the run.

Weights & Biases and MLflow are no dependencies of this package: who asks for one installs it beside.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from bai_pipeline.errors import TrainingError

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


class Tracker(Protocol):
    """One tracker of one run."""

    def log(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """The readings of a step, by names such as `steps/score_mean`, and texts to read."""

    def close(self) -> None:
        """Write what is buffered."""


class TensorBoard:
    """Event files below the run's own directory."""

    def __init__(self, directory: Path, run: str, settings: Mapping[str, Any], start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory / "tensorboard"), purge_step=start or None)

    def log(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        for name, text in texts.items():
            self._writer.add_text(name, text, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; its own environment variables (WANDB_PROJECT, WANDB_MODE, …) say where."""

    def __init__(self, directory: Path, run: str, settings: Mapping[str, Any], start: int) -> None:
        self._wandb: Any = import_module("wandb")
        self._run = self._wandb.init(name=run, id=run, resume="allow", config=dict(settings), dir=str(directory))

    def log(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        pages = {name: self._wandb.Html(f"<pre>{text}</pre>") for name, text in texts.items()}
        self._run.log({**numbers, **pages}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow; its own environment variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, …) say where."""

    def __init__(self, directory: Path, run: str, settings: Mapping[str, Any], start: int) -> None:
        self._mlflow: Any = import_module("mlflow")
        note = directory / "mlflow_run"
        known = note.read_text(encoding="utf-8") if note.exists() else None
        active = self._mlflow.start_run(run_id=known, run_name=run)
        if known is None:
            note.write_text(active.info.run_id, encoding="utf-8")
            self._mlflow.log_params(dict(settings))

    def log(self, step: int, numbers: Mapping[str, float], texts: Mapping[str, str]) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step)
        for name, text in texts.items():
            self._mlflow.log_text(text, f"{name}/step-{step:06d}.txt")

    def close(self) -> None:
        self._mlflow.end_run()


_TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def start_trackers(
    names: Sequence[TrackerName], directory: Path, run: str, settings: Mapping[str, Any], start: int
) -> list[Tracker]:
    """The trackers of a run that goes on from step `start`.

    Args:
        directory: survives a kill.
        run: the run's name and identity.

    Raises:
        TrainingError: a tracker's package is not installed.
    """
    trackers = []
    for name in names:
        try:
            trackers.append(_TRACKERS[name](directory, run, settings, start))
        except ImportError as error:
            raise TrainingError(
                f"the compute file asks for the tracker {name}, whose package is not installed ({error}); add it to "
                "the job's environment or take it out of `trackers`"
            ) from error
    return trackers
