"""The whole chain on the smoke study, with every real component but Dagster."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from bai_pipeline.cli import main as cli
from bai_pipeline.errors import BaiPipelineError, CheckpointError, FitError, RewardError
from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey, Store
from tests.graph.chain import kill_after_first_checkpoint, materialize, object_of, plan_of, tables

EVALUATED = ("benchmark_data", "benchmark_scores", "paradigm_scores", "paradigm_table", "ratio_table")
LONG = "evaluate_at_step: 6\nuntil_step: 6\ncheckpoint_every: 2\nalphas: ['0.5']\nseeds: [7]\n"
"""A run that is long enough to be killed in."""
RUN = ("ppo_run", "0.5", 7)
WITHOUT_MANIFEST = shutil.ignore_patterns("bai_manifest.json")
"""Makes a copy of one of our checkpoints one that a stranger could have made."""


def accuracy(plan: Plan, model: str) -> float:
    return float(pd.read_parquet(object_of(plan, "paradigm_scores", model) / "scores.parquet")["score"].mean())


def test_everything_is_fresh_and_a_second_call_runs_nothing(smoke: Plan) -> None:
    assert {status.state for status in smoke.status().values()} == {"fresh"}
    attempts = {p: p.read_bytes() for p in smoke.store.root.glob("jobs/*/attempts.jsonl")}
    materialize(smoke)
    assert {p: p.read_bytes() for p in smoke.store.root.glob("jobs/*/attempts.jsonl")} == attempts


def test_the_sft_models_beat_the_base_on_held_out_problems(smoke: Plan) -> None:
    for role in smoke.study.sft:
        assert accuracy(smoke, f"{role}_sft") > accuracy(smoke, "base_model")


def test_an_exported_actor_loads_in_plain_transformers(smoke: Plan, tmp_path: Path) -> None:
    script = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert not info['missing_keys'] and not info['unexpected_keys'], info\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer.apply_chat_template([{'role': 'user', 'content': 'sum a 4 b 7'}], "
        "add_generation_prompt=True, return_tensors='pt', return_dict=True)\n"
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=3)[0]))\n"
    )
    actor = export(smoke, "0.5", tmp_path / "actor")
    process = subprocess.run(
        [sys.executable, "-c", script, str(actor)], capture_output=True, text=True, cwd=actor, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("<bos> <user> sum a 4 b 7 <asst>")


def export(plan: Plan, alpha: str, out: Path) -> Path:
    arguments = ["export", "--alpha", alpha, "--out", str(out), "--study", "smoke", "--store", str(plan.store.root)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    return out


def test_alpha_0_is_the_merged_sft_itself(smoke: Plan, tmp_path: Path) -> None:
    merged, actor = object_of(smoke, "merged_sft"), export(smoke, "0.0", tmp_path / "actor")
    assert (merged / "model.safetensors").read_bytes() == (actor / "model.safetensors").read_bytes()


def test_the_tables_have_a_row_for_every_paradigm_and_ratio_and_no_hole(smoke: Plan) -> None:
    paradigms = pd.read_csv(object_of(smoke, "paradigm_table") / "paradigm_table.csv")
    ratios = pd.read_csv(object_of(smoke, "ratio_table") / "ratio_table.csv", dtype={"alpha": str})
    assert {"Paradigm 1", "Paradigm 3", "BAI (alpha 0.5)"} <= set(paradigms["paradigm"])
    assert any(name.startswith("Paradigm 2") for name in paradigms["paradigm"])
    assert list(ratios["alpha"]) == ["0.0", "0.5"]
    assert not paradigms["average"].isna().any()
    assert not ratios["average"].isna().any()


def test_the_tables_have_standard_errors_and_compare_every_two_rows(smoke: Plan) -> None:
    for name, label in (("paradigm_table", "paradigm"), ("ratio_table", "alpha")):
        directory = object_of(smoke, name)
        table = pd.read_csv(directory / f"{name}.csv", dtype={label: str})
        benchmarks = list(smoke.study.evals.benchmarks)
        assert table[[f"{benchmark} stderr" for benchmark in benchmarks]].notna().all(axis=None)
        pairs = pd.read_csv(directory / f"{name}_comparisons.csv", dtype={"row": str, "other": str})
        rows = len(table)
        assert len(pairs) == rows * (rows - 1) / 2 * (len(benchmarks) + 1)  # and their average
        assert pairs["p_holm"].between(0, 1).all()
        assert (pairs["p_holm"] >= pairs["p"]).all()
        text = (directory / f"{name}.md").read_text()
        assert f"for all {len(pairs)} comparisons of this table" in text


def test_case_studies_show_every_model_s_answer_to_the_same_question(smoke: Plan) -> None:
    studies = pd.read_parquet(object_of(smoke, "case_studies") / "case_studies.parquet")
    asked = studies.groupby(["benchmark", "id"])
    assert asked.ngroups == smoke.study.tables.case_studies
    assert (asked["row"].nunique() == 6).all()  # base, two SFT models, paradigms 1 and 3, BAI
    assert (asked["prompt"].nunique() == 1).all()


def test_the_held_out_problems_are_not_in_the_training_data(smoke: Plan) -> None:
    summary = pd.read_csv(object_of(smoke, "contamination") / "summary.csv")
    assert set(summary["benchmark"]) == set(smoke.study.evals.benchmarks)
    assert (summary["contaminated"] == 0).all()
    assert (summary["judged"] > 0).all()
    assert (summary["questions"] == smoke.study.world.benchmark_problems).all()


def test_a_benchmark_without_data_is_a_hole_of_both_tables(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    wanted = "evals: {benchmarks: [held_out_sum, held_out_max, mmlu]}\n"
    plan = plan_of(tmp_path, copied, wanted)
    materialize(plan, [key for key in plan.all_keys() if key.asset in EVALUATED])
    for name in ("paradigm_table", "ratio_table"):
        table = pd.read_csv(object_of(plan, name) / f"{name}.csv")
        assert table["mmlu"].isna().all()
        assert table["note"].str.contains("mmlu: no data: bai data fetch mmlu").all()
        assert table["average"].notna().all()


def test_what_was_not_run_is_a_hole_with_its_reason(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, copied, "alphas: ['0.0', '0.2', '0.5']\n")
    materialize(plan, plan.keys("ratio_table"))
    table = pd.read_csv(object_of(plan, "ratio_table") / "ratio_table.csv", dtype={"alpha": str}).set_index("alpha")
    assert table["average"].isna().to_dict() == {"0.0": False, "0.2": True, "0.5": False}
    assert table["note"]["0.2"] == "not materialized"


def test_a_killed_ppo_run_continues_and_ends_with_the_tables_of_an_undisturbed_run(
    smoke: Plan, copied: Store, tmp_path: Path
) -> None:
    undisturbed = plan_of(tmp_path, Store(tmp_path / "undisturbed"), LONG)
    shutil.copytree(smoke.store.root, undisturbed.store.root)
    materialize(undisturbed, undisturbed.keys("ppo_run"))

    killed = plan_of(tmp_path, copied, LONG)
    (key,) = killed.keys("ppo_run")
    spec = killed.spec(key)
    kill_after_first_checkpoint(copied, spec)
    (result,) = materialize(killed, [key]).values()

    assert result.metadata["resumed_from_step"] in (2, 4)
    assert {name.split("/")[0] for name in tables(killed, key)} == {"steps", "responses"}
    assert tables(killed, key) == tables(undisturbed, key)
    assert object_of(killed, *RUN).name == object_of(undisturbed, *RUN).name


def test_extending_until_step_continues_the_same_job(copied: Store, tmp_path: Path) -> None:
    short = plan_of(tmp_path, copied)
    (key, *_) = short.keys("ppo_run")
    longer = plan_of(tmp_path, copied, "until_step: 4\n")
    assert longer.spec(key).identity == short.spec(key).identity
    (result,) = materialize(longer, [key]).values()
    assert result.metadata["resumed_from_step"] == 2
    run = json.loads((object_of(longer, "ppo_run", key.part, key.seed) / "run.json").read_text())
    assert run["until_step"] == 4
    assert set(run["policies"]) == {"2", "4", str(run["best_step"])}


def test_extending_a_run_gives_the_run_that_was_long_from_the_start(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    extended = plan_of(tmp_path, copied, "until_step: 4\n")
    (key, *_) = extended.keys("ppo_run")
    materialize(extended, [key])
    at_once = Store(tmp_path / "at_once")
    shutil.copytree(smoke.store.root, at_once.root)
    shutil.rmtree(at_once.root / "jobs")
    plan = plan_of(tmp_path, at_once, "until_step: 4\n")
    materialize(plan, [key])
    assert tables(extended, key) == tables(plan, key)


def test_two_studies_in_one_store_share_jobs_and_keep_their_own_refs(
    smoke: Plan, copied: Store, tmp_path: Path
) -> None:
    other = plan_of(tmp_path, copied, "alphas: ['0.3']\nheadline_alpha: '0.3'\n", name="other")
    materialize(other, [RefKey("other", name) for name in ("pretraining_data", "base_model")])
    mine = Plan(smoke.study, copied)
    assert {status.state for status in mine.status().values()} == {"fresh"}
    base = [copied.read_ref(RefKey(name, "base_model")) for name in ("smoke", "other")]
    assert base[0] == base[1]


def test_a_study_brings_its_own_base_three_sft_models_and_reward_model(smoke: Plan, tmp_path: Path) -> None:
    brought = {}
    for name, source in [
        ("base", "base_model"),
        ("chat", "instruct_sft"),
        ("code", "merged_sft"),
        ("maths", "reasoning_sft"),
        ("reward", "reward_model"),
    ]:
        brought[name] = tmp_path / name
        shutil.copytree(object_of(smoke, source), brought[name])
    text = (
        "base: {path: base}\nparadigm_1: chat\nparadigm_3: maths\ntokenizer_from: maths\n"
        "sft:\n  chat: {path: chat, weight: 0.2}\n  code: {path: code, weight: 0.3}\n"
        "  maths: {path: maths, weight: 0.5}\nreward: {kind: model, path: reward}\nalphas: ['0.5']\n"
    )
    plan = plan_of(tmp_path, Store(tmp_path / "store"), text, name="own")
    results = materialize(plan)
    assert {status.state for status in plan.status().values()} == {"fresh"}
    assert results[RefKey("own", "base_model")].object == brought["base"].resolve().as_uri()
    merged = results[RefKey("own", "bai_actor", "0.5")].metadata
    assert {k: v for k, v in merged.items() if k.startswith("weight_")} == {
        "weight_base_model": 0.5,
        "weight_chat_sft": 0.1,
        "weight_code_sft": 0.15,
        "weight_maths_sft": 0.25,
    }
    assert not list((plan.store.root / "objects").glob("finetune/*"))


def test_a_brought_model_that_changed_after_its_import_is_refused(smoke: Plan, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(object_of(smoke, "base_model"), base, ignore=WITHOUT_MANIFEST)
    plan = plan_of(tmp_path, Store(tmp_path / "store"), "base: {path: base}\n", name="own")
    materialize(plan, [RefKey("own", "base_model")])
    data = bytearray((base / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (base / "model.safetensors").write_bytes(bytes(data))
    assert plan.status()[RefKey("own", "base_model")].state == "stale"
    with pytest.raises(CheckpointError, match="has changed since it was imported as base"):
        materialize(plan, [RefKey("own", name) for name in ("sft_data", "instruct_sft")])


def corrupt_shape(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].contiguous()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def corrupt_nan(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def lose_shard(model: Path) -> None:
    (model / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("corrupt", "error", "says"),
    [
        (corrupt_shape, FitError, "model.norm.weight"),
        (corrupt_nan, CheckpointError, "model.norm.weight"),
        (lose_shard, CheckpointError, "model-00001-of-00001.safetensors"),
    ],
)
def test_a_damaged_checkpoint_has_its_own_error_and_nothing_is_merged(
    smoke: Plan, tmp_path: Path, corrupt: Callable[[Path], None], error: type[BaiPipelineError], says: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(object_of(smoke, "instruct_sft"), model, ignore=WITHOUT_MANIFEST)
    corrupt(model)
    store = Store(tmp_path / "store")
    shutil.copytree(smoke.store.root, store.root)
    text = "sft:\n  instruct: {path: model, weight: 0.5}\n  reasoning: {train: reasoning, weight: 0.5}\n"
    plan = plan_of(tmp_path, store, text)
    merged = store.read_ref(RefKey("smoke", "merged_sft"))
    with pytest.raises(error) as caught:
        materialize(plan, [RefKey("smoke", name) for name in ("instruct_sft", "merged_sft")])
    assert says in str(caught.value)
    assert store.read_ref(RefKey("smoke", "merged_sft")) == merged


def test_a_reward_model_of_another_vocabulary_cannot_start_the_critic(
    smoke: Plan, copied: Store, tmp_path: Path
) -> None:
    reward = tmp_path / "reward"
    shutil.copytree(object_of(smoke, "reward_model"), reward, ignore=WITHOUT_MANIFEST)
    tokenizer = reward / "tokenizer.json"
    vocabulary = json.loads(tokenizer.read_text())
    words = vocabulary["model"]["vocab"]
    words["sum"], words["max"] = words["max"], words["sum"]
    tokenizer.write_text(json.dumps(vocabulary))
    plan = plan_of(tmp_path, copied, "reward: {kind: model, path: reward}\n")
    materialize(plan, plan.keys("reward_model"))
    (key, *_) = plan.keys("ppo_run")
    before = copied.objects()
    with pytest.raises(RewardError, match="tokenizer"):
        materialize(plan, [key])
    assert copied.objects() == before
