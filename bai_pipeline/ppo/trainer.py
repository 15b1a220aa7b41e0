"""One PPO step: sample, score, estimate, update.

The trainer holds all state (models, optimizers); the mathematics is in `math`, the order of steps and what survives a
kill in `run`. Shapes as in `experience`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

import bai_pipeline.ppo.math as ppo_math
from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.engines import (
    DEFAULT_DEEPSPEED,
    DeepSpeedConfig,
    build_engine,
    load_actor,
    load_critic,
    training_dtype,
)
from bai_pipeline.ppo.experience import Experience, build_experience
from bai_pipeline.ppo.prompts import Prompt, load_prompts
from bai_pipeline.ppo.randomness import generator, permutation
from bai_pipeline.ppo.records import Means, StepRecord, Stopwatch, accuracy_of, response_rows, rollout_readings
from bai_pipeline.ppo.sampler import Rollout, response_texts, sample, stop_tokens
from bai_pipeline.reward.scorers import Scorer, VerifierScorer
from bai_pipeline.settings import PpoSettings


class PpoTrainer:
    """Actor and critic in training, the frozen reference, and what feeds them.

    Modules stay in evaluation mode: dropout would make π_train differ from π_sample before the first update.
    """

    def __init__(
        self,
        actor: Path,
        critic_init: Path,
        reference: Path | None,
        prompts: Path,
        scorer: Scorer,
        settings: PpoSettings,
        seed: int,
        deepspeed: DeepSpeedConfig = DEFAULT_DEEPSPEED,
    ) -> None:
        """Load the models and the prompts; nothing random happens.

        Args:
            actor: directory of the initial policy; its tokenizer and chat template are the run's.
            critic_init: reward model, or policy for a critic with a zero head.
            reference: frozen policy of the KL penalty; None: the initial actor. Loaded only if kl_coef > 0.
            prompts: Parquet file `{id, messages, answer?, verifier?}`.
            deepspeed: ZeRO stage, precision and offloading.
        """
        self._settings, self._seed, self._scorer = settings, seed, scorer
        self._tokenizer = AutoTokenizer.from_pretrained(actor, local_files_only=True)
        self.prompts = load_prompts(
            prompts,
            self._tokenizer,
            max_prompt_tokens=settings.max_prompt_tokens,
            seed=seed,
            verified=isinstance(scorer, VerifierScorer),
        )
        dtype = training_dtype(deepspeed)
        policy, critic = load_actor(actor, dtype), load_critic(critic_init, actor, dtype)
        self.engines: dict[str, Any] = {
            "actor": build_engine(policy, settings, learning_rate=settings.actor_learning_rate, deepspeed=deepspeed),
            "critic": build_engine(critic, settings, learning_rate=settings.critic_learning_rate, deepspeed=deepspeed),
        }
        self.reference: PreTrainedModel | None = None
        if settings.kl_coef > 0:
            self.reference = load_actor(reference or actor, dtype).requires_grad_(False)
            self.reference.to(policy.device)  # type: ignore[arg-type]
        self._eos = stop_tokens(policy, self._tokenizer)
        self._pad: int = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._eos[0]
        self._routed = getattr(policy.config, "output_router_logits", None) is not None

    @property
    def policy(self) -> PreTrainedModel:
        """The actor's model with its present weights."""
        model: PreTrainedModel = self.engines["actor"].module
        return model

    def step(self, step: int) -> StepRecord:
        """Step number `step` (from 0): one rollout batch and all updates from it.

        Raises:
            TrainingError: a score, loss or gradient is not finite; names the step and the quantity.
        """
        watch = Stopwatch()
        prompts = self.prompts.batch(step, self._settings.batch_size)
        rollout = self._sample(prompts, step)
        watch.mark("sample_seconds")
        texts = response_texts(rollout, self._tokenizer)
        scores = self._score(step, prompts, texts, rollout)
        watch.mark("score_seconds")
        experience, readings = self._estimate(step, prompts, rollout, scores)
        watch.mark("estimate_seconds")
        means = self._update(step, experience)
        watch.mark("update_seconds")
        where = {"seed": self._seed, "step": step}
        verdicts = None
        if self.prompts.has_answers:
            verdicts = [prompt.is_correct(text) for prompt, text in zip(prompts, texts, strict=True)]
            readings["accuracy"] = accuracy_of(verdicts)
        return StepRecord(
            steps={**where, **rollout_readings(rollout, scores), **readings, **means.as_row()},
            responses=response_rows(where, prompts, rollout, scores, verdicts),
            timings={**where, **watch.as_row(), "tokens": sum(rollout.lengths)},
        )

    def _sample(self, prompts: Sequence[Prompt], step: int) -> Rollout:
        return sample(
            self.policy,
            [prompt.tokens for prompt in prompts],
            self._settings.max_new_tokens,
            self._settings.temperature,
            eos_token_id=self._eos,
            pad_token_id=self._pad,
            generator=generator(self._seed, step, "sampling"),
        )

    def _score(self, step: int, prompts: Sequence[Prompt], texts: list[str], rollout: Rollout) -> list[float]:
        scores = self._scorer(
            [prompt.messages for prompt in prompts],
            texts,
            [prompt.answer for prompt in prompts],
            truncated=[reason == "length" for reason in rollout.finish_reasons],
        )
        for prompt, score in zip(prompts, scores, strict=True):
            _require_finite(step, f"score of the response to prompt {prompt.id!r}", score)
        return scores

    def _estimate(
        self, step: int, prompts: Sequence[Prompt], rollout: Rollout, scores: Sequence[float]
    ) -> tuple[Experience, dict[str, float | None]]:
        """Rollouts with values, advantages and returns; and the readings that are taken before the update."""
        settings = self._settings
        batch = build_experience(
            [prompt.tokens for prompt in prompts], rollout.tokens, rollout.logprobs, self._pad, self.policy.device
        )
        mask, sample_logprobs = batch.mask, batch.sample_logprobs
        values = batch.compute(lambda part: self.engines["critic"].module(part.inputs), settings.mini_batch_size)
        readings: dict[str, float | None] = {}
        ref_logprobs = None
        if self.reference is not None:
            ref_logprobs = batch.compute(self._ref_logprobs, settings.mini_batch_size)
            readings["kl_ref"] = float(ppo_math.k3_kl_sample_train(ref_logprobs, sample_logprobs, mask))
        penalties = [settings.missing_eos_penalty * (reason == "length") for reason in rollout.finish_reasons]
        rewards = ppo_math.token_rewards(
            torch.tensor(scores, device=mask.device) - torch.tensor(penalties, device=mask.device),
            mask,
            sample_logprobs=sample_logprobs,
            ref_logprobs=ref_logprobs,
            kl_coef=settings.kl_coef,
        )
        advantages, returns = ppo_math.gae(rewards, values, mask, gamma=settings.gamma, lam=settings.lam)
        if settings.whiten_advantages:
            advantages = ppo_math.whiten(advantages, mask)
        readings["reward_mean"] = float(rewards.sum(-1).mean())
        readings["explained_variance"] = _number(ppo_math.explained_variance(values, returns, mask))
        return batch.with_estimates(values, advantages, returns), readings

    def _ref_logprobs(self, batch: Experience) -> Tensor:
        assert self.reference is not None
        logits = self.reference(input_ids=batch.inputs, use_cache=False).logits.float()
        return ppo_math.token_logprobs(logits, batch.targets, temperature=self._settings.temperature)

    def _update(self, step: int, experience: Experience) -> Means:
        """All epochs of mini-batches; token means are over every visit, before the update that follows from it."""
        means = Means()
        for epoch in range(self._settings.epochs):
            order = permutation(len(experience.tokens), self._seed, step, f"mini-batches of epoch {epoch}")
            for batch in experience.mini_batches(order, self._settings.mini_batch_size):
                self._update_actor(step, batch, means)
                self._update_critic(step, batch, means)
        return means

    def _update_actor(self, step: int, batch: Experience, means: Means) -> None:
        settings, mask, sample_logprobs = self._settings, batch.mask, batch.sample_logprobs
        options = {"output_router_logits": True} if self._routed else {}
        output = self.engines["actor"](input_ids=batch.inputs, use_cache=False, **options)
        logits = output.logits.float()
        logprobs = ppo_math.token_logprobs(logits, batch.targets, temperature=settings.temperature)
        loss = ppo_math.policy_loss(logprobs, sample_logprobs, batch.advantages, mask, clip_range=settings.clip_range)
        with torch.no_grad():
            kl = float(ppo_math.kl_train_sample(logprobs, sample_logprobs, mask))
            entropy = ppo_math.masked_mean(ppo_math.entropy(logits, temperature=settings.temperature), mask)
        if "kl_mismatch" not in means:
            means.add(1, kl_mismatch=kl)
        means.add(
            int(mask.sum()),
            policy_loss=loss.item(),
            kl_train_sample=kl,
            entropy=float(entropy),
            clip_fraction=float(
                ppo_math.clip_fraction(logprobs, sample_logprobs, mask, clip_range=settings.clip_range)
            ),
            aux_loss=self._aux_loss(output, batch),
        )
        self._apply(step, "actor", "policy loss", loss, means)

    def _update_critic(self, step: int, batch: Experience, means: Means) -> None:
        values = self.engines["critic"](batch.inputs)
        loss = ppo_math.value_loss(
            values, batch.values, batch.returns, batch.mask, value_clip=self._settings.value_clip_range
        )
        means.add(int(batch.mask.sum()), value_loss=loss.item())
        self._apply(step, "critic", "value loss", loss, means)

    def _apply(self, step: int, name: str, quantity: str, loss: Tensor, means: Means) -> None:
        """One optimizer update.

        Raises:
            TrainingError: the loss is not finite, before the update; or the gradient is not, after it: the weights in
                memory are lost then, and no checkpoint is made of them.
        """
        engine = self.engines[name]
        _require_finite(step, quantity, loss.item())
        learning_rate = engine.get_lr()[0]
        engine.backward(loss)
        engine.step()
        norm = float(engine.get_global_grad_norm())
        _require_finite(step, f"gradient norm of the {name}", norm)
        means.add(1, **{f"grad_norm_{name}": norm, f"lr_{name}": learning_rate})

    def _aux_loss(self, output: Any, batch: Experience) -> float:
        """The router's load-balancing loss, which is logged and not trained; 0 for a model without a router."""
        if not self._routed:
            return 0.0
        shape = (*batch.inputs.shape, -1)
        logits = torch.stack([layer.detach().view(shape) for layer in output.router_logits])
        top_k = self.policy.config.num_experts_per_tok
        return float(ppo_math.load_balancing_loss(logits, batch.real, top_k=top_k))


def _require_finite(step: int, quantity: str, value: float) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"step {step}: the {quantity} is {value}; training stopped, the checkpoints made before are intact"
        )


def _number(value: Tensor) -> float | None:
    """A scalar; None for NaN."""
    number = float(value)
    return None if math.isnan(number) else number
