"""What an asset does with scores that will not be made, and with one check that several jobs made."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import dagster as dg
import pytest

from assets import execution
from assets.execution import Materialized, materialize
from bai_pipeline.jobs.context import CheckOutcome, JobResult
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.plan import Plan
from bai_pipeline.progress import Severity
from bai_pipeline.store import RefKey, Store
from resources import Compute, ComputeResource, Context, Finished, StoreResource, StudyResource
from tests import placeholders

STOPPING = "on_collapse: stop\nevaluate_at_step: 6\nuntil_step: 8\n"
RUNS = {seed: RefKey("test", "ppo_run", "0.1", seed) for seed in (0, 1)}


class StandIn(Compute):
    """Runs no job: gives each the checks of its seed."""

    def __init__(self, checks: Callable[[int], tuple[CheckOutcome, ...]] = lambda seed: ()) -> None:
        self.seeds: list[int | None] = []
        self._checks = checks

    def run(self, context: Context, spec: JobSpec, store: Store) -> Finished:
        self.seeds.append(spec.seed)
        uri, checks = f"store:objects/{spec.kind}/{spec.identity}", self._checks(spec.seed or 0)
        return Finished(JobResult(spec.identity, uri, "digest", {"score": 0.5}, checks), reused=False)

    def launch(self, context: Context, spec: JobSpec, uri: str, store: Store) -> None:
        raise AssertionError


class Scene:
    """A study of placeholders, and one asset of it at alpha 0.1."""

    def __init__(self, tmp_path: Path, asset: str, stopped: Mapping[RefKey, int], checks: tuple[str, ...] = ()) -> None:
        study = placeholders.study_of(tmp_path, STOPPING)
        self.plan = Plan(study, Store(tmp_path / "store"))
        placeholders.materialize(self.plan, stopped=stopped)
        self._source = str(tmp_path / "study.yaml")
        partitions = dg.StaticPartitionsDefinition(study.partition_keys)
        specs = [dg.AssetCheckSpec(name, asset=asset) for name in checks]

        @dg.asset(name=asset, partitions_def=partitions, check_specs=specs)
        def made(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
            return materialize(context, study, compute)

        self._asset = made
        self.warnings: list[str] = []

    def run(self, compute: Compute) -> dg.ExecuteInProcessResult:
        study = StudyResource(source=self._source, store=StoreResource(root=str(self.plan.store.root)))
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize(
                [self._asset],
                partition_key="0.1",
                resources={"study": study, "compute": compute},
                instance=instance,
                raise_on_error=False,
            )
            log = instance.all_logs(result.run_id)
        self.warnings = [entry.user_message for entry in log if entry.level == logging.WARNING]
        return result


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "RETRY_DELAY", 0.0)


def test_the_scores_of_a_stopped_seed_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    scene, compute = Scene(tmp_path, "benchmark_scores", {RUNS[0]: 4}), StandIn()
    result = scene.run(compute)
    assert result.success
    assert compute.seeds == [1]
    key = RefKey("test", "benchmark_scores", "0.1", 0)
    assert scene.warnings == [f"{key} will not be made: stopped after step 4: {placeholders.REASON}"]
    assert scene.plan.store.read_ref(key) is None
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["score"] == dg.FloatMetadataValue(0.5)


def test_an_alpha_all_of_whose_runs_were_stopped_fails_at_once_with_the_reason(tmp_path: Path) -> None:
    scene, compute = Scene(tmp_path, "benchmark_scores", {RUNS[0]: 4, RUNS[1]: 3}), StandIn()
    result = scene.run(compute)
    assert not result.success
    assert compute.seeds == []
    (failure,) = (event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert failure.error_display_string.count("benchmark_scores has nothing to make: stopped after step 3") == 1
    assert not [event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY]


def outcome(seed: int, passed: bool, name: str = "no_length_collapse", severity: Severity = "warn") -> CheckOutcome:
    return CheckOutcome(name, passed, {"of seed": seed}, severity)


def only_check(result: dg.ExecuteInProcessResult) -> tuple[bool, int, dg.AssetCheckSeverity]:
    (check,) = result.get_asset_check_evaluations()
    seed = check.metadata["of seed"].value
    assert isinstance(seed, int)
    return check.passed, seed, check.severity


@pytest.mark.parametrize(
    ("passed", "shown"), [((True, True), 0), ((True, False), 1), ((False, True), 0), ((False, False), 0)]
)
def test_a_check_that_every_seed_made_passes_only_if_all_do_and_shows_the_first_that_failed(
    passed: tuple[bool, bool], shown: int, tmp_path: Path
) -> None:
    scene = Scene(tmp_path, "ppo_run", {}, ("no_length_collapse",))
    result = scene.run(StandIn(lambda seed: (outcome(seed, passed[seed]),)))
    assert result.success
    assert only_check(result) == (all(passed), shown, dg.AssetCheckSeverity.WARN)


def test_a_check_that_only_a_later_seed_made_is_reported(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "ppo_run", {}, ("no_length_collapse",))
    result = scene.run(StandIn(lambda seed: (outcome(seed, False, severity="error"),) if seed == 1 else ()))
    assert only_check(result) == (False, 1, dg.AssetCheckSeverity.ERROR)


def test_a_check_that_the_asset_does_not_have_is_not_reported(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "ppo_run", {}, ("no_length_collapse",))
    made = StandIn(lambda seed: (outcome(seed, False, "of_another_asset"), outcome(seed, True)))
    assert only_check(scene.run(made)) == (True, 0, dg.AssetCheckSeverity.WARN)
