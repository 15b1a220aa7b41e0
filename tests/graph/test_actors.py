"""Actors as recipes and as checkpoints: the same actor, and so the same PPO job."""

import shutil
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from bai_pipeline.checkpoints import verify
from bai_pipeline.cli import main as cli
from bai_pipeline.errors import StoreError
from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey, Store
from tests.graph.chain import materialize, object_of, plan_of
from tests.graph.dagster_runs import checks, definitions_of, failures, materialized, run_of

WRITTEN = "actors: checkpoint\n"


def test_an_actor_takes_no_room(smoke: Plan) -> None:
    actor = object_of(smoke, "bai_actor", "0.5")
    assert not list(actor.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in actor.iterdir()) < 50_000


def test_ppo_from_written_actors_is_the_same_job_with_the_same_result(
    smoke: Plan, copied: Store, tmp_path: Path
) -> None:
    written = plan_of(tmp_path, copied, WRITTEN)
    (run,) = written.keys("ppo_run", "0.5")
    materialize(written, [*written.beside("bai_actor"), *written.keys("bai_actor")])
    before, spec = smoke.spec(run), written.spec(run)
    assert spec.identity == before.identity
    assert "actor_checkpoints" in spec.execution.inputs["actor"]
    assert "actor_checkpoints" not in before.execution.inputs["actor"]

    shutil.rmtree(copied.job_directory(spec.identity))
    (result,) = materialize(written, [run]).values()
    made = smoke.store.read_ref(run)
    assert made is not None
    assert result.digest == made.digest


def test_actors_that_a_study_asks_for_later_make_bai_actor_stale(copied: Store, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, copied, WRITTEN)
    states = {str(key): status for key, status in plan.status().items()}
    assert states["actor_checkpoints"].state == "absent"
    assert states["bai_actor[0.5]"].state == "stale"
    assert states["bai_actor[0.5]"].reason == "upstream is not fresh: actor_checkpoints"
    with pytest.raises(StoreError, match="materialize bai_actor, at any alpha, first"):
        plan.spec(RefKey("smoke", "ppo_run", "0.5", 0))
    materialize(plan, plan.beside("bai_actor"))
    left = {str(key) for key, status in plan.status().items() if status.state != "fresh"}
    assert left == {"report"}  # whose lineage has the checkpoints, now that they are there


def test_one_pass_writes_the_actors_of_all_alphas_and_the_other_partitions_find_them(
    copied: Store, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, copied, WRITTEN)
    definitions = definitions_of(tmp_path / "smoke.yaml", copied)
    for alpha in ("0.0", "0.5"):
        with run_of(definitions, ["bai_actor"], alpha) as result:
            assert result.success, failures(result)
            actor, checked = materialized(result)["bai_actor"], checks(result)
        assert checked["bai_actor:finite"].passed
        assert isinstance(actor.metadata["weight_base_model"], dg.FloatMetadataValue)
        assert actor.metadata["weight_base_model"].value == float(alpha)
    written = object_of(plan, "actor_checkpoints")
    assert sorted(path.name for path in written.iterdir() if path.is_dir()) == ["0.0", "0.5"]
    attempts = copied.job_directory(plan.spec(RefKey("smoke", "actor_checkpoints")).identity) / "attempts.jsonl"
    assert len(attempts.read_text().splitlines()) == 1
    for alpha in ("0.0", "0.5"):
        assert verify(written / alpha).recipe == plan.recipe(alpha).to_dict()
    merged = (object_of(plan, "merged_sft") / "model.safetensors").read_bytes()
    assert (written / "0.0" / "model.safetensors").read_bytes() == merged


def test_an_exported_actor_is_the_written_one(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, copied, WRITTEN)
    materialize(plan, plan.beside("bai_actor"))
    out = tmp_path / "exported"
    arguments = ["export", "--alpha", ".5", "--out", str(out), "--study", "smoke", "--store", str(smoke.store.root)]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    written = object_of(plan, "actor_checkpoints") / "0.5"
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {f.name: f.read_bytes() for f in written.iterdir()}


@pytest.mark.parametrize(
    ("alpha", "message"),
    [("0.3", "bai_actor[0.3] of study 'smoke' is not what the study asks for now"), ("2", "alpha must be in [0, 1]")],
)
def test_an_actor_that_was_not_made_is_not_exported(smoke: Plan, tmp_path: Path, alpha: str, message: str) -> None:
    out = tmp_path / "exported"
    arguments = ["export", "--alpha", alpha, "--out", str(out), "--study", "smoke", "--store", str(smoke.store.root)]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, StoreError)
    assert message in str(result.exception)
    assert not out.exists()
