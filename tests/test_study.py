"""The study file: inheritance, canonical alphas, and every fault at once with its line."""

from pathlib import Path

import pytest

from bai_pipeline.errors import StudyError
from bai_pipeline.study import alpha_key, load_study, preset_names


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(StudyError) as caught:
        load_study(path)
    return str(caught.value)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_under_its_own_name(name: str) -> None:
    assert load_study(name, require_paths=False).name == name


def test_presets_differ_by_values_only() -> None:
    smoke, micro = load_study("smoke").model_dump(), load_study("micro").model_dump()
    assert smoke.keys() == micro.keys()
    for section in ("world", "model", "pretraining", "preferences", "reward_training", "ppo", "evals"):
        assert smoke[section].keys() == micro[section].keys()


def test_a_study_overrides_settings_key_by_key_and_replaces_the_rest(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, "extends: micro\nname: mine\nppo: {lam: 1.0}\nseeds: [3, 4]\n"))
    micro = load_study("micro")
    assert study.ppo == micro.ppo.model_copy(update={"lam": 1.0})
    assert study.seeds == (3, 4)
    assert study.sft == micro.sft


def test_bringing_three_sft_models_replaces_the_two_of_the_preset(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    study = load_study(
        write(
            tmp_path,
            "extends: micro\nname: mine\nparadigm_1: a\nparadigm_3: c\ntokenizer_from: c\n"
            "reward: {kind: model, train: synthetic, init_from: c}\npreferences: {sampled_from: [a]}\n"
            "sft:\n  a: {path: a, weight: 0.2}\n  b: {path: b, weight: 0.3}\n  c: {path: c, weight: 0.5}\n",
        )
    )
    assert study.sft_weights == {"a": 0.2, "b": 0.3, "c": 0.5}
    assert study.sft["a"].path == tmp_path / "a"


def test_weights_that_do_not_sum_to_one_are_refused_with_both_weights_and_their_sum(tmp_path: Path) -> None:
    text = (
        "extends: micro\nname: mine\nsft:\n"
        "  instruct: {train: instruct, weight: 0.5}\n  reasoning: {train: reasoning, weight: 0.6}\n"
    )
    message = refusal(write(tmp_path, text))
    assert "0.5 (instruct_sft) + 0.6 (reasoning_sft) = 1.1" in message
    assert "study.yaml:3" in message


def test_weights_of_one_third_each_are_accepted_within_rounding(tmp_path: Path) -> None:
    roles = "".join(
        f"  {r}: {{train: {s}, weight: {w}}}\n"
        for r, s, w in [("instruct", "instruct", 0.7), ("reasoning", "reasoning", 0.2), ("extra", "reasoning", 0.1)]
    )
    assert sum(
        load_study(write(tmp_path, f"extends: micro\nname: mine\nsft:\n{roles}")).sft_weights.values()
    ) == pytest.approx(1.0)


def test_every_fault_is_listed_at_once_with_its_line(tmp_path: Path) -> None:
    text = (
        "extends: micro\nname: mine\nalphas: ['0.1', '1.2']\nppo:\n  lambda: 0.9\n  clip_range: -1\n"
        "base: {path: nowhere}\nparadigm_3: maths\nunheard: 1\n"
    )
    message = refusal(write(tmp_path, text))
    assert "study.yaml:3: alphas.1: alpha must be in [0, 1], got 1.2" in message
    assert "study.yaml:5: ppo.lambda: unknown key" in message
    assert "study.yaml:6: ppo.clip_range" in message
    assert f"study.yaml:7: base.path: no such file or directory: {tmp_path / 'nowhere'}" in message
    assert "study.yaml:8: paradigm_3: no SFT role 'maths'" in message
    assert "study.yaml:9: unheard: unknown key" in message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "extends: micro\nname: mine\nalphas: ['0.1', '0.10']\nheadline_alpha: '0.1'\n",
            "the same alpha appears twice",
        ),
        ("extends: micro\nname: mine\nheadline_alpha: '0.4'\n", "0.4 is not among alphas"),
        ("extends: micro\nname: mine\nevaluate_at_step: 99\n", "99 is never reached"),
        ("extends: micro\nname: mine\nbase: {}\n", "give either path (bring your own) or train, got neither"),
        ("extends: micro\nname: mine\nreward: {kind: verifier}\n", "critic_init: reward needs a reward model"),
        ("extends: micro\nname: mine\nreward: {kind: http}\ncritic_init: policy\n", "kind http needs url"),
        ("extends: micro\nname: mine\nseeds: [1, 1]\n", "the same seed appears twice"),
        ("extends: micro\nname: mine\nalphas: []\n", "study.yaml:3: alphas"),
        ("extends: micro\nname: mine\nevaluate_at_step: '99'\n", "99 is never reached"),
        ("extends: micro\nname: mine\ndata: {sft: {instrct: study.yaml}}\n", "no SFT role 'instrct' is trained"),
        ("extends: micro\nname: mine\ndata: {benchmarks: {maths: study.yaml}}\n", "not among evals.benchmarks"),
        (
            "extends: micro\nname: mine\nreward: {kind: verifier}\ncritic_init: policy\ndata: {preferences: s.yaml}\n",
            "no reward model is trained on it",
        ),
        (
            "extends: micro\nname: m\nsft: {a: {train: instruct, weight: '0.5'}, b: {train: reasoning, weight: 0.6}}\n",
            "= 1.1",
        ),
        ("extends: nothing\nname: mine\n", "'nothing' is neither a preset"),
        ("extends: ./study.yaml\nname: mine\n", "goes round in a circle"),
        ("extends: micro\nname: mine\nname: again\n", "the key 'name' appears twice"),
        ("extends: micro\nname: Mine Own\n", "study.yaml:2: name"),
        ("- a list\n", "must hold a mapping"),
        ("name: [unclosed\n", "is not valid YAML"),
        ("extends: micro\nname: mine\nsft:\n  merged: {train: instruct, weight: 1.0}\n", "the name 'merged' is taken"),
    ],
)
def test_each_fault_has_its_own_message(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in refusal(write(tmp_path, text))


@pytest.mark.parametrize(("value", "key"), [(0, "0.0"), ("1", "1.0"), (0.1, "0.1"), ("0.250", "0.25"), ("1e-1", "0.1")])
def test_an_alpha_has_one_canonical_text(value: object, key: str) -> None:
    assert alpha_key(value) == key


@pytest.mark.parametrize("value", ["1.01", "-0.1", "nan", "half", None])
def test_an_alpha_outside_zero_to_one_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="alpha must be"):
        alpha_key(value)


def test_partition_keys_are_the_grid_and_the_studys_own_alphas_in_order(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, "extends: micro\nname: mine\nalphas: ['0.25', '0.5']\nheadline_alpha: '0.5'\n"))
    keys = study.partition_keys
    assert keys[:4] == ["0.0", "0.1", "0.2", "0.25"]
    assert keys[-1] == "1.0"
    assert len(keys) == 12


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("", "score (reward model: sd of its scores)"),
        ("reward: {kind: verifier, train: synthetic, init_from: reasoning}\n", "score (right +1, wrong −1)"),
        ("reward: {kind: python, function: 'mine:score'}\ncritic_init: policy\n", "score"),
        ("reward: {kind: model, path: mine}\n", "score"),
        ("ppo: {verifier_coef: 0.5}\n", "score"),
    ],
)
def test_a_score_has_a_unit_only_where_the_study_knows_it(tmp_path: Path, text: str, label: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert load_study(write(tmp_path, f"extends: micro\nname: mine\n{text}")).score_label == label
