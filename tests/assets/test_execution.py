"""What an asset does with its jobs: refs and metadata over seeds, retries after a crash, none after a refusal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import execution
from assets.execution import Materialized, materialize, readings
from bai_pipeline.errors import DataError
from bai_pipeline.jobs.context import JobResult
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import RefKey, Store
from resources import Compute, ComputeResource, Context, Finished, StoreResource, StudyResource

Act = Callable[[JobSpec, int], JobResult]


class ScriptedCompute(Compute):
    """Answers the nth call of `run` with `act(spec, n)`."""

    def __init__(self, act: Act) -> None:
        self.calls = 0
        self._act = act

    def run(self, context: Context, spec: JobSpec, store: Store) -> Finished:
        self.calls += 1
        return Finished(self._act(spec, self.calls), reused=False)

    def launch(self, context: Context, spec: JobSpec, uri: str, store: Store) -> None:
        raise AssertionError


def done(spec: JobSpec, **metadata: float | int | str) -> JobResult:
    return JobResult(spec.identity, f"store:objects/prompts/{spec.identity}", f"digest-{spec.seed}", metadata, ())


def run(compute: Compute, tmp_path: Path, text: str = "") -> dg.ExecuteInProcessResult:
    """Materialize the prompts of a study."""
    study = tmp_path / "own.yaml"
    study.write_text(f"extends: smoke\nname: own\n{text}")

    @dg.asset
    def prompts(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        return materialize(context, study, compute)

    resource = StudyResource(source=str(study), store=StoreResource(root=str(tmp_path / "store")))
    return dg.materialize([prompts], resources={"study": resource, "compute": compute}, raise_on_error=False)


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "RETRY_DELAY", 0.0)


def test_a_materialization_has_the_digest_as_data_version_and_numbers_as_floats(tmp_path: Path) -> None:
    compute = ScriptedCompute(lambda spec, call: done(spec, prompts=256, style="plain"))
    (event,) = run(compute, tmp_path).get_asset_materialization_events()
    made = event.materialization
    assert made.tags is not None
    assert made.tags["dagster/data_version"] == "digest-0"
    assert made.metadata["prompts"] == dg.FloatMetadataValue(256.0)
    assert made.metadata["style"] == dg.TextMetadataValue("plain")
    assert made.metadata["reused"] == dg.TextMetadataValue("false")
    ref = Store(tmp_path / "store").read_ref(RefKey("own", "prompts"))
    assert ref is not None
    assert made.metadata["job"] == dg.TextMetadataValue(ref.job)


def test_a_crash_is_retried_until_it_passes(tmp_path: Path) -> None:
    def act(spec: JobSpec, call: int) -> JobResult:
        if call < 3:
            raise dg.Failure("prompts job failed", allow_retries=True)
        return done(spec)

    compute = ScriptedCompute(act)
    assert run(compute, tmp_path).success
    assert compute.calls == 3


def test_a_crash_that_does_not_pass_fails_with_its_own_description(tmp_path: Path) -> None:
    def act(spec: JobSpec, call: int) -> JobResult:
        raise dg.Failure("prompts job was killed by SIGKILL", allow_retries=True)

    compute = ScriptedCompute(act)
    assert "was killed by SIGKILL" in failure(run(compute, tmp_path))
    assert compute.calls == 3


@pytest.mark.parametrize("refusal", [dg.Failure("refused", allow_retries=False), DataError("refused")])
def test_a_refusal_is_final_and_writes_no_ref(refusal: Exception, tmp_path: Path) -> None:
    def act(spec: JobSpec, call: int) -> JobResult:
        raise refusal

    compute = ScriptedCompute(act)
    assert "refused" in failure(run(compute, tmp_path))
    assert compute.calls == 1
    assert list(Store(tmp_path / "store").refs()) == []


def test_a_cancelled_run_is_not_retried(tmp_path: Path) -> None:
    def act(spec: JobSpec, call: int) -> JobResult:
        raise KeyboardInterrupt

    compute = ScriptedCompute(act)
    assert not run(compute, tmp_path).success
    assert compute.calls == 1


def test_numbers_are_means_over_seeds_and_a_table_over_models() -> None:
    def finished(score: float) -> Finished:
        return Finished(JobResult("job", "store:objects/ppo/x", "x", {"score": score, "note": "text"}, ()), reused=True)

    seeds = {RefKey("own", "ppo_run", "0.5", seed): finished(score) for seed, score in enumerate((0.2, 0.6))}
    assert readings(seeds) == {"score": 0.4}
    models = {RefKey("own", "paradigm_scores", name): finished(0.5) for name in ("base_model", "instruct_sft")}
    assert set(readings(models)) == {"readings"}


def failure(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (event,) = (event for event in result.all_events if event.is_step_failure)
    data: Any = event.step_failure_data
    return str(data.error_display_string)
