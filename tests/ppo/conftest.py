"""A tiny world for PPO: a random policy, reward model and prompts, on one thread."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from transformers import OlmoeForCausalLM, PreTrainedTokenizerFast

from bai_pipeline.quiet import quiet_transformers
from bai_pipeline.reward.model import OlmoeForSequenceClassification
from bai_pipeline.settings import PpoSettings
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer
from bai_pipeline.synthetic.world_tables import VERIFIER
from bai_pipeline.tables import write_table
from tests import tiny

Model = TypeVar("Model", bound=torch.nn.Module)

MODEL = tiny.MODEL.model_copy(update={"intermediate_size": 8})

SETTINGS = PpoSettings(
    batch_size=8,
    mini_batch_size=4,
    epochs=1,
    precision="float32",
    actor_learning_rate=1e-3,
    critic_learning_rate=1e-3,
    warmup_updates=4,
    adam_beta1=0.9,
    adam_beta2=0.95,
    weight_decay=0.0,
    max_grad_norm=1.0,
    gamma=1.0,
    lam=0.95,
    critic_lam=None,
    clip_range=0.2,
    clip_range_high=None,
    dual_clip=None,
    loss_aggregation="token",
    importance_cap=None,
    value_clip_range=0.2,
    whiten_advantages=True,
    critic_warmup_steps=0,
    calibrate_critic=False,
    kl_coef=0.05,
    kl_placement="reward",
    kl_target=None,
    kl_horizon=10000,
    entropy_coef=0.0,
    router_aux_coef=0.0,
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    stop_tokens=(),
    rollout_engine="embedded",
    probe_responses=4,
    probe_tolerance=1e-4,
    max_prompt_tokens=16,
    max_new_tokens=12,
    missing_eos_penalty=0.0,
    sample_every=2,
    sample_prompts=2,
    prefix_width=4,
    verifier_coef=0.0,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def policy(tokenizer: PreTrainedTokenizerFast) -> OlmoeForCausalLM:
    """Random weights eight times their usual size: a distribution that is far from uniform."""
    return _sharpened(build_olmoe(MODEL, tokenizer, seed=0))


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, policy: OlmoeForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """actor/, reward/ and prompts.parquet (11 prompts, 9 of them with an answer)."""
    root = tmp_path_factory.mktemp("world")
    config = type(policy.config)(**{**policy.config.to_dict(), "id2label": {0: "score"}})
    config.score_shift, config.score_scale = 0.5, 2.0
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(1)
        reward = _sharpened(OlmoeForSequenceClassification(config))  # type: ignore[no-untyped-call]  # transformers
        policy.save_pretrained(root / "actor")
        reward.save_pretrained(root / "reward")
    for name in ("actor", "reward"):
        tokenizer.save_pretrained(root / name)
    rows: list[dict[str, Any]] = []
    for index in range(11):
        known = index >= 2
        rows.append(
            {
                "id": f"p{index}",
                "messages": [{"role": "user", "content": f"sum a {index % 10} b {index // 2}" + " c 1" * (index % 3)}],
                "answer": str(index % 10) if known else None,
                "verifier": VERIFIER if known else None,
            }
        )
    write_table(rows, root / "prompts.parquet")
    return root


@pytest.fixture
def settings() -> PpoSettings:
    return SETTINGS


@pytest.fixture
def with_settings() -> Callable[..., PpoSettings]:
    """The settings with some changed."""

    def change(**changes: Any) -> PpoSettings:
        return PpoSettings(**{**SETTINGS.model_dump(), **changes})

    return change


def _sharpened(model: Model) -> Model:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(8)
    return model
