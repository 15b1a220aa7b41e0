"""The sampler against the models it samples from."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
)

from bai_pipeline.errors import CheckpointError, DataError
from bai_pipeline.ppo.decoders import HuggingFaceDecoder, OlmoeDecoder, build_decoder
from bai_pipeline.ppo.sampler import Rollout, draw, response_texts, sample, sampling_logprobs, stop_tokens
from bai_pipeline.synthetic.tokenizer import build_tokenizer

EOS, PAD, VOCABULARY = 2, 0, 20
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [5, 6], [16, 17, 18, 19, 3, 4], [7, 8, 9]]


def build(**changes: object) -> OlmoeForCausalLM:
    """A random OLMoE with a distribution that is far from uniform."""
    values: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "initializer_range": 0.3,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OlmoeForCausalLM(OlmoeConfig(**{**values, **changes}))  # type: ignore[arg-type]


def build_llama() -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                initializer_range=0.3,
            )
        )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(model: PreTrainedModel, prompts: list[list[int]], *, temperature: float = 1.0, top_p: float = 1.0) -> Rollout:
    return sample(model, prompts, 20, temperature, top_p, eos_token_id=EOS, pad_token_id=PAD, generator=generator())


@torch.no_grad()
def teacher_forced(model: PreTrainedModel, prompt: list[int], response: list[int]) -> Tensor:
    """Logits (T, V) before each response token, from one forward of the one sequence."""
    logits: Tensor = model(input_ids=torch.tensor([prompt + response])).logits[0]
    return logits[len(prompt) - 1 : -1]


VARIANTS: list[Callable[[], PreTrainedModel]] = [
    build,
    lambda: build(norm_topk_prob=True),
    lambda: build(num_key_value_heads=2),
    lambda: build(clip_qkv=0.5),
    lambda: build(num_experts=32),
    build_llama,
]
NAMES = ["olmoe", "renormalised router", "grouped queries", "clipped projections", "too many experts", "llama"]


@pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)
def test_logprobs_are_those_of_a_teacher_forced_forward(variant: Callable[[], PreTrainedModel]) -> None:
    model = variant()
    rollout = run(model, PROMPTS)
    for prompt, tokens, logprobs in zip(PROMPTS, rollout.tokens, rollout.logprobs, strict=True):
        expected = teacher_forced(model, prompt, tokens).log_softmax(-1)
        chosen = expected[torch.arange(len(tokens)), tokens]
        torch.testing.assert_close(torch.tensor(logprobs), chosen, atol=1e-5, rtol=0)


def test_tempered_and_nucleus_logprobs_are_of_the_distribution_that_was_sampled_from() -> None:
    model = build()
    rollout = run(model, PROMPTS, temperature=0.7, top_p=0.8)
    for prompt, tokens, logprobs in zip(PROMPTS, rollout.tokens, rollout.logprobs, strict=True):
        probabilities = (teacher_forced(model, prompt, tokens) / 0.7).softmax(-1)
        for position, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            ordered = sorted(probabilities[position].tolist(), reverse=True)
            size = next(n for n in range(1, VOCABULARY + 1) if sum(ordered[:n]) >= 0.8 - 1e-6)
            assert logprob == pytest.approx(
                math.log(float(probabilities[position, token]) / sum(ordered[:size])), abs=1e-4
            )


def test_olmoe_has_its_own_decoder_and_other_models_have_not() -> None:
    assert isinstance(build_decoder(build(), 32), OlmoeDecoder)
    assert isinstance(build_decoder(build(num_experts=32), 32), HuggingFaceDecoder)
    assert isinstance(build_decoder(build().bfloat16(), 32), HuggingFaceDecoder)
    assert isinstance(build_decoder(build_llama(), 32), HuggingFaceDecoder)


def test_both_decoders_give_the_same_greedy_tokens_and_the_same_samples() -> None:
    model = build()
    for temperature in (0.0, 1.0):
        rollouts = [
            sample(
                model,
                PROMPTS,
                20,
                temperature,
                eos_token_id=EOS,
                pad_token_id=PAD,
                generator=generator(),
                decoder=decoder,
            )
            for decoder in (OlmoeDecoder(model, 32), HuggingFaceDecoder(model))
        ]
        assert rollouts[0].tokens == rollouts[1].tokens
        assert rollouts[0].finish_reasons == rollouts[1].finish_reasons


def test_greedy_tokens_are_the_most_probable_ones_of_the_model() -> None:
    model = build()
    for prompt, tokens in zip(PROMPTS, run(model, PROMPTS, temperature=0.0).tokens, strict=True):
        assert teacher_forced(model, prompt, tokens).argmax(-1).tolist() == tokens


@pytest.mark.parametrize("variant", [build, build_llama], ids=["olmoe", "llama"])
def test_a_row_depends_neither_on_padding_nor_on_the_rows_beside_it(variant: Callable[[], PreTrainedModel]) -> None:
    model = variant()
    together = run(model, PROMPTS, temperature=0.0)
    for index, prompt in enumerate(PROMPTS):
        alone = run(model, [prompt], temperature=0.0)
        assert alone.tokens[0] == together.tokens[index]
        assert alone.logprobs[0] == pytest.approx(together.logprobs[index], abs=1e-5)


def test_dropping_finished_rows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    rollouts = []
    for share in (1, 1000):  # only when all are finished; as soon as one is
        monkeypatch.setattr("bai_pipeline.ppo.sampler.DROP_SHARE", share)
        rollouts.append(run(model, PROMPTS * 4))
    assert len(set(rollouts[0].lengths)) > 3
    assert rollouts[0].tokens == rollouts[1].tokens
    for one, two in zip(rollouts[0].logprobs, rollouts[1].logprobs, strict=True):
        assert one == pytest.approx(two, abs=1e-5)


def test_a_response_ends_with_the_end_token_or_at_the_limit() -> None:
    rollout = run(build(), PROMPTS * 16)
    assert set(rollout.finish_reasons) == {"stop", "length"}
    for tokens, logprobs, reason in zip(rollout.tokens, rollout.logprobs, rollout.finish_reasons, strict=True):
        assert len(tokens) == len(logprobs)
        assert EOS not in tokens[:-1]
        assert (tokens[-1] == EOS) == (reason == "stop")
        assert reason == "stop" or len(tokens) == 20


def test_an_end_token_at_the_very_limit_is_a_stop() -> None:
    model = build()
    first = run(model, PROMPTS[:1], temperature=0.0).tokens[0][0]
    rollout = sample(model, PROMPTS[:1], 1, 0.0, eos_token_id=first, pad_token_id=PAD)
    assert rollout.tokens == [[first]]
    assert rollout.finish_reasons == ["stop"]


def test_several_tokens_can_end_a_response() -> None:
    stops = [EOS, 3, 4, 5]
    rollout = sample(build(), PROMPTS * 4, 20, eos_token_id=stops, pad_token_id=PAD, generator=generator())
    assert {tokens[-1] for tokens, why in zip(rollout.tokens, rollout.finish_reasons, strict=True) if why == "stop"} > {
        EOS
    }
    assert all(token not in stops for tokens in rollout.tokens for token in tokens[:-1])


def test_the_generator_decides_and_nothing_else() -> None:
    model = build()
    torch.manual_seed(1)
    one = run(model, PROMPTS)
    torch.manual_seed(2)
    assert run(model, PROMPTS).tokens == one.tokens
    other = sample(model, PROMPTS, 20, eos_token_id=EOS, pad_token_id=PAD, generator=generator(1))
    assert other.tokens != one.tokens


def test_samples_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.2, 0.3])
    uniform = torch.rand(20_000, generator=generator(), dtype=torch.float64)
    counts = draw(probabilities.log().expand(20_000, -1), uniform).bincount(minlength=4) / 20_000
    assert counts[1] == 0
    torch.testing.assert_close(counts, probabilities, atol=4 * math.sqrt(0.25 / 20_000), rtol=0)


def test_the_extremes_of_the_unit_interval_draw_possible_tokens() -> None:
    logprobs = torch.tensor([[0.0, 1.0, 1.0, 0.0]]).div(2).log().expand(2, -1)
    assert draw(logprobs, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2]


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, size in ((0.4, 1), (0.6, 2), (0.9, 3), (0.97, 4)):
        kept = sampling_logprobs(logits, 1.0, top_p).exp()
        assert int((kept > 0).sum()) == size
        torch.testing.assert_close(kept[0, :size], logits[0, :size].exp() / logits[0, :size].exp().sum())


def test_sampling_leaves_the_model_as_it_was() -> None:
    model = build()
    model.train()
    run(model, PROMPTS)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_prompts_give_no_responses() -> None:
    assert run(build(), []) == Rollout([], [], [])


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        run(build(), [[5], []])


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(DataError, match=r"prompt 0 has 45 tokens and max_new_tokens is 20: together more than .* 64"):
        run(build(), [[5] * 45])


def test_sampling_without_a_generator_is_refused() -> None:
    with pytest.raises(DataError, match="needs a generator"):
        sample(build(), PROMPTS, 5, eos_token_id=EOS, pad_token_id=PAD)


@pytest.mark.parametrize(
    ("configured", "expected"), [(None, [2]), (2, [2]), (7, [2, 7]), ([2, 7], [2, 7]), ([9, 7], [2, 7, 9])]
)
def test_a_response_ends_at_a_stop_token_of_the_generation_config_or_of_the_tokenizer(
    configured: int | list[int] | None, expected: list[int]
) -> None:
    model, tokenizer = build(), build_tokenizer()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = configured
    assert stop_tokens(model, tokenizer) == expected


def test_without_any_stop_token_nothing_can_be_sampled() -> None:
    model, tokenizer = build(), build_tokenizer()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    with pytest.raises(CheckpointError, match="neither the generation config nor the tokenizer"):
        stop_tokens(model, tokenizer)


def test_a_text_lacks_the_token_that_ended_it_and_nothing_else() -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    first, second = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("<think> so <eos>", "so <bos>")
    )
    rollout = Rollout([first, second], [[0.0] * 3, [0.0] * 2], ["stop", "length"])
    assert response_texts(rollout, tokenizer) == ["<think> so", "so <bos>"]
