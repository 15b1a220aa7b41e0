"""What each option of a PPO run does, through whole steps of a tiny policy."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from bai_pipeline.errors import DataError, TrainingError
from bai_pipeline.ppo.rollouts.embedded import EmbeddedEngine
from bai_pipeline.ppo.rollouts.interface import Rollout
from bai_pipeline.ppo.trainer import PpoTrainer
from bai_pipeline.settings import PpoSettings

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",  # DeepSpeed imports torch's inductor
)

Make = Callable[..., PpoTrainer]


def by_length(
    prompts: Sequence[Any],
    responses: Sequence[str],
    answers: Sequence[str | None],
    truncated: Sequence[bool] | None = None,
) -> list[float]:
    """A scorer that prefers brief responses."""
    return [-0.1 * len(text.split(" ")) for text in responses]


@pytest.fixture
def make(world: Path, with_settings: Callable[..., PpoSettings]) -> Make:
    def call(**changes: Any) -> PpoTrainer:
        settings = with_settings(**{"kl_coef": 0.0, **changes})
        return PpoTrainer(
            world / "actor", world / "reward", None, world / "prompts.parquet", by_length, settings, seed=0
        )

    return call


def weights(trainer: PpoTrainer, name: str) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.engines[name].module.parameters()])


def mean_error(trainer: PpoTrainer, step: int) -> float:
    rows = trainer.step(step).prefixes
    tokens = sum(int(row["tokens"] or 0) for row in rows)
    return sum(float(row["value_error"] or 0) * int(row["tokens"] or 0) for row in rows) / tokens


def test_calibration_moves_the_critic_to_the_mean_of_the_returns_once(make: Make) -> None:
    assert abs(mean_error(make(), 0)) > 0.1
    trainer = make(calibrate_critic=True)
    assert mean_error(trainer, 0) == pytest.approx(0, abs=1e-5)
    offset = trainer.critic.offset
    assert offset != 0
    trainer.step(1)
    assert trainer.critic.offset == offset
    again = make(calibrate_critic=True)
    again.restore(trainer.state())
    assert again.critic.offset == offset


def test_in_its_warm_up_only_the_critic_is_trained(make: Make) -> None:
    trainer = make(critic_warmup_steps=1)
    actor, critic = weights(trainer, "actor"), weights(trainer, "critic")
    row = trainer.step(0).steps
    assert torch.equal(weights(trainer, "actor"), actor)
    assert not torch.equal(weights(trainer, "critic"), critic)
    assert (row["policy_loss"], row["lr_actor"]) == (None, None)
    row = trainer.step(1).steps
    assert not torch.equal(weights(trainer, "actor"), actor)
    assert row["lr_actor"] == pytest.approx(1e-3 * 1.5 / 4)  # the mean of its first two of four warm-up updates


def test_the_kl_coefficient_follows_its_target(make: Make) -> None:
    """The first KL is 0: the error is clipped at -0.2, for 8 of 80 responses."""
    trainer = make(kl_coef=0.5, kl_target=1.0, kl_horizon=80)
    assert trainer.step(0).steps["kl_coef"] == 0.5
    assert trainer.step(1).steps["kl_coef"] == pytest.approx(0.5 * (1 - 0.2 * 8 / 80))


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_a_kl_penalty_is_part_of_the_rewards_or_of_the_loss(make: Make, placement: str) -> None:
    trainer = make(kl_coef=5.0, kl_placement=placement)
    rows = [trainer.step(step).steps for step in range(3)]
    assert all(float(row["kl_ref"] or 0) > 1e-8 for row in rows[1:])
    in_reward = [row["reward_mean"] != pytest.approx(row["score_mean"], abs=1e-6) for row in rows[1:]]
    assert in_reward == [placement == "reward"] * 2
    free = make(kl_coef=1e-9, kl_placement=placement)
    loose = [free.step(step).steps for step in range(3)]
    assert float(rows[2]["kl_ref"] or 0) < float(loose[2]["kl_ref"] or 0)


def test_a_stop_token_ends_responses(make: Make) -> None:
    plain, cut = make(), make(stop_tokens=tuple("0123456789"))
    lengths = [float(trainer.step(0).steps["length_mean"] or 0) for trainer in (plain, cut)]
    assert lengths[1] < lengths[0]
    with pytest.raises(DataError, match="stop_tokens: the actor's tokenizer has no token 'zebra'"):
        make(stop_tokens=("zebra",))


def test_verifiers_beside_the_learned_reward_need_one_for_every_prompt(make: Make) -> None:
    with pytest.raises(DataError, match=r"verifier_coef is 0\.5 and prompt 'p.' names no verifier, or no answer"):
        make(verifier_coef=0.5, batch_size=12, mini_batch_size=4).step(0)


def test_what_sampler_and_trainer_compute_alike_needs_no_correction(make: Make) -> None:
    plain, corrected = make(), make(importance_cap=2.0)
    for name in ("policy_loss", "kl_train_sample", "clip_fraction"):
        for step in range(2):
            first, second = (trainer.step(step).steps[name] for trainer in (plain, corrected))
            assert first == pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_aggregation": "sequence"},
        {"clip_range_high": 0.5, "actor_learning_rate": 0.03},
        {"dual_clip": 1.01, "actor_learning_rate": 0.03},
        {"entropy_coef": 0.1},
        {"router_aux_coef": 1.0},
        {"critic_lam": 1.0},
        {"whiten_advantages": False},
        {"value_clip_range": None, "critic_learning_rate": 0.03},
        {"top_k": 2},
        {"top_p": 0.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_option_that_is_set_changes_what_is_trained(make: Make, changes: dict[str, Any]) -> None:
    rates = {name: value for name, value in changes.items() if name.endswith("learning_rate")}
    plain, other = make(**rates, warmup_updates=0), make(**changes, warmup_updates=0)
    for step in range(2):
        plain.step(step)
        other.step(step)
    engine = "critic" if changes.keys() & {"critic_lam", "value_clip_range"} else "actor"
    assert not torch.equal(weights(plain, engine), weights(other, engine))


def test_stale_weights_in_the_rollout_engine_stop_the_run(make: Make) -> None:
    trainer = make(actor_learning_rate=0.01, warmup_updates=0)
    stale = EmbeddedEngine(deepcopy(trainer.policy), in_place=False)
    stale.synchronize = lambda weights: None  # type: ignore[method-assign]
    trainer._rollouts = stale
    trainer.step(0)
    before = weights(trainer, "actor")
    with pytest.raises(
        TrainingError, match=r"step 1: log-probabilities of sampled tokens are .* from the trainer's on average, probe"
    ):
        trainer.step(1)
    assert torch.equal(weights(trainer, "actor"), before)


class Shifted(EmbeddedEngine):
    """Reports other log-probabilities than it sampled with: of the first token of each batch, or of all."""

    def __init__(self, policy: PreTrainedModel, by: float, *, of_all: bool) -> None:
        super().__init__(policy, in_place=True)
        self._by, self._of_all = by, of_all

    def generate(self, *arguments: Any, **options: Any) -> Rollout:
        rollout = super().generate(*arguments, **options)
        shifted = [
            [value + self._by if self._of_all or row == token == 0 else value for token, value in enumerate(values)]
            for row, values in enumerate(rollout.logprobs)
        ]
        return replace(rollout, logprobs=shifted)


@pytest.mark.parametrize(("by", "of_all"), [(2e-4, True), (1.0, False), (math.nan, False)])
def test_log_probabilities_that_are_not_the_trainers_stop_the_run(make: Make, by: float, of_all: bool) -> None:
    trainer = make()
    trainer._rollouts = Shifted(trainer.policy, by, of_all=of_all)
    with pytest.raises(TrainingError, match="the embedded rollout engine does not compute the policy in training"):
        trainer.step(0)


def test_one_token_that_another_expert_reads_does_not_stop_the_run(make: Make) -> None:
    trainer = make()
    trainer._rollouts = Shifted(trainer.policy, 1e-3, of_all=False)
    assert cast(float, trainer.step(0).steps["length_mean"]) > 0


def test_a_replica_that_is_synchronised_samples_what_the_policy_itself_samples(make: Make) -> None:
    own, replica = make(), make()
    replica._rollouts = EmbeddedEngine(deepcopy(replica.policy), in_place=False)
    for step in range(3):
        assert own.step(step).responses == replica.step(step).responses


def test_greedy_responses_to_the_first_prompts_are_kept_every_so_many_steps(make: Make) -> None:
    trainer = make(sample_every=2, sample_prompts=3)
    samples = [trainer.step(step).samples for step in range(3)]
    assert [len(rows) for rows in samples] == [3, 0, 3]
    assert [row["prompt_id"] for row in samples[0]] == ["p0", "p1", "p2"]
    for row in samples[0]:
        words = str(row["response"]).split(" ") if row["response"] else []
        assert row["length"] == len(words) + (row["finish_reason"] == "stop")


def test_greedy_responses_are_those_of_the_policy_before_the_updates_of_their_step(make: Make) -> None:
    still, moving = (make(sample_every=1, actor_learning_rate=rate, warmup_updates=0) for rate in (1e-12, 0.3))
    before, after = ([trainer.step(step).samples for step in range(2)] for trainer in (still, moving))
    assert after[0] == before[0]
    assert [row["response"] for row in after[1]] != [row["response"] for row in before[1]]


def test_the_gap_between_stopping_and_going_on_is_that_of_unwhitened_advantages(make: Make) -> None:
    """A critic of zeros and lambda 1: every token's advantage is what its response earns."""
    trainer = make(lam=1.0, batch_size=32)
    with torch.no_grad():
        cast(torch.nn.Linear, trainer.critic.model.score).weight.zero_()
        trainer.critic.offset = float(trainer.critic.model.config.score_shift / trainer.critic.model.config.score_scale)
    record = trainer.step(0)
    ended = [row for row in record.responses if row["finish_reason"] == "stop"]
    stops = sum(float(row["score"] or 0) for row in ended) / len(ended)
    going = sum(float(row["score"] or 0) * (int(row["length"] or 0) - (row in ended)) for row in record.responses)
    others = sum(int(row["length"] or 0) - (row in ended) for row in record.responses)
    assert record.steps["stop_gap"] == pytest.approx(stops - going / others, abs=1e-5)
