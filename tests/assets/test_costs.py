"""What a run cost: from the steps of a run that really ran to tags that the UI shows."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets.costs import COST, GPU_HOURS, cost_sensors, gpus_of, price_of
from assets.definitions import build_definitions
from bai_pipeline.errors import ComputeError
from resources import LocalCompute, LocalSettings, build_compute, load_compute

COMPUTE = """
kind: kubernetes
image: registry.example/bai-jobs:0.1.0
store_claim: bai-store
jobs:
  default: {cpu: "1", memory: 1Gi}
  ppo: {cpu: "8", memory: 64Gi, gpus: 8}
  evaluate: {cpu: "4", memory: 16Gi, gpus: 1}
"""


@dg.op
def trains() -> None:
    return None


@dg.op(ins={"after": dg.In(dg.Nothing)})
def fails() -> None:
    raise dg.Failure("as it should")


@dg.job
def two_steps() -> None:
    fails(trains())


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tags_after(instance: dg.DagsterInstance, gpus: dict[str, int], price: float | None) -> dict[str, str]:
    """The tags that the sensor of failed runs gives to a run of `two_steps`."""
    result = two_steps.execute_in_process(instance=instance, raise_on_error=False)
    (sensor,) = [s for s in cost_sensors(gpus, price) if s.name == "gpu_hours_of_failure"]
    event = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
    context = dg.build_run_status_sensor_context(sensor.name, event, instance, result.dagster_run)
    sensor(context)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return {key: value for key, value in run.tags.items() if key.startswith("bai/")}


def test_a_failed_run_is_tagged_with_the_hours_and_the_price_of_its_gpus(instance: dg.DagsterInstance) -> None:
    # Of a step of some milliseconds a number of GPUs that makes hours of it: what is tagged is their product.
    tags = tags_after(instance, {"trains": 36_000_000}, price=2.0)
    (record,) = instance.get_run_records()
    (step,) = [s for s in instance.get_run_step_stats(record.dagster_run.run_id) if s.step_key == "trains"]
    assert step.start_time is not None
    assert step.end_time is not None
    seconds = step.end_time - step.start_time
    assert seconds > 0
    assert float(tags[GPU_HOURS]) == pytest.approx(10_000 * seconds, abs=1e-3)
    assert float(tags[COST]) == pytest.approx(20_000 * seconds, abs=1e-2)


def test_without_a_price_the_hours_are_all_that_is_known(instance: dg.DagsterInstance) -> None:
    assert set(tags_after(instance, {"trains": 36_000_000}, price=None)) == {GPU_HOURS}


def test_a_run_whose_steps_hold_no_gpu_gets_no_tag(instance: dg.DagsterInstance) -> None:
    assert tags_after(instance, {"another": 8}, price=2.0) == {}


def test_the_compute_file_says_which_steps_hold_gpus_and_each_way_to_end_has_a_sensor(tmp_path: Path) -> None:
    (tmp_path / "compute.yaml").write_text(COMPUTE)
    compute = build_compute(load_compute(tmp_path / "compute.yaml"))
    definitions = build_definitions("smoke", str(tmp_path / "store"), compute, gpu_hour_price=2.0)
    names = {sensor.name for sensor in definitions.sensors or [] if sensor.name.startswith("gpu_hours")}
    assert names == {"gpu_hours_of_success", "gpu_hours_of_failure", "gpu_hours_of_canceled"}


def test_the_gpus_of_a_job_on_several_nodes_are_those_of_all_of_them(tmp_path: Path) -> None:
    text = COMPUTE.replace("kind: kubernetes", "kind: trainjob").replace("gpus: 8}", "gpus: 8, nodes: 4}")
    (tmp_path / "compute.yaml").write_text(text + "ppo: {ranks: 32}\n")
    settings = load_compute(tmp_path / "compute.yaml")
    assert gpus_of(settings, "ppo") == 32
    assert gpus_of(settings, "evaluate") == 1
    assert gpus_of(settings, "merge") == 0


def test_on_this_machine_there_are_no_gpus_to_count(tmp_path: Path) -> None:
    definitions = build_definitions("smoke", str(tmp_path / "store"), LocalCompute(LocalSettings()))
    assert [s.name for s in definitions.sensors or [] if s.name.startswith("gpu_hours")] == []


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ComputeError, match="BAI_GPU_HOUR_PRICE"):
        price_of(text)


def test_a_price_is_read_and_an_empty_one_is_none() -> None:
    assert price_of("2.5") == 2.5
    assert price_of("") is None
