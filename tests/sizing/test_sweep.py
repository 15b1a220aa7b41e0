"""Disk and days of a study, and the size of a checkpoint that DeepSpeed really writes."""

from pathlib import Path

import pytest

from bai_pipeline.plan import Plan
from bai_pipeline.ppo import state
from bai_pipeline.ppo.engines import Parallelism, build_engine, load_actor, training_dtype
from bai_pipeline.sizing.ppo_memory import Models
from bai_pipeline.sizing.shape import shape_of_settings
from bai_pipeline.sizing.sweep import KEPT_STATES, disk_of, duration_of, runs_of, training_state_bytes
from bai_pipeline.sizing.zero import Stage
from bai_pipeline.store import Store
from bai_pipeline.study import Study, load_study
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer
from tests import tiny


def study(tmp_path: Path, text: str = "") -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(
        "extends: micro\nname: test\nalphas: ['0.1', '0.5']\nheadline_alpha: '0.5'\nseeds: [0, 1, 2]\n" + text
    )
    return load_study(path)


def models_of(loaded: Study) -> Models:
    shape = shape_of_settings(loaded.model, 40)
    return Models(shape, shape)


@pytest.mark.parametrize("text", ["", "paradigm_1: null\n", "paradigm_1: null\nparadigm_3: null\nseeds: [7]\n"])
def test_runs_are_those_of_the_graph(text: str, tmp_path: Path) -> None:
    loaded = study(tmp_path, text.replace("seeds: [7]\n", ""))
    plan = Plan(loaded, Store(tmp_path / "store"))
    assets = [asset for asset in plan.assets if asset.endswith("_run")]
    assert runs_of(loaded) == sum(len(plan.keys(asset)) for asset in assets)


@pytest.mark.filterwarnings("ignore:`torch.distributed:FutureWarning")  # DeepSpeed calls collectives by their old names
@pytest.mark.parametrize(("precision", "stage"), [("float32", 1), ("bfloat16", 1), ("bfloat16", 3), ("float32", 0)])
def test_a_training_state_has_the_size_of_what_deepspeed_writes(precision: str, stage: Stage, tmp_path: Path) -> None:
    model = tiny.MODEL.model_copy(update={"hidden_size": 64, "intermediate_size": 128})
    tokenizer = build_tokenizer()
    build_olmoe(model, tokenizer, seed=0).save_pretrained(tmp_path / "actor")
    settings = load_study("micro").ppo.model_copy(update={"precision": precision})
    engine = build_engine(
        load_actor(tmp_path / "actor", training_dtype(settings)),
        settings,
        learning_rate=1e-3,
        parallelism=Parallelism(zero_stage=stage),
    )
    tokens = build_tokenizer()("sum a 1", return_tensors="pt")["input_ids"]
    engine.backward(engine(input_ids=tokens, use_cache=False).logits.float().logsumexp(-1).mean())
    engine.step()
    engine.save_checkpoint(str(tmp_path / "state"), tag="state")
    written = sum(path.stat().st_size for path in (tmp_path / "state").rglob("*") if path.is_file())
    parameters = shape_of_settings(model, len(tokenizer)).parameters()
    assert training_state_bytes(parameters, settings, stage) == pytest.approx(written, rel=0.05)


def test_a_run_keeps_as_many_training_states_as_ppo_does() -> None:
    assert KEPT_STATES == state.KEEP


def test_the_disk_of_a_study_is_that_of_its_runs_and_merges(tmp_path: Path) -> None:
    loaded = study(tmp_path, "actors: checkpoint\n")
    models = models_of(loaded)
    actor, critic = models.actor.parameters(), models.critic.parameters("score")
    found = disk_of(loaded, models, loaded.ppo, 1)
    assert found.training_state == 16 * (actor + critic)
    assert found.kept_models == 4 * (actor + critic)
    # evaluate_at_step is until_step here: the last models and the best ones, in the run's directory and in the store.
    assert found.run == 3 * found.training_state + 4 * found.kept_models
    assert found.merged == 4 * actor * 3
    assert found.sweep == found.runs * found.run + found.merged
    assert found.runs == (2 + 2) * 3


def test_a_step_takes_as_long_as_sampling_and_training_its_tokens(tmp_path: Path) -> None:
    loaded = study(tmp_path, "ppo: {batch_size: 100, mini_batch_size: 50, epochs: 2, max_prompt_tokens: 20}\n")
    found = duration_of(loaded, loaded.ppo, rollout=1000.0, training=400.0, response_tokens=60, gpus=4)
    # 100 · 60 / 1000 and 100 · 80 · 2 / 400 seconds.
    assert found.step_seconds == pytest.approx(6 + 40)
    assert found.steps_per_day == pytest.approx(86400 / 46)
    assert found.run_days == pytest.approx(loaded.until_step * 46 / 86400)
    assert found.sweep_days == pytest.approx(12 * found.run_days)
    assert found.gpu_hours == pytest.approx(found.sweep_days * 24 * 4)
