"""The bytes of a merge are a function of recipe and inputs alone: whoever computes, in whatever pieces."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file

from bai_pipeline.checkpoints import verify
from bai_pipeline.merging import Dtype, Input, MethodNode, ModelNode, Recipe, bai_recipe
from bai_pipeline.merging.arithmetic import Backend
from bai_pipeline.merging.destination import merge_plan_to
from bai_pipeline.merging.engine import MergeOptions, merge
from bai_pipeline.merging.kernel import load_kernel
from bai_pipeline.merging.plan import plan_merge
from bai_pipeline.progress import SilentReporter
from tests.merging.reference import Floats, rounded, weighted_sum

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
BACKENDS: list[Backend] = ["kernel", "numpy", "torch"]
NAMES = ("base_model", "instruct_sft", "reasoning_sft")

Shapes = dict[str, tuple[int, ...]]


def test_the_kernel_was_built() -> None:
    assert load_kernel() is not None


def write_model(directory: Path, tensors: Mapping[str, torch.Tensor], shards: Sequence[Sequence[str]]) -> Path:
    directory.mkdir()
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: tensors[name] for name in names}, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps({"model_type": "olmoe", "vocab_size": 1000, "dtype": "bfloat16"}))
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    return directory


def values(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[torch.Tensor]:
    """Any finite bit pattern of moderate size: no sum leaves the range of float16."""
    if dtype == "BF16":
        bits = hnp.arrays(np.uint16, shape, elements=st.integers(0, 0xFFFF).filter(lambda b: (b & 0x7FFF) < 0x4680))
        return bits.map(lambda a: torch.from_numpy(a.view(np.int16)).view(torch.bfloat16))
    kind, width = (np.float16, 16) if dtype == "F16" else (np.float32, 32)
    floats = st.floats(-16000, 16000, width=width)  # type: ignore[arg-type]
    return hnp.arrays(kind, shape, elements=floats).map(torch.from_numpy)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 4))
    shapes: Shapes = {
        f"t{i}": draw(st.sampled_from([(), (1,), (7,), (3, 5), (33,), (0, 4), (65,), (4, 4, 9)])) for i in range(count)
    }
    models = {}
    for name in NAMES:
        dtypes = {tensor: draw(st.sampled_from(list(DTYPES))) for tensor in shapes}
        order = draw(st.permutations(list(shapes)))
        cut = draw(st.integers(0, count - 1))
        layout = [order[:cut], order[cut:]] if cut else [order]
        models[name] = ({t: draw(values(dtypes[t], shape)) for t, shape in shapes.items()}, layout)
    weight = draw(st.floats(0, 1))
    return {
        "models": models,
        "alpha": draw(st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0])),
        "weights": {"instruct": weight, "reasoning": 1.0 - weight},
        "dtype": draw(st.sampled_from([None, "F32", "BF16", "F16"])),
        "shard": draw(st.sampled_from([None, 1, 40, 10_000])),
        "options": [
            MergeOptions(backend=backend, threads=threads, chunk_elements=chunk)
            for backend, threads, chunk in draw(
                st.lists(
                    st.tuples(st.sampled_from(BACKENDS), st.integers(1, 4), st.sampled_from([1, 3, 8, 64, 999])),
                    min_size=2,
                    max_size=3,
                )
            )
        ],
    }


@given(cases())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_way_of_merging_gives_the_bits_of_the_reference(case: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        models = {name: write_model(root / name, *case["models"][name]) for name in NAMES}
        recipe = bai_recipe(case["alpha"], case["weights"], dtype=case["dtype"])
        outs = []
        for number, options in enumerate(case["options"]):
            out = root / f"out{number}"
            out.mkdir()
            options["max_shard_bytes"] = case["shard"]
            merge(recipe, models, out, "reasoning_sft", "1", SilentReporter(), **options)
            outs.append({file.name: file.read_bytes() for file in out.iterdir()})
        assert all(other == outs[0] for other in outs)
        verify(root / "out0")
        found = {name: t for file in (root / "out0").glob("*.safetensors") for name, t in load_file(file).items()}
    contents = [case["models"][name][0] for name in NAMES]
    for tensor, result in found.items():
        dtype = DTYPES[case["dtype"]] if case["dtype"] else contents[0][tensor].dtype
        assert result.dtype == dtype
        expected = rounded(reference([floats(model[tensor]) for model in contents], case), dtype)
        assert (floats(result).view(np.uint32) == expected.view(np.uint32)).all()
    assert found.keys() == contents[0].keys()


def floats(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.float().numpy().reshape(-1))


def reference(inputs: list[Floats], case: dict[str, Any]) -> Floats:
    """Equations 1 and 2; an input of weight zero has no part in the sum."""
    base, *sft = inputs
    stage_1 = weighted(sft, list(case["weights"].values()))
    return weighted([base, stage_1], [case["alpha"], 1.0 - case["alpha"]])


def weighted(arrays: list[Floats], weights: list[float]) -> Floats:
    kept = [(array, weight) for array, weight in zip(arrays, weights, strict=True) if weight != 0.0]
    return weighted_sum([array for array, _ in kept], [weight for _, weight in kept])


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Three models of a few hundred thousand parameters."""

    def tensors(seed: int) -> Iterator[tuple[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for name, size in {"large": 300_007, "small": 11, "square": 90_000}.items():
            yield name, torch.randn(size, generator=generator).bfloat16()

    return {
        name: write_model(tmp_path / name, dict(tensors(seed)), [["large"], ["small", "square"]])
        for seed, name in enumerate(NAMES)
    }


def recipes(out: Path, alphas: Sequence[float], dtype: Dtype | None = None) -> dict[Path, Recipe]:
    halves = {"instruct": 0.5, "reasoning": 0.5}
    return {out / str(alpha): bai_recipe(alpha, halves, dtype=dtype) for alpha in alphas}


@pytest.mark.parametrize("backend", BACKENDS)
def test_nine_ratios_in_one_pass_are_the_nine_merges(tmp_path: Path, models: dict[str, Path], backend: Any) -> None:
    alphas = [n / 10 for n in range(1, 10)]
    together = recipes(tmp_path / "together", alphas)
    plan = plan_merge(list(together.values()), models, "reasoning_sft")
    manifests = merge_plan_to(plan, together, "1", SilentReporter(), backend=backend)
    assert len({manifest.digest for manifest in manifests.values()}) == 9
    for path, recipe in together.items():
        alone = tmp_path / f"alone {path.name}"
        alone.mkdir()
        merge(recipe, models, alone, "reasoning_sft", "1", SilentReporter(), backend="torch")
        assert {f.name: f.read_bytes() for f in path.iterdir()} == {f.name: f.read_bytes() for f in alone.iterdir()}


def test_recipes_of_other_models_are_not_merged_in_one_pass(tmp_path: Path, models: dict[str, Path]) -> None:
    from bai_pipeline.errors import RecipeError

    both = [bai_recipe(0.5, {"instruct": 1.0}), bai_recipe(0.5, {"reasoning": 1.0})]
    with pytest.raises(RecipeError, match="need the same models and dtype"):
        plan_merge(both, models, "reasoning_sft")


def test_new_shards_hold_at_most_so_many_bytes_and_keep_the_order(tmp_path: Path, models: dict[str, Path]) -> None:
    out = tmp_path / "out"
    (recipe,) = recipes(out, [0.3]).values()
    out.mkdir()
    merge(recipe, models, out, "reasoning_sft", "1", SilentReporter(), max_shard_bytes=200_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "large": "model-00001-of-00002.safetensors",
        "small": "model-00002-of-00002.safetensors",
        "square": "model-00002-of-00002.safetensors",
    }
    assert index["metadata"] == {"total_parameters": 390_018, "total_size": 780_036}


def test_one_new_shard_needs_no_index(tmp_path: Path, models: dict[str, Path]) -> None:
    out = tmp_path / "out"
    (recipe,) = recipes(out, [0.3]).values()
    out.mkdir()
    merge(recipe, models, out, "reasoning_sft", "1", SilentReporter(), max_shard_bytes=10**9)
    assert [file.name for file in out.glob("model*")] == ["model.safetensors"]


@pytest.mark.parametrize("backend", [None, "kernel", "numpy"])
def test_where_the_kernel_was_not_built_numpy_computes_without_torch(
    tmp_path: Path, models: dict[str, Path], backend: str | None
) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nimport bai_pipeline.merging.kernel as kernel\n"
        "kernel.LIBRARY = Path('/nonexistent.so')\nfrom bai_pipeline.cli.entry import main\n"
        "main()\nprint(*{'torch', 'transformers'} & set(sys.modules))"
    )
    sft = [f"--sft={models[name]}=0.5" for name in NAMES[1:]]
    command = ["merge", f"--base={models[NAMES[0]]}", *sft, "--alpha=0.3", f"--out={tmp_path / 'out'}"]
    command += [f"--cache={tmp_path / 'cache.json'}", *([f"--backend={backend}"] if backend else [])]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=False)
    if backend == "kernel":
        assert done.returncode == 1
        assert "backend 'kernel' cannot be used: it was not built" in done.stderr
        assert not (tmp_path / "out").exists()
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""
    verify(tmp_path / "out")


@pytest.mark.parametrize("backend", ["kernel", "numpy"])
def test_what_is_not_linear_is_for_torch(tmp_path: Path, models: dict[str, Path], backend: Backend) -> None:
    from bai_pipeline.errors import RecipeError

    pair = tuple(Input(ModelNode(name), 0.5) for name in NAMES[1:])
    recipe = Recipe(MethodNode("slerp", pair))
    (tmp_path / "out").mkdir()
    with pytest.raises(RecipeError, match=f"backend '{backend}' cannot be used: it computes linear only, not slerp"):
        merge(recipe, models, tmp_path / "out", "reasoning_sft", "1", SilentReporter(), backend=backend)
    assert not list((tmp_path / "out").iterdir())
