"""Distances of models from their base: hand arithmetic, float64 references, and neighbours in bfloat16."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bai_pipeline.checkpoints import Checkpoint, distance
from bai_pipeline.checkpoints.distance import Distances, decode, difference, kind_of, measure_distances, rounded
from bai_pipeline.errors import CheckpointError, FitError
from bai_pipeline.progress import SilentReporter

Make = Callable[[str, Mapping[str, torch.Tensor]], Checkpoint]
ULP = 2.0**-7
"""The distance of bfloat16 neighbours between 1 and 2."""


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(name: str, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
        (tmp_path / name).mkdir()
        save_file(dict(tensors), tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "olmoe"}))
        return Checkpoint.open(tmp_path / name)

    return build


def measure(base: Checkpoint, *models: Checkpoint, weight: float = 1.0, dtype: str | None = None) -> Distances:
    named = {model.path.name: model for model in models}
    return measure_distances(base, named, weight=weight, dtype=dtype, reporter=SilentReporter())


def bf16(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bfloat16)


def difference_of(make: Make, one: torch.Tensor, other: torch.Tensor) -> dict[str, float | None]:
    return difference(make("one", {"t": one}).tensors["t"], make("other", {"t": other}).tensors["t"])


def test_a_step_of_one_from_a_base_of_length_five_is_a_distance_of_a_fifth(make: Make) -> None:
    found = measure(make("base", {"t": bf16(3, 4)}), make("sft", {"t": bf16(3, 5)}))
    assert found.total.of(0, 1.0) == {"distance": 0.2, "moved": 0.5, "survived": 0.5, "rounding": 0.0}


def test_task_vectors_have_cosine_1_along_0_across_and_minus_1_against_each_other(make: Make) -> None:
    base = make("base", {"t": bf16(3, 4)})
    steps = {"along": bf16(3, 6), "across": bf16(1, 4), "against": bf16(3, 2)}
    total = measure(base, make("sft", {"t": bf16(3, 5)}), *(make(name, {"t": t}) for name, t in steps.items())).total
    assert [total.cosine(0, other) for other in (1, 2, 3)] == [1.0, 0.0, -1.0]


def test_what_has_no_length_has_no_ratio(make: Make) -> None:
    same = {"t": bf16(0, 0)}
    found = measure(make("base", same), make("sft", same))
    assert found.total.of(0, 1.0) == {"distance": None, "moved": 0.0, "survived": 0.0, "rounding": None}
    assert found.total.cosine(0, 0) is None


@pytest.mark.parametrize(
    ("base", "weight", "survived", "rounding"),
    [
        (1.0, 1.0, 1.0, 0.0),  # y is the neighbour itself
        (1.0, 0.75, 1.0, 1 / 3),  # up to it: the error is a quarter of a step, the change three quarters
        (1.0, 0.5, 0.0, 1.0),  # a tie goes to the even neighbour, here the base
        (1.0 + ULP, 0.5, 1.0, 1.0),  # and here the other one
        (1.0, 0.25, 0.0, 1.0),  # back to the base: the error is all of the change
    ],
)
def test_a_weighted_step_to_the_next_bfloat16_survives_rounding_or_does_not(
    make: Make, base: float, weight: float, survived: float, rounding: float
) -> None:
    found = measure(make("base", {"t": bf16(base)}), make("sft", {"t": bf16(base + ULP)}), weight=weight)
    numbers = found.total.of(0, weight)
    assert numbers["moved"] == 1.0
    assert numbers["survived"] == survived
    assert numbers["rounding"] == pytest.approx(rounding, rel=1e-12)


def test_survival_is_of_all_weights_in_the_dtype_that_is_asked_for(make: Make) -> None:
    step = 2.0**-10
    base = make("base", {"t": torch.ones(4)})
    sft = make("sft", {"t": torch.tensor([1.0, 1.0, 1.0, 1.0 + step])})
    assert measure(base, sft).total.of(0, 1.0)["survived"] == 0.25
    assert measure(base, sft, dtype="BF16").total.of(0, 1.0)["survived"] == 0.0
    assert measure(base, sft, dtype="F16").total.of(0, 1.0)["survived"] == 0.25


def test_kinds_and_layers_are_measured_like_the_concatenation_of_their_tensors(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "CHUNK_ELEMENTS", 7)
    generator = torch.Generator().manual_seed(0)
    names = [
        "model.embed_tokens.weight",
        *(f"model.layers.{n}.mlp.experts.{e}.up_proj.weight" for n in (0, 10) for e in (0, 1)),
        "model.layers.10.mlp.gate.weight",
    ]
    models = [{name: torch.randn(5, 4, generator=generator).bfloat16() for name in names} for _ in range(3)]
    found = measure(*(make(f"m{n}", model) for n, model in enumerate(models)), weight=0.3)

    def reference(part: str) -> tuple[dict[str, float], float]:
        b, x, z = (
            torch.cat([tensor.double().flatten() for name, tensor in model.items() if part in name]).numpy()
            for model in models
        )
        y = b + 0.3 * (x - b)
        r = torch.from_numpy(y).bfloat16().double().numpy()
        numbers = {
            "distance": float(np.linalg.norm(x - b) / np.linalg.norm(b)),
            "moved": float(np.mean(x != b)),
            "survived": float(np.mean(r != b)),
            "rounding": float(np.sqrt(np.mean((r - y) ** 2) / np.mean((y - b) ** 2))),
        }
        cosine = (x - b) @ (z - b) / (np.linalg.norm(x - b) * np.linalg.norm(z - b))
        return numbers, float(cosine)

    groups = {
        "": found.total,
        "embed": found.kinds["embeddings"],
        "experts": found.kinds["experts"],
        "gate": found.kinds["router"],
        "layers.0.": found.layers[0],
        "layers.10.": found.layers[10],
    }
    for part, sums in groups.items():
        numbers, cosine = reference(part)
        assert sums.of(0, 0.3) == pytest.approx(numbers, rel=1e-12)
        assert sums.cosine(0, 1) == pytest.approx(cosine, rel=1e-12)
    assert found.layers[None].elements == 20
    assert found.notes == []


def test_where_rows_were_added_those_that_all_models_have_are_measured(make: Make) -> None:
    base = make("base", {"embed.weight": bf16(3, 4).reshape(2, 1)})
    found = measure(base, make("sft", {"embed.weight": bf16(3, 5, 100).reshape(3, 1)}))
    assert found.total.of(0, 1.0)["distance"] == 0.2
    assert found.notes == [
        "tensor embed.weight: the first 2 elements are measured, which all models have: rows were added"
    ]


def test_what_cannot_be_measured_is_said(make: Make) -> None:
    base = make("base", {"t": bf16(1), "gone": bf16(1), "wide": bf16(1, 2).reshape(1, 2), "ids": torch.tensor([1])})
    sft = {"t": bf16(2), "new": bf16(1), "wide": bf16(1).reshape(1, 1), "ids": torch.tensor([2])}
    found = measure(base, make("sft", sft))
    assert found.total.elements == 1
    assert sorted(found.notes) == [
        "tensor gone: not in all models, not measured",
        "tensor ids: I64, I64, not measured",
        "tensor new: only in sft, not measured",
        "tensor wide: shapes [1, 2], [1, 1], not measured",
    ]


def test_models_without_a_common_tensor_are_refused(make: Make) -> None:
    with pytest.raises(FitError, match="sft have no tensor of it"):
        measure(make("base", {"a": bf16(1)}), make("sft", {"b": bf16(1)}))


def test_a_nan_is_refused_by_its_place(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "CHUNK_ELEMENTS", 2)
    with pytest.raises(CheckpointError, match=r"sft/model\.safetensors: tensor t: not finite at position 3"):
        measure(make("base", {"t": bf16(1, 1, 1, 1)}), make("sft", {"t": bf16(1, 1, 1, float("nan"))}))


def test_every_bfloat16_is_decoded() -> None:
    codes = np.arange(2**16, dtype=np.uint16)
    expected = torch.from_numpy(codes.view(np.int16)).view(torch.bfloat16).double().numpy()
    with np.errstate(invalid="ignore"):
        found = decode(codes.view(np.uint8), "BF16")
    np.testing.assert_array_equal(found, expected)


def test_between_two_bfloat16_neighbours_the_nearer_one_is_taken_and_halfway_the_even_one() -> None:
    codes = np.arange(0x7F7F, dtype=np.uint16)  # from 0 over the subnormal ones to the last but one finite value
    low, high = (decode((codes + step).astype(np.uint16).view(np.uint8), "BF16") for step in (0, 1))
    halfway = (low + high) / 2
    for sign in (1.0, -1.0):
        np.testing.assert_array_equal(rounded(sign * low, "BF16"), sign * low)
        np.testing.assert_array_equal(rounded(sign * np.nextafter(halfway, 0), "BF16"), sign * low)
        np.testing.assert_array_equal(rounded(sign * np.nextafter(halfway, np.inf), "BF16"), sign * high)
        np.testing.assert_array_equal(rounded(sign * halfway, "BF16"), sign * np.where(codes % 2 == 0, low, high))


@pytest.mark.parametrize(("dtype", "numpy"), [("F16", np.float16), ("F32", np.float32), ("F64", np.float64)])
def test_other_dtypes_round_like_numpy(dtype: str, numpy: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(4096) * 10.0 ** rng.uniform(-9, 4, 4096)
    np.testing.assert_array_equal(rounded(values, dtype), values.astype(numpy).astype(np.float64))


def test_the_difference_of_two_tensors_is_in_equal_elements_the_largest_step_and_the_length(make: Make) -> None:
    assert difference_of(make, bf16(3, 4, 0), bf16(3, 2, 1)) == {
        "equal": pytest.approx(1 / 3),
        "largest": 2.0,
        "distance": pytest.approx(5**0.5 / 5),
    }


def test_tensors_of_two_dtypes_are_compared_by_value(make: Make) -> None:
    found = difference_of(make, bf16(1, 2), torch.tensor([1.0, 2.0 + 2.0**-20]))
    assert (found["equal"], found["largest"]) == (0.5, 2.0**-20)


def test_zeros_of_both_signs_are_two_bit_patterns_at_no_distance(make: Make) -> None:
    assert difference_of(make, bf16(0, 1), bf16(-0.0, 1)) == {"equal": 0.5, "largest": 0.0, "distance": 0.0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (bf16(1, 2), bf16(1, float("nan"))),
        (bf16(1, float("inf")), bf16(2, float("inf"))),
        (torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([1, 3], dtype=torch.uint8)),
    ],
    ids=["nan", "infinity", "eight bits"],
)
def test_where_numbers_mean_nothing_only_the_equal_elements_are_counted(
    make: Make, one: torch.Tensor, other: torch.Tensor
) -> None:
    assert difference_of(make, one, other) == {"equal": 0.5, "largest": None, "distance": None}


def test_a_difference_from_zero_is_of_no_relative_length(make: Make) -> None:
    assert difference_of(make, bf16(0, 0), bf16(0, 1)) == {"equal": 0.5, "largest": 1.0, "distance": None}


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("transformer.wte.weight", "embeddings"),
        ("lm_head.weight", "head"),
        ("score.weight", "head"),
        ("model.norm.weight", "norms"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("bert.encoder.layer.0.output.LayerNorm.weight", "norms"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("transformer.h.0.attn.c_attn.weight", "attention"),
        ("model.layers.0.mlp.gate.weight", "router"),
        ("model.layers.0.block_sparse_moe.gate.weight", "router"),
        ("model.layers.0.mlp.experts.3.gate_proj.weight", "experts"),
        ("model.layers.0.mlp.experts.gate_up_proj", "experts"),
        ("model.layers.0.mlp.shared_experts.up_proj.weight", "mlp"),
        ("model.layers.0.mlp.gate_proj.weight", "mlp"),
        ("scale", "other"),
    ],
)
def test_a_tensor_is_of_the_kind_that_its_name_says(tensor: str, kind: str) -> None:
    assert kind_of(tensor) == kind
