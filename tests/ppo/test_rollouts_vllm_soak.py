"""vLLM itself, in an environment of its own, on the CPU: its tokens and log-probabilities are those of transformers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import OlmoeForCausalLM, PreTrainedTokenizerFast

from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.rollouts import vllm
from bai_pipeline.ppo.rollouts.interface import Rollout, Sampling
from bai_pipeline.ppo.rollouts.vllm import VllmEngine
from bai_pipeline.ppo.sampler import sample
from bai_pipeline.settings import ModelSettings
from bai_pipeline.synthetic.olmoe import build_olmoe

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".peers" / "vllm" / "bin" / "python"

SIZES = ModelSettings(
    num_hidden_layers=2,
    hidden_size=64,
    num_attention_heads=2,  # vLLM's attention on CPUs takes heads of 32 and more
    num_experts=4,
    num_experts_per_tok=2,
    intermediate_size=32,
    max_position_embeddings=64,
)
PROMPTS = [[1, 4 + row, 8 + row, 20 + row] + [9] * (row % 3) for row in range(16)]
KV_CACHE = 64 << 20

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def python() -> Path:
    if not (PYTHON.parents[1] / ".installed").exists():
        subprocess.run(["make", ".peers/vllm/.installed"], cwd=ROOT, check=True, capture_output=True)
    return PYTHON


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> OlmoeForCausalLM:
    """Random weights four times their usual size: far from uniform, and with more than one likely token."""
    built = build_olmoe(SIZES, tokenizer, seed=0)
    change(built, lambda value: value * 4)
    return built


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    path = tmp_path_factory.mktemp("policy")
    build_olmoe(SIZES, tokenizer, seed=0).config.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(python: Path, directory: Path) -> Iterator[VllmEngine]:
    made = VllmEngine(directory, python=python, kv_cache_bytes=KV_CACHE, timeout=300)
    yield made
    made.close()


def change(model: OlmoeForCausalLM, update: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(update(parameter))


def draw(engine: VllmEngine, sampling: Sampling) -> Rollout:
    return engine.generate(PROMPTS, sampling, seed=5, rows=range(len(PROMPTS)), total=len(PROMPTS))


@torch.no_grad()
def logits_of(model: OlmoeForCausalLM, rollout: Rollout) -> list[Tensor]:
    """Per response the logits (tokens, V) from which transformers would have drawn it."""
    return [
        model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        for prompt, tokens in zip(PROMPTS, rollout.tokens, strict=True)
    ]


def difference(model: OlmoeForCausalLM, rollout: Rollout, temperature: float = 1.0) -> float:
    """Largest distance of a log-probability from that of transformers' forward pass."""
    worst = 0.0
    for logits, tokens, logprobs in zip(logits_of(model, rollout), rollout.tokens, rollout.logprobs, strict=True):
        wanted = (logits / temperature).log_softmax(-1)[torch.arange(len(tokens)), tokens]
        worst = max(worst, float((wanted - torch.tensor(logprobs)).abs().max()))
    return worst


def test_greedy_tokens_are_those_of_our_sampler_before_and_after_an_update(
    engine: VllmEngine, model: OlmoeForCausalLM
) -> None:
    rollouts = []
    for seed in range(2):
        torch.manual_seed(seed)
        change(model, lambda value: value + 0.02 * torch.randn_like(value))
        stop = sample(model, PROMPTS, 24, 0.0, eos_token_id=2, pad_token_id=0).tokens[0][5]
        ours = sample(model, PROMPTS, 24, 0.0, eos_token_id=(2, stop), pad_token_id=0)
        engine.synchronize(model.named_parameters())
        theirs = draw(engine, Sampling(24, temperature=0.0, stop_token_ids=(2, stop)))
        assert theirs.tokens == ours.tokens
        assert theirs.finish_reasons == ours.finish_reasons
        assert "stop" in theirs.finish_reasons
        assert difference(model, theirs) < 1e-5
        rollouts.append(theirs)
    assert rollouts[0].tokens != rollouts[1].tokens


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(24, stop_token_ids=(2, 7)), None),
        (Sampling(24, temperature=0.7), None),
        (Sampling(24, temperature=1.5), None),
        (Sampling(24, top_k=2), 2),
        (Sampling(24, top_p=0.5), 20),
    ],
)
def test_log_probabilities_are_those_of_transformers_whatever_is_cut_off(
    engine: VllmEngine, model: OlmoeForCausalLM, sampling: Sampling, kept: int | None
) -> None:
    engine.synchronize(model.named_parameters())
    rollout = draw(engine, sampling)
    print(f"{sampling}: {difference(model, rollout, sampling.temperature):.1e}")
    assert difference(model, rollout, sampling.temperature) < 1e-5
    assert all(-40 < logprob < 0 for row in rollout.logprobs for logprob in row)
    ranks = [
        int((logits > logits[token]).sum())
        for rows, tokens in zip(logits_of(model, rollout), rollout.tokens, strict=True)
        for logits, token in zip(rows, tokens, strict=True)
    ]
    assert max(ranks) > 0
    assert kept is None or max(ranks) < kept
    stops = [row[-1] in sampling.stop_token_ids for row in rollout.tokens]
    assert stops == [reason == "stop" for reason in rollout.finish_reasons]
    assert not any(token in sampling.stop_token_ids for row in rollout.tokens for token in row[:-1])


def test_an_engine_that_was_not_synchronized_shows_in_its_log_probabilities(
    engine: VllmEngine, model: OlmoeForCausalLM
) -> None:
    """The size of one optimizer step at learning rate 1e-3; what the trainer's probe compares."""
    engine.synchronize(model.named_parameters())
    torch.manual_seed(0)
    change(model, lambda value: value + 1e-3 * torch.randn_like(value).sign())
    stale = difference(model, draw(engine, Sampling(24)))
    engine.synchronize(model.named_parameters())
    fresh = difference(model, draw(engine, Sampling(24)))
    print(f"stale: {stale:.1e}, synchronized: {fresh:.1e}")
    assert stale > 1e-3
    assert fresh < 1e-5


def test_a_response_depends_on_seed_and_row_only(engine: VllmEngine, model: OlmoeForCausalLM) -> None:
    engine.synchronize(model.named_parameters())
    sampling = Sampling(24)
    together = draw(engine, sampling)
    alone = engine.generate([PROMPTS[9], PROMPTS[3]], sampling, seed=5, rows=[9, 3], total=len(PROMPTS))
    other = engine.generate(PROMPTS, sampling, seed=6, rows=range(len(PROMPTS)), total=len(PROMPTS))
    assert alone.tokens == [together.tokens[9], together.tokens[3]]
    assert all(one != two for one, two in zip(together.tokens, other.tokens, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_of_many_rows_have_the_frequencies_of_the_policy(
    engine: VllmEngine, model: OlmoeForCausalLM, temperature: float
) -> None:
    """Seeds of neighbouring rows are independent enough: every frequency within four standard deviations."""
    engine.synchronize(model.named_parameters())
    count, prompt = 4000, PROMPTS[0]
    rollout = engine.generate(
        [prompt] * count, Sampling(1, temperature=temperature), seed=1, rows=range(count), total=count
    )
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
    drawn = torch.tensor(rollout.tokens)[:, 0].bincount(minlength=len(expected)) / count
    deviation = (expected * (1 - expected) / count).sqrt()
    assert expected.max() < 0.9
    assert ((drawn - expected).abs() <= 4 * deviation + 1 / count).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("norm_topk_prob", True), ("clip_qkv", 0.5), ("rms_norm_eps", 0.1), ("tie_word_embeddings", True)],
    ids=str,
)
def test_what_is_refused_of_an_olmoe_config_is_what_vllm_does_not_follow(
    python: Path,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
) -> None:
    """Once this fails, vLLM has learnt it and the refusal can go."""
    built = build_olmoe(SIZES, tokenizer, seed=0)
    config = type(built.config)(**{**built.config.to_dict(), name: value})
    other = OlmoeForCausalLM(config)
    other.load_state_dict(built.state_dict())
    change(other, lambda value: value * 4)
    config.save_pretrained(tmp_path)
    monkeypatch.setattr(vllm, "OLMOE", {})
    unguarded = VllmEngine(tmp_path, python=python, kv_cache_bytes=KV_CACHE, timeout=300)
    try:
        unguarded.synchronize(other.named_parameters())
        wrong = difference(other, draw(unguarded, Sampling(8)))
    finally:
        unguarded.close()
    print(f"{name}={value}: {wrong:.1e}")
    assert wrong > 1e-3


def test_a_killed_worker_is_an_error_that_says_so(python: Path, directory: Path, model: OlmoeForCausalLM) -> None:
    killed = VllmEngine(directory, python=python, kv_cache_bytes=KV_CACHE, timeout=300)
    try:
        killed.synchronize(model.named_parameters())
        os.kill(killed.worker_pid, signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"vllm_worker\.py .*was to generate, but ended with SIGKILL"):
            draw(killed, Sampling(4))
    finally:
        killed.close()


def test_what_vllm_says_of_a_model_that_it_cannot_run_is_in_the_error(
    python: Path, world: Path, policy: OlmoeForCausalLM
) -> None:
    narrow = VllmEngine(world / "actor", python=python, kv_cache_bytes=KV_CACHE, timeout=300)
    try:
        with pytest.raises(TrainingError, match="was to load, but ended with code 1") as caught:
            narrow.synchronize(policy.named_parameters())
    finally:
        narrow.close()
    assert "No Unquantized MoE backend supports" in str(caught.value)  # experts narrower than 32


def test_the_worker_ends_with_a_killed_trainer_and_leaves_no_file(
    python: Path, directory: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from bai_pipeline.ppo.rollouts.vllm import VllmEngine\n"
        "engine = VllmEngine(Path(sys.argv[1]), python=Path(sys.argv[2]), timeout=300)\n"
        "print(engine.worker_pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(directory), str(python)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as trainer:
        assert trainer.stdout is not None
        worker = int(trainer.stdout.readline())
        private = Path(Path(f"/proc/{worker}/cmdline").read_text().split("\0")[5])
        assert private.is_dir()
        trainer.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()
    assert not private.exists()
