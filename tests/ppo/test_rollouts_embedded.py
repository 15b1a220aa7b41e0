"""The embedded rollout engine against the protocol: whose weights, which rows, which architectures."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.decoders import HuggingFaceDecoder, build_decoder
from bai_pipeline.ppo.rollouts.embedded import EmbeddedEngine
from bai_pipeline.ppo.rollouts.interface import Rollout, RolloutEngine, Sampling

EOS, VOCABULARY = 2, 20
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [5, 6], [16, 17, 18, 19, 3, 4], [7, 8, 9]]
SAMPLING = Sampling(max_new_tokens=12, temperature=0.8, stop_token_ids=(EOS,))

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": EOS,
    "initializer_range": 0.3,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}


def olmoe(seed: int = 0, **changes: Any) -> PreTrainedModel:
    return seeded(seed, lambda: OlmoeForCausalLM(OlmoeConfig(**{**SIZES, **EXPERTS, **changes})))


def llama(seed: int = 0, **changes: Any) -> PreTrainedModel:
    return seeded(seed, lambda: LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})))


def qwen(seed: int = 0) -> PreTrainedModel:
    changes: dict[str, Any] = {"moe_intermediate_size": 8, "num_key_value_heads": 2, "head_dim": 4}
    return seeded(seed, lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**SIZES, **EXPERTS, **changes})))


def seeded(seed: int, build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


ARCHITECTURES = pytest.mark.parametrize("build", [olmoe, llama, qwen])


def generate(engine: RolloutEngine, rows: list[int] | None = None, sampling: Sampling = SAMPLING) -> Rollout:
    rows = list(range(len(PROMPTS))) if rows is None else rows
    return engine.generate([PROMPTS[row] for row in rows], sampling, seed=7, rows=rows, total=len(PROMPTS))


def assert_sampled_from(model: PreTrainedModel, rollout: Rollout) -> None:
    """Log-probabilities are the model's, from one forward of each whole sequence."""
    for prompt, tokens, logprobs in zip(PROMPTS, rollout.tokens, rollout.logprobs, strict=True):
        with torch.no_grad():
            logits: Tensor = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / SAMPLING.temperature).log_softmax(-1)[torch.arange(len(tokens)), tokens]
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-5, rtol=0)


def change(model: PreTrainedModel) -> None:
    """An update as an optimizer makes it: in the parameters' own memory."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)


@pytest.mark.parametrize("slots", [None, 2])
@ARCHITECTURES
def test_in_place_it_samples_from_the_policy_after_each_update(
    build: Callable[..., PreTrainedModel], slots: int | None
) -> None:
    policy = build()
    engine = EmbeddedEngine(policy, in_place=True, slots=slots)
    before = generate(engine)
    assert_sampled_from(policy, before)
    change(policy)
    engine.synchronize(policy.named_parameters())
    after = generate(engine)
    assert_sampled_from(policy, after)
    assert after.tokens != before.tokens


def test_in_place_the_policy_stays_trainable_and_in_its_mode() -> None:
    policy = olmoe()
    policy.train()
    engine = EmbeddedEngine(policy, in_place=True)
    generate(engine)
    engine.close()
    assert policy.training
    assert all(parameter.requires_grad for parameter in policy.parameters())
    policy(input_ids=torch.tensor([[5, 6]])).logits.sum().backward()


@ARCHITECTURES
def test_a_replica_samples_from_what_it_was_last_given(build: Callable[..., PreTrainedModel]) -> None:
    policy, engine = build(seed=1), EmbeddedEngine(build(seed=0))
    engine.synchronize(policy.named_parameters())
    first = generate(engine)
    assert_sampled_from(policy, first)
    change(policy)
    assert generate(engine) == first
    engine.synchronize(policy.named_parameters())
    assert_sampled_from(policy, generate(engine))


def test_a_replica_and_the_policy_itself_give_the_same_responses() -> None:
    policy, replica = olmoe(seed=1), EmbeddedEngine(olmoe(seed=0))
    replica.synchronize(policy.named_parameters())
    assert generate(replica) == generate(EmbeddedEngine(policy, in_place=True))


def test_a_replica_is_never_trained() -> None:
    replica = llama()
    EmbeddedEngine(replica)
    assert not replica.training
    assert not any(parameter.requires_grad for parameter in replica.parameters())


def test_weights_are_cast_to_the_replica() -> None:
    policy, replica = olmoe(seed=1).bfloat16(), olmoe(seed=0)
    EmbeddedEngine(replica).synchronize(policy.named_parameters())
    for (_, ours), (_, theirs) in zip(replica.named_parameters(), policy.named_parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs.float())


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_head_comes_under_either_name(name: str) -> None:
    policy, replica = llama(seed=1, tie_word_embeddings=True), llama(seed=0, tie_word_embeddings=True)
    weights = {key: value for key, value in policy.named_parameters() if key != "model.embed_tokens.weight"}
    weights[name] = policy.get_parameter("model.embed_tokens.weight")
    EmbeddedEngine(replica).synchronize(weights.items())
    assert torch.equal(replica.get_parameter("lm_head.weight"), policy.get_parameter("lm_head.weight"))


def test_weights_that_do_not_fit_are_refused_with_all_their_names() -> None:
    weights = dict(olmoe(seed=1).named_parameters())
    del weights["model.norm.weight"]
    weights["model.layers.9.extra"] = torch.nn.Parameter(torch.zeros(2))
    weights["lm_head.weight"] = torch.nn.Parameter(torch.zeros(VOCABULARY + 1, 16))
    seen: list[str] = []

    def stream() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights.items():
            seen.append(name)
            yield name, tensor

    with pytest.raises(TrainingError) as error:
        EmbeddedEngine(olmoe()).synchronize(stream())
    assert "missing: model.norm.weight" in str(error.value)
    assert "unknown: model.layers.9.extra" in str(error.value)
    assert "of another shape: lm_head.weight [21, 16] instead of [20, 16]" in str(error.value)
    assert seen == list(weights)  # other ranks gather with this one


@pytest.mark.parametrize("slots", [None, 2])
@ARCHITECTURES
def test_a_response_depends_on_seed_and_row_alone(build: Callable[..., PreTrainedModel], slots: int | None) -> None:
    engine = EmbeddedEngine(build(), slots=slots)
    whole = generate(engine)
    assert len(set(whole.lengths)) > 1
    for rows in ([0, 2, 4], [5], [3, 1]):
        part = generate(engine, rows)
        assert part.tokens == [whole.tokens[row] for row in rows]
    other = engine.generate(PROMPTS, SAMPLING, seed=8, rows=range(len(PROMPTS)), total=len(PROMPTS))
    assert other.tokens != whole.tokens


@ARCHITECTURES
def test_slots_change_no_response(build: Callable[..., PreTrainedModel]) -> None:
    model = build()
    for sampling in (SAMPLING, Sampling(12, temperature=0.0, stop_token_ids=(EOS,)), Sampling(12, top_p=0.9, top_k=8)):
        expected = generate(EmbeddedEngine(model), sampling=sampling)
        for slots in (1, 2, 4, 100):
            assert generate(EmbeddedEngine(model, slots=slots), sampling=sampling).tokens == expected.tokens


@pytest.mark.parametrize("build", [llama, qwen])
def test_other_architectures_run_through_their_own_forward(build: Callable[..., PreTrainedModel]) -> None:
    assert isinstance(build_decoder(build(), 32), HuggingFaceDecoder)


def test_a_rank_without_rows_samples_nothing() -> None:
    assert generate(EmbeddedEngine(olmoe()), rows=[]) == Rollout([], [], [])


def test_no_slots_are_refused() -> None:
    with pytest.raises(TrainingError, match="at least one slot, got 0"):
        EmbeddedEngine(olmoe(), slots=0)


def test_a_closed_engine_samples_nothing() -> None:
    engine = EmbeddedEngine(olmoe())
    engine.close()
    with pytest.raises(TrainingError, match="closed"):
        generate(engine)
