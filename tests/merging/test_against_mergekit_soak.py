"""The methods in common give what mergekit gives, within rounding: mergekit itself, in an environment of its own."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bai_pipeline.cli.merge import merge
from tests.merging.models import TIED_LLAMA, save_models

ROOT = Path(__file__).parents[2]
MERGEKIT = ROOT / ".peers" / "mergekit" / "bin" / "mergekit-yaml"

pytestmark = pytest.mark.soak

TASK_VECTORS = "base_model: {base}\nmodels:\n  - model: {one}\n    parameters: {{weight: 0.7{more}}}\n  - model: {two}\n    parameters: {{weight: 0.5{more}}}\n"  # fmt: skip  # noqa: E501

CONFIGURATIONS = {
    "linear": "merge_method: linear\nmodels:\n  - model: {base}\n    parameters: {{weight: 0.3}}\n"
    "  - model: {one}\n    parameters: {{weight: 0.25}}\n  - model: {two}\n    parameters: {{weight: 0.45}}\n",
    "linear that is normalised": "merge_method: linear\nmodels:\n  - model: {one}\n    parameters: {{weight: 1.0}}\n"
    "  - model: {two}\n    parameters: {{weight: 3.0}}\n",
    "a gradient over the layers": "merge_method: linear\nmodels:\n  - model: {one}\n"
    "    parameters: {{weight: [0.2, 0.8]}}\n  - model: {two}\n    parameters: {{weight: [0.8, 0.2]}}\n",
    "slerp": "merge_method: slerp\nbase_model: {one}\nmodels:\n  - model: {one}\n  - model: {two}\n"
    "parameters: {{t: 0.35}}\n",
    "task arithmetic": "merge_method: task_arithmetic\n" + TASK_VECTORS + "parameters: {{lambda: 0.9}}\n",
    "ties": "merge_method: ties\n" + TASK_VECTORS.replace("{more}", ", density: 0.4") + "parameters: {{lambda: 1.1}}\n",
    "ties that is not normalised": "merge_method: ties\n"
    + TASK_VECTORS.replace("{more}", ", density: 0.7")
    + "parameters: {{normalize: false}}\n",
}


@pytest.fixture(scope="module")
def mergekit() -> Path:
    if not MERGEKIT.exists():
        subprocess.run(["make", ".peers/mergekit/.installed"], cwd=ROOT, check=True, capture_output=True)
    return MERGEKIT


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_of_mergekit_gives_its_weights(mergekit: Path, tmp_path: Path, name: str) -> None:
    """In float32: mergekit sums in another order and, in ties and slerp, with other intermediate roundings."""
    save_models(tmp_path, TIED_LLAMA, torch.float32)
    places = {"base": "base_model", "one": "instruct_sft", "two": "reasoning_sft"}
    paths = {key: str(tmp_path / directory) for key, directory in places.items()}
    config = tmp_path / "config.yaml"
    config.write_text(CONFIGURATIONS[name].format(**paths, more="") + "dtype: float32\n")
    subprocess.run([mergekit, config, tmp_path / "theirs"], check=True, capture_output=True, cwd=tmp_path)

    cache = ["--cache", str(tmp_path / "digests.json")]
    merge(["--recipe", str(config), "--out", str(tmp_path / "ours"), "--dtype", "F32", *cache])

    ours = load_file(tmp_path / "ours" / "model.safetensors")
    theirs = {n: t for file in (tmp_path / "theirs").glob("*.safetensors") for n, t in load_file(file).items()}
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    base = load_file(Path(paths["base"]) / "model.safetensors")
    for tensor, value in ours.items():
        torch.testing.assert_close(value, theirs[tensor], rtol=2e-6, atol=2e-7)
        if value.dim() > 1:
            assert not torch.equal(value, base[tensor])
