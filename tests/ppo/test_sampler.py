"""The sampler against the models it samples from."""

import math
from collections.abc import Callable
from itertools import accumulate

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
from bai_pipeline.native.library import load_native
from bai_pipeline.ppo.decoders import HuggingFaceDecoder, OlmoeDecoder, build_decoder
from bai_pipeline.ppo.drawing import cut, draw
from bai_pipeline.ppo.rollouts.interface import Rollout, Sampling
from bai_pipeline.ppo.sampler import response_texts, sample, sample_responses, stop_tokens
from bai_pipeline.synthetic.tokenizer import build_tokenizer

EOS, PAD, VOCABULARY = 2, 0, 20
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [5, 6], [16, 17, 18, 19, 3, 4], [7, 8, 9]]


@pytest.fixture(autouse=True, params=["native", "torch"])
def without_native_code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """OLMoE is sampled on one thread, with the native code and without."""
    assert (torch.get_num_threads(), load_native() is not None) == (1, True)
    if request.param == "torch":
        monkeypatch.setattr("bai_pipeline.ppo.decoders.load_native", lambda: None)


ROUTED: dict[str, object] = {"num_experts": 24, "num_experts_per_tok": 3, "hidden_size": 48, "intermediate_size": 64}
"""Experts too large for computing all of them for each token."""


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


def eager(model: OlmoeForCausalLM) -> OlmoeForCausalLM:
    """Experts in a loop: transformers' grouped product takes no width that is not a multiple of four."""
    model.set_experts_implementation("eager")
    return model


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
    lambda: build(num_experts=32, num_experts_per_tok=5),
    lambda: build(**ROUTED),
    lambda: build(**ROUTED, norm_topk_prob=True),
    lambda: eager(build(**{**ROUTED, "intermediate_size": 66})),
    build_llama,
]
NAMES = [
    "olmoe",
    "renormalised router",
    "grouped queries",
    "clipped projections",
    "many experts",
    "routed experts",
    "routed experts, renormalised router",
    "large experts of an odd width",
    "llama",
]


@pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)
def test_logprobs_are_those_of_a_teacher_forced_forward(variant: Callable[[], PreTrainedModel]) -> None:
    model = variant()
    rollout = run(model, PROMPTS)
    for prompt, tokens, logprobs in zip(PROMPTS, rollout.tokens, rollout.logprobs, strict=True):
        expected = teacher_forced(model, prompt, tokens).log_softmax(-1)
        chosen = expected[torch.arange(len(tokens)), tokens]
        torch.testing.assert_close(torch.tensor(logprobs), chosen, atol=1e-5, rtol=0)


@pytest.mark.parametrize("slots", [None, 1, 2, 5], ids=lambda slots: f"slots {slots}")
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 0, 0.8), (1.3, 4, 1.0), (1.0, 6, 0.9), (0.0, 0, 1.0)]
)
def test_each_response_is_what_drawing_token_by_token_from_the_model_gives(
    temperature: float, top_k: int, top_p: float, slots: int | None
) -> None:
    model, prompts, sampling = build(), PROMPTS * 2, Sampling(20, temperature, top_p, top_k, (EOS,))
    rollout = sample_all(model, prompts, sampling, slots)
    numbers = torch.stack([torch.rand(len(prompts), generator=g, dtype=torch.float64) for g in [generator()] * 20])
    for row, prompt in enumerate(prompts):
        tokens, logprobs = drawn_by_definition(model, prompt, sampling, numbers[:, row].tolist())
        assert rollout.tokens[row] == tokens
        assert rollout.logprobs[row] == pytest.approx(logprobs, abs=1e-5)


def drawn_by_definition(
    model: PreTrainedModel, prompt: list[int], sampling: Sampling, numbers: list[float]
) -> tuple[list[int], list[float]]:
    """A response and its log-probabilities, a whole forward for each token."""
    tokens: list[int] = []
    logprobs: list[float] = []
    for number in numbers:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1].double()
        probabilities = (logits / (sampling.temperature or 1)).softmax(-1).tolist()
        ranked = sorted(range(VOCABULARY), key=lambda token: -probabilities[token])
        if sampling.temperature == 0:
            token = ranked[0]
        else:
            best = ranked[: sampling.top_k or None]
            sums = list(accumulate(probabilities[token] for token in best))
            kept = set(best[: 1 + sum(below < sampling.top_p * sums[-1] for below in sums[:-1])])
            mass = [probabilities[token] * (token in kept) for token in range(VOCABULARY)]
            token = next(token for token, below in enumerate(accumulate(mass)) if below > number * sum(mass))
        tokens.append(token)
        logprobs.append(math.log(probabilities[token]))
        if token in sampling.stop_token_ids:
            break
    return tokens, logprobs


def sample_all(model: PreTrainedModel, prompts: list[list[int]], sampling: Sampling, slots: int | None) -> Rollout:
    rows = range(len(prompts))
    return sample_responses(model, prompts, sampling, generator=generator(), rows=rows, total=len(rows), slots=slots)


@pytest.mark.parametrize("slots", [None, 3])
def test_a_response_depends_on_its_row_and_not_on_which_rows_are_asked_for(slots: int | None) -> None:
    model, prompts, sampling = build(), PROMPTS * 4, Sampling(20, stop_token_ids=(EOS,))
    whole = sample_all(model, prompts, sampling, None)
    for rows in ([0], [23, 4, 11], list(range(1, 24, 2))):
        part = sample_responses(
            model,
            [prompts[row] for row in rows],
            sampling,
            generator=generator(),
            rows=rows,
            total=len(prompts),
            slots=slots,
        )
        assert part.tokens == [whole.tokens[row] for row in rows]


def test_a_call_takes_as_many_numbers_as_rows_and_steps_from_the_generator() -> None:
    """Who samples several batches from one generator depends on it."""
    used, fresh = generator(), generator()
    rollout = sample(build(), PROMPTS, 20, eos_token_id=[EOS, 3, 4, 5, 6], pad_token_id=PAD, generator=used)
    assert max(rollout.lengths) < 20
    torch.rand(len(PROMPTS) * max(rollout.lengths), generator=fresh, dtype=torch.float64)
    assert torch.equal(torch.rand(3, generator=used), torch.rand(3, generator=fresh))


def test_a_greedy_call_takes_no_numbers() -> None:
    used = generator()
    sample(build(), PROMPTS, 5, 0.0, eos_token_id=EOS, pad_token_id=PAD, generator=used)
    assert torch.equal(torch.rand(3, generator=used), torch.rand(3, generator=generator()))


def test_olmoe_has_its_own_decoder_and_other_models_have_not() -> None:
    assert isinstance(build_decoder(build(), 32), OlmoeDecoder)
    assert isinstance(build_decoder(build(**ROUTED), 32), OlmoeDecoder)
    assert isinstance(build_decoder(build(attention_bias=True), 32), HuggingFaceDecoder)
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


class Watched(OlmoeDecoder):
    """Notes the sizes of its batch and cache."""

    def __init__(self, model: OlmoeForCausalLM, capacity: int) -> None:
        super().__init__(model, capacity)
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.admitted = self.moved = 0

    def step(self, tokens: Tensor) -> Tensor:
        logits = super().step(tokens)
        self.rows.append(len(tokens))
        self.columns.append(self._length)
        assert all(len(cache) == len(tokens) for cache in (*self._keys, *self._values))
        return logits

    def admit(self, places: Tensor, input_ids: Tensor, valid: Tensor) -> None:
        self.admitted += len(places)
        super().admit(places, input_ids, valid)

    def _move_end(self, end: int) -> None:
        self.moved += 1
        super()._move_end(end)


@pytest.mark.parametrize("slots", [2, 3, 8, 24])
def test_freed_slots_are_refilled_in_a_cache_of_slots_times_capacity(slots: int) -> None:
    model, prompts, sampling = build(), PROMPTS * 8, Sampling(20, stop_token_ids=(EOS, 3))
    expected = sample_all(model, prompts, sampling, None)
    decoder = Watched(model, 7 + 20)
    rollout = sample_responses(
        model, prompts, sampling, generator=generator(), rows=range(48), total=48, slots=slots, decoder=decoder
    )
    assert rollout.tokens == expected.tokens
    assert rollout.finish_reasons == expected.finish_reasons
    for one, two in zip(rollout.logprobs, expected.logprobs, strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    assert max(decoder.rows) == slots
    assert max(decoder.columns) <= 7 + 20
    assert decoder.admitted > 0
    assert decoder.moved > 0
    # Rows that do nothing are few: at most one in eight until no prompt waits.
    assert sum(decoder.rows) < 1.3 * sum(expected.lengths) + 20 * slots


@pytest.mark.parametrize("slots", [12, 20, 40])
def test_finished_rows_that_wait_for_others_disturb_nothing(slots: int) -> None:
    """More than eight slots: a finished row stays for a while, past its limit and while the cache is moved."""
    model, prompts, sampling = build(), PROMPTS * 25, Sampling(8, stop_token_ids=(EOS, 3))
    prompts = [[*prompt, *[4] * (row % 5)] for row, prompt in enumerate(prompts)]
    rollout = sample_all(model, prompts, sampling, slots)
    assert rollout.finish_reasons.count("length") > 10
    assert rollout.tokens == sample_all(model, prompts, sampling, None).tokens


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2}], ids=["one key a query", "grouped queries"])
def test_rows_can_be_kept_in_any_order(changes: dict[str, object]) -> None:
    model = build(**changes)
    prompts = torch.tensor([[5, 6], [7, 8], [9, 10], [11, 12]])
    kept, new = torch.tensor([0, 3, 1]), torch.tensor([3, 4, 5])
    logits = []
    for decoder in (OlmoeDecoder(model, 8), HuggingFaceDecoder(model)):
        with torch.inference_mode():
            decoder.prefill(prompts, torch.tensor([[True, True], [False, True], [True, True], [False, True]]))
            decoder.keep(kept)
            logits.append(decoder.step(new))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)


def test_no_more_rows_change_their_places_than_leave() -> None:
    kept: list[tuple[int, int, int]] = []

    class Noting(OlmoeDecoder):
        def keep(self, rows: Tensor) -> None:
            moved = (rows != torch.arange(len(rows))).sum()
            kept.append((len(self._lengths), len(rows), int(moved)))
            super().keep(rows)

    model = build()
    sample(
        model,
        PROMPTS * 8,
        20,
        eos_token_id=EOS,
        pad_token_id=PAD,
        generator=generator(),
        decoder=Noting(model, 7 + 20),
    )
    assert len(kept) > 3
    assert any(moved for _, _, moved in kept)
    assert all(moved <= before - after for before, after, moved in kept)


def test_experts_too_large_to_be_copied_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(**ROUTED)
    expected = run(model, PROMPTS)
    monkeypatch.setattr("bai_pipeline.ppo.experts.COPIED_EXPERTS_MAX", 0)
    rollout = run(model, PROMPTS)
    assert rollout.tokens == expected.tokens
    for one, two in zip(rollout.logprobs, expected.logprobs, strict=True):
        assert one == pytest.approx(two, abs=1e-5)


def test_columns_that_no_row_has_are_given_up() -> None:
    """A long prompt ends at once, and the rest are short."""
    model, sampling = build(), Sampling(4)
    prompts = [list(range(3, 20)) * 2, *PROMPTS * 4]
    decoder = Watched(model, 34 + 4)
    sample_responses(
        model, prompts, sampling, generator=generator(), rows=range(25), total=25, slots=2, decoder=decoder
    )
    assert max(decoder.columns) > 34
    assert max(decoder.columns[8:]) < 24


def test_a_newcomer_longer_than_all_that_was_read_moves_the_cache_to_the_right() -> None:
    model, prompts = build(), [[5], [6], [7], list(range(3, 19)), [8], [9] * 12]
    for stops in ((EOS,), tuple(range(2, 12))):
        sampling = Sampling(20, stop_token_ids=stops)
        expected = sample_all(model, prompts, sampling, None)
        for slots in (2, 3):
            assert sample_all(model, prompts, sampling, slots).tokens == expected.tokens


def test_a_model_without_its_own_decoder_is_sampled_in_waves() -> None:
    model, sampling = build_llama(), Sampling(20, stop_token_ids=(EOS,))
    sizes: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, options: sizes.append(len(options["input_ids"])), with_kwargs=True
    )
    waves = sample_all(model, PROMPTS, sampling, 2)
    assert max(sizes) == 2
    assert waves.tokens == sample_all(model, PROMPTS, sampling, None).tokens


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


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 0.4, [1]),
        (0, 0.6, [1, 3]),
        (0, 0.9, [0, 1, 3]),
        (0, 0.97, [0, 1, 2, 3]),
        (0, 1.0, [0, 1, 2, 3]),
        (1, 1.0, [1]),
        (3, 1.0, [0, 1, 3]),
        (9, 1.0, [0, 1, 2, 3]),
        (2, 0.6, [1]),  # 0.5 of the 0.8 that the two have
        (2, 0.65, [1, 3]),
    ],
)
def test_the_most_probable_tokens_stay_and_then_the_smallest_set_with_the_share_top_p(
    top_k: int, top_p: float, kept: list[int]
) -> None:
    logprobs = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    left = cut(logprobs, top_k, top_p)
    assert left.isfinite().nonzero()[:, 1].tolist() == kept
    assert torch.equal(left[0, kept], logprobs[0, kept])


def test_sampling_leaves_the_model_as_it_was() -> None:
    model = build()
    model.train()
    run(model, PROMPTS)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_that_checkpoint_activations_sample_with_their_cache_and_go_on_checkpointing() -> None:
    """These are in training mode within a model in evaluation mode."""
    model = build_llama()
    expected = run(model, PROMPTS)
    model.activation_checkpointing_enable()
    for layer in model.model.layers:
        layer.training = True
    modes = {name: module.training for name, module in model.named_modules()}
    assert run(model, PROMPTS) == expected
    assert {name: module.training for name, module in model.named_modules()} == modes


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


@pytest.mark.parametrize(("rows", "total"), [([0], 2), ([0, 2], 2), ([0, -1], 2)])
def test_rows_that_are_not_one_a_prompt_below_the_total_are_refused(rows: list[int], total: int) -> None:
    with pytest.raises(DataError, match=rf"one row number below {total} for each of 2 prompts, got \[0"):
        sample_responses(build(), [[5], [6]], Sampling(5), generator=generator(), rows=rows, total=total)


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
