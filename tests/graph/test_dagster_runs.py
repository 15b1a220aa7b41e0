"""The graph as Dagster runs it: what is recorded, and what a blocking check and the library stop."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from safetensors.torch import load_file, save_file

from bai_pipeline.jobs import checkpoints
from bai_pipeline.jobs.context import JobContext, Outcome
from bai_pipeline.plan import Plan
from bai_pipeline.store import Ref, RefKey, Store
from tests.graph.chain import object_of, plan_of
from tests.graph.dagster_runs import checks, definitions_of, failures, materialized, run_of

MERGES = ["merge_weights", "merged_sft", "bai_actor"]


def weights_of(plan: Plan) -> Path:
    ref = plan.store.read_ref(RefKey(plan.study.name, "merge_weights"))
    assert ref is not None
    return plan.store.path(ref.object) / "merge_weights.json"


def test_the_whole_chain_is_one_run_in_which_all_data_are_sound_and_done_jobs_are_reused(
    smoke: Plan, copied: Store, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, copied)
    definitions = definitions_of(tmp_path / "smoke.yaml", copied)
    with run_of(definitions, plan.assets, "0.5") as result:
        assert result.success, failures(result)
        made, checked = materialized(result), checks(result)
    assert set(made) == set(plan.assets)
    assert {event.metadata["reused"].value for event in made.values()} == {"true"}
    verdicts = {"training_dynamics:dynamics_are_stable", "paradigm_dynamics:dynamics_are_stable"}  # of what happened
    assert verdicts < checked.keys()
    assert [name for name in checked.keys() - verdicts if not checked[name].passed] == []
    assert {made[name].partition for name in ("bai_actor", "ppo_run", "benchmark_scores")} == {"0.5"}
    assert made["merged_sft"].partition is None
    assert {status.state for status in plan.status().values()} == {"fresh"}

    for name in ("merge_weights:weights_sum_to_one", "prompts:rows_are_sound", "merged_sft:identical_manifests"):
        assert name in checked
    for name in ("bai_actor:identical_manifests", "bai_actor:recorded_recipe", "ppo_run:metrics_are_sound"):
        assert checked[name].partition == "0.5"

    actor = made["bai_actor"]
    assert actor.metadata["alpha"].value == 0.5
    assert actor.metadata["weight_base_model"].value == 0.5
    ref = copied.read_ref(RefKey("smoke", "bai_actor", "0.5"))
    assert ref is not None
    assert actor.tags is not None
    assert actor.tags["dagster/data_version"] == ref.digest
    assert isinstance(made["ppo_run"].metadata["length_last_step"], dg.FloatMetadataValue)
    assert isinstance(made["ratio_table"].metadata["ratio_table"], dg.MarkdownMetadataValue)
    assert "data:image/png;base64," in str(made["dynamics_figures"].metadata["figure_4_length_all_ratios"].value)


def test_a_failed_weight_check_stops_the_run_and_nothing_is_merged(
    smoke: Plan, copied: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that tampers and, after it, a run that starts from the tampered table."""
    monkeypatch.setattr(checkpoints, "merge_weights", tampered(checkpoints.merge_weights))
    text = "sft:\n  instruct: {train: instruct, weight: 0.4}\n  reasoning: {train: reasoning, weight: 0.6}\n"
    plan = plan_of(tmp_path, copied, text)
    definitions = definitions_of(tmp_path / "smoke.yaml", copied)
    before = refs(copied), objects(copied)
    with run_of(definitions, MERGES, "0.5") as result:
        assert not result.success
        assert set(materialized(result)) == {"merge_weights"}
        outcome = checks(result)["merge_weights:weights_sum_to_one"]
    assert not outcome.passed
    assert outcome.blocking
    failed = [row.data for row in outcome.metadata["expectations"].records if not row.data["passed"]]  # type: ignore[attr-defined]
    assert {row["column"] for row in failed} == {"weight_sum", "sum_of_weights", "sum_of_sft_weights"}
    assert "1.1" in failed[0]["observed"]
    assert (refs(copied), objects(copied)) == before

    assert json.loads(weights_of(plan).read_text())[0]["weight_sum"] == pytest.approx(1.1)
    for assets in (["merged_sft"], ["bai_actor"]):
        with run_of(definitions, assets, "0.5" if assets == ["bai_actor"] else None) as result:
            assert not result.success
            (message,) = failures(result).values()
    assert "must be non-negative and sum to 1" in message
    assert "1.1" in message
    assert (refs(copied), objects(copied)) == before


def tampered(job: object) -> object:
    """A job that writes Stage 1 weights that sum to 1.1."""

    def merge_weights(context: JobContext) -> Outcome:
        outcome: Outcome = job(context)  # type: ignore[operator]
        path = context.out / "merge_weights.json"
        rows = json.loads(path.read_text())
        for row in rows:
            row["sft_weights"]["instruct"] += 0.1
        rows[0]["weights"]["instruct_sft"] += 0.1
        rows[0]["weight_sum"] += 0.1
        path.write_text(json.dumps(rows))
        return outcome

    return merge_weights


def test_a_table_that_was_altered_in_the_store_is_refused(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, copied)
    path = weights_of(plan)
    path.write_text(path.read_text().replace("0.25", "0.35"))
    with run_of(definitions_of(tmp_path / "smoke.yaml", copied), ["bai_actor"], "0.5") as result:
        assert not result.success
        (message,) = failures(result).values()
    assert "is damaged" in message


def test_an_asset_whose_upstream_was_never_made_says_what_to_materialize(smoke: Plan, tmp_path: Path) -> None:
    plan_of(tmp_path, Store(tmp_path / "empty"))
    definitions = definitions_of(tmp_path / "smoke.yaml", Store(tmp_path / "empty"))
    with run_of(definitions, ["merged_sft"]) as result:
        assert not result.success
        (message,) = failures(result).values()
    assert "merge_weights of study 'smoke' has not been materialized; materialize it first" in message


def refs(store: Store) -> dict[Path, Ref]:
    """All refs but that of merge_weights itself."""
    return {path: ref for path, ref in store.refs() if path.name != "merge_weights.json"}


def objects(store: Store) -> list[str]:
    """All objects but tables of weights."""
    return [uri for uri in store.objects() if "/merge_weights/" not in uri]


def test_a_tensor_that_is_not_finite_leaves_a_failed_check_and_no_model(
    smoke: Plan, copied: Store, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    ignored = shutil.ignore_patterns("bai_manifest.json")
    shutil.copytree(object_of(smoke, "instruct_sft"), model, ignore=ignored)
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = float("inf")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    text = "sft:\n  instruct: {path: model, weight: 0.5}\n  reasoning: {train: reasoning, weight: 0.5}\n"
    plan = plan_of(tmp_path, copied, text)
    before = copied.read_ref(RefKey("smoke", "instruct_sft"))
    job = definitions_of(tmp_path / "smoke.yaml", copied).resolve_implicit_global_asset_job_def()
    finite = dg.AssetCheckKey(dg.AssetKey("instruct_sft"), "finite")
    with dg.DagsterInstance.ephemeral() as instance:
        selection = [dg.AssetKey("instruct_sft")]
        result = job.execute_in_process(asset_selection=selection, instance=instance, raise_on_error=False)
        record = instance.event_log_storage.get_latest_asset_check_execution_by_key([finite])[finite]
    assert "model.norm.weight" in failures(result)["instruct_sft"]
    assert record.status == AssetCheckExecutionRecordStatus.FAILED
    assert copied.read_ref(plan.keys("instruct_sft")[0]) == before
