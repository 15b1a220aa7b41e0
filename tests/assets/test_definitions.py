"""The definitions of a study: which assets there are, how they hang together, what is scheduled."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import build_definitions
from assets.graph import Graph
from bai_pipeline.study import load_study
from resources import LocalCompute, LocalSettings

ROOT = Path(__file__).parents[2]
GROUPS = {
    "data": {"pretraining_data", "sft_data", "preference_data", "prompts", "benchmark_data"},
    "checkpoints": {"base_model", "instruct_sft", "reasoning_sft", "reward_model"},
    "initialization": {"merge_weights", "merged_sft", "bai_actor"},
    "rlhf": {"paradigm_1_run", "paradigm_3_run", "ppo_run"},
    "dynamics": {"training_dynamics", "paradigm_dynamics", "ratio_recommendation"},
    "evaluation": {
        "benchmark_scores",
        "paradigm_scores",
        "contamination",
        "paradigm_table",
        "ratio_table",
        "case_studies",
        "dynamics_figures",
        "report",
    },
}

POOLS = {
    **dict.fromkeys(("base_model", "instruct_sft", "reasoning_sft", "reward_model"), "train"),
    **dict.fromkeys(("paradigm_1_run", "paradigm_3_run", "ppo_run"), "train"),
    **dict.fromkeys(("benchmark_scores", "paradigm_scores"), "score"),
}
"""Of assets whose jobs may want a kind of GPU of their own."""


def definitions_of(study: str) -> dg.Definitions:
    return build_definitions(study, "store", LocalCompute(LocalSettings()))


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return definitions_of("smoke")


def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def upstream(spec: dg.AssetSpec) -> dict[str, dg.PartitionMapping | None]:
    return {dep.asset_key.to_user_string(): dep.partition_mapping for dep in spec.deps}


def test_the_assets_stand_in_the_groups_of_the_design(definitions: dg.Definitions) -> None:
    found: dict[str, set[str]] = {}
    for name, spec in specs(definitions).items():
        found.setdefault(str(spec.group_name), set()).add(name)
    assert found == GROUPS


def test_every_asset_has_an_owner_a_description_a_kind_a_pool_and_a_code_version(definitions: dg.Definitions) -> None:
    for name, spec in specs(definitions).items():
        assert list(spec.owners) == ["team:post-training"], name
        assert spec.description, name
        assert len(spec.kinds) >= 2, name
        assert spec.code_version, name
        assert definitions.resolve_assets_def(name).op.pool == POOLS.get(name, "jobs"), name


def test_no_asset_has_a_retry_policy(definitions: dg.Definitions) -> None:
    """With one, Dagster starts a job again when its run is cancelled (op_execution_error_boundary)."""
    assert [n for n in specs(definitions) if definitions.resolve_assets_def(n).op.retry_policy is not None] == []


def test_partitions_are_the_grid_and_the_studys_own_alphas(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("extends: smoke\nname: own\nalphas: ['0.25', '0.5']\n")
    partitioned = specs(definitions_of(str(tmp_path / "own.yaml")))
    grid = ["0.0", "0.1", "0.2", "0.25", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]
    for name, spec in partitioned.items():
        if name in ("bai_actor", "ppo_run", "training_dynamics", "benchmark_scores"):
            assert spec.partitions_def is not None
            assert spec.partitions_def.get_partition_keys() == grid
        else:
            assert spec.partitions_def is None, name


def test_a_table_depends_on_the_studys_alphas_only(definitions: dg.Definitions) -> None:
    mapping = upstream(specs(definitions)["ratio_table"])["benchmark_scores"]
    assert mapping == dg.SpecificPartitionsPartitionMapping(["0.0", "0.5"])
    mapping = upstream(specs(definitions)["paradigm_table"])["benchmark_scores"]
    assert mapping == dg.SpecificPartitionsPartitionMapping(["0.5"])


def test_an_actor_comes_from_the_base_the_sft_models_and_the_weights(definitions: dg.Definitions) -> None:
    found = set(upstream(specs(definitions)["bai_actor"]))
    assert found == {"merge_weights", "base_model", "merged_sft", "instruct_sft", "reasoning_sft"}


def test_a_study_that_brings_its_models_has_no_data_assets_for_them(tmp_path: Path) -> None:
    for name in ("base", "chat", "maths"):
        (tmp_path / name).mkdir()
    text = (
        "extends: smoke\nname: own\nbase: {path: base}\nreward: {kind: verifier}\ncritic_init: policy\n"
        "sft:\n  chat: {path: chat, weight: 0.4}\n  maths: {path: maths, weight: 0.6}\n"
        "paradigm_1: null\nparadigm_3: maths\ntokenizer_from: maths\n"
    )
    (tmp_path / "own.yaml").write_text(text)
    found = specs(definitions_of(str(tmp_path / "own.yaml")))
    assert {"chat_sft", "maths_sft", "paradigm_3_run"} <= set(found)
    assert not {"pretraining_data", "sft_data", "preference_data", "reward_model", "paradigm_1_run"} & set(found)
    assert upstream(found["maths_sft"]) == {}


def test_checks_of_partitioned_assets_are_partitioned(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    partitioned = {"bai_actor", "ppo_run", "training_dynamics", "benchmark_scores"}
    for key in graph.asset_check_keys:
        has_partitions = graph.get(key).partitions_def is not None
        assert has_partitions == (key.asset_key.to_user_string() in partitioned), key


def test_only_the_check_of_the_weights_is_blocking(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    blocking = [key.to_user_string() for key in graph.asset_check_keys if graph.get_check_spec(key).blocking]
    assert blocking == ["merge_weights:weights_sum_to_one"]


def test_the_schedule_asks_for_one_run_per_alpha_of_the_study(definitions: dg.Definitions) -> None:
    moment = datetime(2026, 11, 23, 3, tzinfo=UTC)
    repository = definitions.get_repository_def()
    schedule = repository.get_schedule_def("nightly_sweep")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance, scheduled_execution_time=moment, repository_def=repository)
        tick = schedule.evaluate_tick(context)
    requests = tick.run_requests or []
    assert [request.partition_key for request in requests] == list(load_study("smoke").alphas)
    assert [request.run_key for request in requests] == ["2026-11-23T03:00-0.0", "2026-11-23T03:00-0.5"]
    assert schedule.cron_schedule == "0 3 * * *"


def test_the_jobs_select_the_sweep_and_everything(definitions: dg.Definitions) -> None:
    sweep = definitions.resolve_job_def("alpha_sweep").asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in sweep} == {"bai_actor", "ppo_run", "training_dynamics", "benchmark_scores"}
    chain = definitions.resolve_job_def("whole_chain").asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in chain} == set(Graph(load_study("smoke")).names)


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "deepspeed", "great_expectations", "pandas", "pyarrow", "kubernetes", "lm_eval"}
    code = f"import assets.definitions, sys; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == ""
