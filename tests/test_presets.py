"""The presets for models that are brought: what they fix, and what they leave to the study that extends them."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bai_pipeline.cli.main import app
from bai_pipeline.errors import StudyError
from bai_pipeline.eval_settings import EvalSettings
from bai_pipeline.paper import HYPERPARAMETERS, TABLE_1, TABLE_2
from bai_pipeline.settings import ModelSettings, PpoSettings
from bai_pipeline.study import PRESETS, Study, load_study

BROUGHT = ("olmoe-1b-7b", "paper")
PATHS = ("base.path", "reward.path", "sft.instruct.path", "sft.reasoning.path", "data.prompts")


def extended(tmp_path: Path, preset: str, text: str = "") -> Study:
    """A study of the preset that brings everything."""
    for name in ("base", "instruct", "reasoning", "reward"):
        (tmp_path / name).mkdir()
    (tmp_path / "prompts.jsonl").write_text("")
    file = tmp_path / "study.yaml"
    file.write_text(
        f"extends: {preset}\nname: mine\nbase: {{path: base}}\n"
        "sft:\n  instruct: {path: instruct, weight: 0.5}\n  reasoning: {path: reasoning, weight: 0.5}\n"
        f"reward: {{kind: model, path: reward}}\ndata: {{prompts: prompts.jsonl}}\n{text}"
    )
    return load_study(file)


@pytest.mark.parametrize("preset", BROUGHT)
def test_a_study_that_gives_the_paths_loads(preset: str, tmp_path: Path) -> None:
    study = extended(tmp_path, preset)
    assert study.base.path == tmp_path / "base"
    assert study.data.prompts == tmp_path / "prompts.jsonl"
    assert study.ppo == load_study(preset, require_paths=False).ppo


@pytest.mark.parametrize("preset", BROUGHT)
def test_by_itself_it_names_every_path_that_is_missing_with_its_line(preset: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(preset)
    faults = str(caught.value).splitlines()[1:]
    assert len(faults) == len(PATHS)
    for path in PATHS:
        (fault,) = [line for line in faults if f": {path}: expected a path from the study that extends" in line]
        place = fault.split(": ")[0].strip()
        file, line = place.rsplit(":", 1)
        assert "..." in Path(file).read_text().splitlines()[int(line) - 1]


def test_a_path_that_is_given_is_missed_no_longer(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "study.yaml").write_text("extends: paper\nname: mine\nbase: {path: base}\n")
    with pytest.raises(StudyError) as caught:
        load_study(tmp_path / "study.yaml")
    assert "base.path" not in str(caught.value)
    assert "reward.path: expected a path" in str(caught.value)


def test_a_wrong_setting_is_reported_beside_the_missing_paths(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("extends: paper\nname: mine\nppo: {clip_range: -1}\n")
    with pytest.raises(StudyError) as caught:
        load_study(tmp_path / "study.yaml")
    assert "study.yaml:3: ppo.clip_range" in str(caught.value)
    assert "base.path: expected a path" in str(caught.value)


def test_the_command_line_says_what_is_missing() -> None:
    result = CliRunner().invoke(app, ["study", "check", "--study", "paper"])
    assert isinstance(result.exception, StudyError)
    listed = CliRunner().invoke(app, ["study", "presets"]).output.split()
    assert set(BROUGHT) <= set(listed)


def test_the_paper_preset_has_every_value_that_the_paper_gives(tmp_path: Path) -> None:
    study = extended(tmp_path, "paper")
    given = {setting.name: setting.value for setting in HYPERPARAMETERS if setting.value is not None}
    for name in set(given) & set(PpoSettings.model_fields):
        assert getattr(study.ppo, name) == given[name], name
    assert given["steps"] == study.evaluate_at_step == study.until_step
    assert given["stage 1 weights"] == "0.5 instruct, 0.5 reasoning"
    assert study.sft_weights == {"instruct": 0.5, "reasoning": 0.5}
    assert given["critic_init"] == "reward model"
    assert study.critic_init == "reward"
    assert study.alphas == tuple(f"0.{n}" for n in range(1, 10))
    assert study.ppo.warmup_updates > 0
    # Table 2's row of the headline alpha is Table 1's row of BAI.
    assert TABLE_2.rows[study.headline_alpha].items() <= TABLE_1.rows["BAI"].items()


def test_the_paper_preset_marks_what_the_paper_fixes_and_nothing_else() -> None:
    known = {s.name for s in HYPERPARAMETERS if s.value is not None} & set(PpoSettings.model_fields)
    lines = (PRESETS / "paper.yaml").read_text().splitlines()
    start = lines.index("ppo:") + 1
    section = lines[start : lines.index("", start)]
    marked = {line.split(":")[0].strip() for line in section if "[P]" in line}
    # Of the optimizer and the schedule the paper names the kind and leaves the number open.
    assert marked - {"weight_decay", "warmup_updates"} == known


@pytest.mark.parametrize(
    ("section", "fields"), [("ppo", PpoSettings), ("evals", EvalSettings), ("model", ModelSettings)]
)
def test_the_paper_preset_inherits_no_setting_by_chance(section: str, fields: type) -> None:
    """It extends micro, whose values are for a model of 0.2 M parameters."""
    written = yaml.safe_load((PRESETS / "paper.yaml").read_text())[section]
    assert set(written) == set(vars(fields)["__pydantic_fields__"])


def test_both_sample_with_vllm_in_bfloat16_and_allow_for_its_rounding() -> None:
    for preset in BROUGHT:
        ppo = load_study(preset, require_paths=False).ppo
        assert (ppo.rollout_engine, ppo.precision) == ("vllm", "bfloat16")
        assert ppo.probe_tolerance > load_study("micro").ppo.probe_tolerance


@pytest.mark.parametrize(("preset", "ranks"), [("olmoe-1b-7b", 8), ("paper", 64)])
def test_batches_can_be_shared_by_the_gpus_and_responses_fit_the_positions(preset: str, ranks: int) -> None:
    study = load_study(preset, require_paths=False)
    assert study.ppo.batch_size % study.ppo.mini_batch_size == 0
    assert study.ppo.mini_batch_size % ranks == 0
    assert study.ppo.max_prompt_tokens + study.ppo.max_new_tokens <= study.model.max_position_embeddings


def test_planning_accepts_paths_where_nothing_is_yet(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("extends: micro\nname: mine\nbase: {path: nowhere}\n")
    with pytest.raises(StudyError, match="no such file or directory"):
        load_study(tmp_path / "study.yaml")
    assert load_study(tmp_path / "study.yaml", require_paths=False).base.path == tmp_path / "nowhere"


def test_a_preset_can_be_shown_as_json_once_it_is_extended(tmp_path: Path) -> None:
    extended(tmp_path, "olmoe-1b-7b")
    result = CliRunner().invoke(app, ["study", "show", "--study", str(tmp_path / "study.yaml")])
    assert json.loads(result.output)["ppo"]["batch_size"] == 1024
