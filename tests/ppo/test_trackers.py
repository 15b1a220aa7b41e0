"""Trackers: TensorBoard itself, and the calls that the others get."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.trackers import start_trackers


def test_tensorboard_shows_numbers_and_texts_and_forgets_steps_that_were_done_again(tmp_path: Path) -> None:
    (first,) = start_trackers(["tensorboard"], tmp_path, "run", {}, 0)
    for step in range(4):
        first.log(step, {"steps/score_mean": step / 2}, {"samples/p0": f"at {step}"} if step == 0 else {})
    first.close()
    (second,) = start_trackers(["tensorboard"], tmp_path, "run", {}, 2)
    second.log(2, {"steps/score_mean": 9.0}, {})
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"tensors": 0})
    events.Reload()
    scalars = events.Scalars("steps/score_mean")
    assert [(event.step, event.value) for event in scalars] == [(0, 0.0), (1, 0.5), (2, 9.0)]
    assert b"at 0" in events.Tensors("samples/p0/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: Any) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TrainingError, match=f"asks for the tracker {name}, whose package is not installed"):
        start_trackers([name], tmp_path, "run", {}, 0)


class Recorder(ModuleType):
    """Stands for a tracker's package: writes down what it is asked."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            return self if name == "init" else SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        return call


def test_weights_and_biases_goes_on_with_the_run_of_that_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tracker,) = start_trackers(["wandb"], tmp_path, "job-1", {"lam": 0.95}, 3)
    tracker.log(3, {"steps/score_mean": 0.5}, {})
    tracker.close()
    name, _, options = wandb.calls[0]
    assert (name, options["id"], options["resume"], options["config"]) == ("init", "job-1", "allow", {"lam": 0.95})
    assert wandb.calls[1] == ("log", ({"steps/score_mean": 0.5},), {"step": 3})
    assert wandb.calls[2][0] == "finish"


def test_mlflow_goes_on_with_the_run_that_it_had_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = Recorder("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for start in (0, 3):
        (tracker,) = start_trackers(["mlflow"], tmp_path, "job-1", {"lam": 0.95}, start)
        tracker.log(start, {"steps/score_mean": 0.5}, {"samples/p0": "text"})
        tracker.close()
    runs = [options["run_id"] for name, _, options in mlflow.calls if name == "start_run"]
    assert runs == [None, "r1"]
    assert [name for name, _, _ in mlflow.calls].count("log_params") == 1
    assert ("log_text", ("text", "samples/p0/step-000003.txt"), {}) in mlflow.calls
