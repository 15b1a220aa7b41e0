"""One PPO step: synchronise, sample, score, estimate, update.

The trainer holds all state (models, optimizers, coefficients); the mathematics is in `math`, the updates in `updates`,
the order of steps and what survives a kill in `run`. Shapes as in `experience`. All ranks call everything together;
each samples and scores its share of the prompts, then all hold the whole batch.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

import bai_pipeline.ppo.math as ppo_math
from bai_pipeline.errors import DataError, TrainingError
from bai_pipeline.ppo import diagnostics
from bai_pipeline.ppo.engines import (
    Critic,
    Parallelism,
    build_engine,
    freeze,
    load_actor,
    load_critic,
    training_dtype,
    whole_weights,
)
from bai_pipeline.ppo.experience import Experience, build_experience
from bai_pipeline.ppo.prompts import Prompt, load_prompts
from bai_pipeline.ppo.randomness import derive_seed
from bai_pipeline.ppo.ranks import Ranks
from bai_pipeline.ppo.records import (
    StepRecord,
    Stopwatch,
    accuracy_of,
    prefix_rows,
    response_rows,
    rollout_readings,
    sample_rows,
)
from bai_pipeline.ppo.rollouts.interface import Rollout, RolloutEngine, Sampling
from bai_pipeline.ppo.sampler import response_texts, stop_tokens
from bai_pipeline.ppo.updates import Updater, require_finite
from bai_pipeline.reward.scorers import Scorer, VerifierScorer
from bai_pipeline.settings import PpoSettings

Interrupted = Callable[[], None]
"""Called between the phases of a step before its first update; raises to leave the state as it was before the step."""


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
        parallelism: Parallelism | None = None,
    ) -> None:
        """Load the models and the prompts; nothing random happens.

        Args:
            actor: directory of the initial policy; its tokenizer and chat template are the run's.
            critic_init: reward model, or policy for a critic with a zero head.
            reference: frozen policy of the KL penalty; None: the initial actor. Loaded only if kl_coef > 0.
            prompts: Parquet file `{id, messages, answer?, verifier?}`.
            parallelism: how models are spread over the ranks.

        Raises:
            TrainingError: the ranks cannot share batches equally, or the DeepSpeed config sets what the study decides.
        """
        parallelism = parallelism or Parallelism()
        self.ranks = Ranks.join()
        self._check_shares(settings)
        self._settings, self._seed, self._scorer = settings, seed, scorer
        self._parallelism = parallelism
        self._tokenizer = AutoTokenizer.from_pretrained(actor, local_files_only=True)
        self.prompts = load_prompts(
            prompts,
            self._tokenizer,
            max_prompt_tokens=settings.max_prompt_tokens,
            seed=seed,
            verified=isinstance(scorer, VerifierScorer),
        )
        dtype = training_dtype(settings)
        policy, critic = load_actor(actor, dtype), load_critic(critic_init, actor, dtype)
        ends = (*stop_tokens(policy, self._tokenizer), *self._named_tokens(settings.stop_tokens))
        self._sampling = Sampling(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            stop_token_ids=tuple(sorted(set(ends))),
        )
        pad = self._tokenizer.pad_token_id
        self._pad: int = pad if pad is not None else ends[0]
        self._rollouts = self._rollout_engine(policy, actor)
        self.engines: dict[str, Any] = {
            name: build_engine(module, settings, learning_rate=rate, parallelism=parallelism)
            for name, module, rate in (
                ("actor", policy, settings.actor_learning_rate),
                ("critic", critic, settings.critic_learning_rate),
            )
        }
        self.device: torch.device = self.engines["actor"].device
        self.reference: nn.Module | None = None
        if settings.kl_coef > 0:
            self.reference = freeze(load_actor(reference or actor, dtype), settings, parallelism, self.device)
        self._updater = Updater(
            settings, seed, self.ranks, self.engines["actor"], self.engines["critic"], parallelism.micro_batch_size
        )
        self._kl_coef = settings.kl_coef

    @property
    def policy(self) -> PreTrainedModel:
        """The actor's model; its weights are whole unless they are spread over the ranks."""
        model: PreTrainedModel = self.engines["actor"].module
        return model

    @property
    def critic(self) -> Critic:
        """The critic's model."""
        critic: Critic = self.engines["critic"].module
        return critic

    @property
    def is_routed(self) -> bool:
        """Whether the policy is a mixture of experts."""
        return getattr(self.policy.config, "output_router_logits", None) is not None

    def state(self) -> dict[str, float]:
        """What a resumed run needs beside the engines' own state: all randomness is a function of seed and step."""
        return {"kl_coef": self._kl_coef, "critic_offset": self.critic.offset}

    def restore(self, state: dict[str, float]) -> None:
        """Take over what `state` gave."""
        self._kl_coef, self.critic.offset = state["kl_coef"], state["critic_offset"]

    def close(self) -> None:
        """Give back what the rollout engine holds."""
        self._rollouts.close()

    def step(self, step: int, interrupted: Interrupted = lambda: None) -> StepRecord:
        """Step number `step` (from 0): one rollout batch and all updates from it.

        Raises:
            TrainingError: a score, loss or gradient is not finite, or the sampler's log-probabilities are not the
                trainer's; names the step and the quantity.
        """
        watch = Stopwatch()
        self._rollouts.synchronize(whole_weights(self.policy))
        watch.mark("sync_seconds")
        prompts = self.prompts.batch(step, self._settings.batch_size)
        own = [prompts[row] for row in self.ranks.own(len(prompts))]
        part = self._generate(own, step, len(prompts))
        where = {"seed": self._seed, "step": step}
        samples = self._samples(where, step)
        interrupted()
        watch.mark("sample_seconds")
        texts = response_texts(part, self._tokenizer)
        verdicts = [prompt.is_correct(text) for prompt, text in zip(own, texts, strict=True)]
        scores = self.ranks.merged(self._score(own, texts, part, verdicts))
        verdicts = self.ranks.merged(verdicts)
        rollout = self._whole(part)
        for prompt, score in zip(prompts, scores, strict=True):
            require_finite(step, f"score of the response to prompt {prompt.id!r}", score)
        interrupted()
        watch.mark("score_seconds")
        batch = build_experience(
            [prompt.tokens for prompt in prompts], rollout.tokens, rollout.logprobs, self._pad, self.device
        )
        self._probe(step, batch)
        experience, readings = self._estimate(step, batch, rollout, scores)
        interrupted()
        watch.mark("estimate_seconds")
        readings["kl_coef"] = self._kl_coef
        means = self._updater.run(step, experience, self._kl_coef if self._settings.kl_placement == "loss" else 0.0)
        watch.mark("update_seconds")
        self._adapt_kl(readings, sum(rollout.lengths))
        known = self.prompts.has_answers
        if known:
            readings["accuracy"] = accuracy_of(verdicts)
        row = {**where, **rollout_readings(rollout, scores), **readings, **means.as_row()}
        return StepRecord(
            steps={**dict.fromkeys(ACTOR_COLUMNS), **row},
            responses=response_rows(where, prompts, rollout, scores, verdicts if known else None),
            prefixes=prefix_rows(where, experience, self._settings.prefix_width),
            samples=samples,
            timings={**where, **watch.as_row(self.ranks), "tokens": sum(rollout.lengths)},
        )

    def _generate(self, prompts: Sequence[Prompt], step: int, total: int) -> Rollout:
        return self._rollouts.generate(
            [prompt.tokens for prompt in prompts],
            self._sampling,
            seed=derive_seed(self._seed, step, "sampling"),
            rows=self.ranks.own(total),
            total=total,
        )

    def _whole(self, part: Rollout) -> Rollout:
        """Everybody's responses, in the order of the prompts."""
        merged = self.ranks.merged
        return Rollout(merged(part.tokens), merged(part.logprobs), merged(part.finish_reasons))

    def _score(
        self, prompts: Sequence[Prompt], texts: list[str], rollout: Rollout, verdicts: Sequence[bool | None]
    ) -> list[float]:
        if isinstance(self._scorer, VerifierScorer):  # every prompt names its own: see `load_prompts`
            scores = [1.0 if verdict else -1.0 for verdict in verdicts]
        else:
            scores = self._scorer(
                [prompt.messages for prompt in prompts],
                texts,
                [prompt.answer for prompt in prompts],
                truncated=[reason == "length" for reason in rollout.finish_reasons],
            )
        coef = self._settings.verifier_coef
        if not coef:
            return scores
        for prompt, verdict in zip(prompts, verdicts, strict=True):
            if verdict is None:
                raise DataError(f"verifier_coef is {coef} and prompt {prompt.id!r} names no verifier, or no answer")
        return [score + (coef if verdict else -coef) for score, verdict in zip(scores, verdicts, strict=True)]

    def _probe(self, step: int, batch: Experience) -> None:
        """Compare the sampler's log-probabilities of some responses with the trainer's, on average over their tokens.

        Not token by token: where two experts are almost tied, rounding decides which one a router takes, and the
        log-probabilities of the token and of some after it jump. Other weights move all tokens.

        Raises:
            TrainingError: they differ by more than rounding: the sampler has other weights, or other arithmetic.
        """
        settings = self._settings
        wanted = -(-min(settings.probe_responses, len(batch.tokens)) // self.ranks.size) * self.ranks.size
        part = batch.rows(torch.arange(wanted, device=self.device))
        own = part.compute(self._train_logprobs, wanted, self.ranks)
        difference = float((own - part.sample_logprobs).abs()[part.mask].mean())
        if not difference <= settings.probe_tolerance:
            raise TrainingError(
                f"step {step}: log-probabilities of sampled tokens are {difference:.3g} from the trainer's on average, "
                f"probe_tolerance is {settings.probe_tolerance}: the {settings.rollout_engine} rollout engine does not "
                "compute the policy in training; nothing was updated"
            )

    def _estimate(
        self, step: int, batch: Experience, rollout: Rollout, scores: Sequence[float]
    ) -> tuple[Experience, dict[str, float | None]]:
        """Rollouts with values, advantages and returns; and the readings that are taken before the update."""
        settings, mask, ranks = self._settings, batch.mask, self.ranks
        chunk = self._parallelism.micro_batch_size or settings.mini_batch_size // ranks.size
        values = batch.compute(lambda part: part.of_reading(self.critic(**part.reading())), chunk, ranks)
        readings: dict[str, float | None] = {}
        if self.reference is not None:
            batch = batch.with_entries(ref_logprobs=batch.compute(self._ref_logprobs, chunk, ranks))
            kl = diagnostics.k3_kl_sample_train(batch.ref_logprobs, batch.sample_logprobs, mask)
            readings["kl_ref"] = float(kl)
        if settings.importance_cap is not None:
            batch = batch.with_entries(old_logprobs=batch.compute(self._train_logprobs, chunk, ranks))
        in_reward = self.reference is not None and settings.kl_placement == "reward"
        penalties = [settings.missing_eos_penalty * (reason == "length") for reason in rollout.finish_reasons]
        rewards = ppo_math.token_rewards(
            torch.tensor(scores, device=mask.device) - torch.tensor(penalties, device=mask.device),
            mask,
            sample_logprobs=batch.sample_logprobs,
            ref_logprobs=batch.ref_logprobs if in_reward else None,
            kl_coef=self._kl_coef,
        )
        # Returns of lambda 1 are what was earned; others contain the critic's values, and hide its error from it.
        _, earned = ppo_math.gae(rewards, values, mask, gamma=settings.gamma, lam=1.0)
        if settings.calibrate_critic and step == 0:
            shift = ppo_math.calibration_shift(values, earned, mask)
            self.critic.offset += shift
            values = torch.where(mask, values + shift, values)
        advantages, returns = self._gae(rewards, values, mask)
        readings["reward_mean"] = float(rewards.sum(-1).mean())
        readings["explained_variance"] = _number(diagnostics.explained_variance(values, returns, mask))
        readings["stop_gap"] = self._stop_gap(batch, advantages)
        if settings.whiten_advantages:
            advantages = ppo_math.whiten(advantages, mask)
        return batch.with_entries(values=values, earned=earned, advantages=advantages, returns=returns), readings

    def _gae(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        settings = self._settings
        advantages, returns = ppo_math.gae(rewards, values, mask, gamma=settings.gamma, lam=settings.lam)
        if settings.critic_lam is not None:
            _, returns = ppo_math.gae(rewards, values, mask, gamma=settings.gamma, lam=settings.critic_lam)
        return advantages, returns

    def _stop_gap(self, batch: Experience, advantages: Tensor) -> float | None:
        """Mean advantage of the tokens that end a response less that of all others; None without one or the other."""
        stops = torch.tensor(self._sampling.stop_token_ids, device=batch.tokens.device)
        sums, counts = diagnostics.stop_gap(advantages, torch.isin(batch.targets, stops), batch.mask)
        return float(sums[0] / counts[0] - sums[1] / counts[1]) if counts.all() else None

    def _ref_logprobs(self, batch: Experience) -> Tensor:
        assert self.reference is not None
        return self._logprobs(self.reference, batch)

    def _train_logprobs(self, batch: Experience) -> Tensor:
        return self._logprobs(self.policy, batch)

    def _logprobs(self, model: nn.Module, batch: Experience) -> Tensor:
        logits = model(**batch.reading(), logits_to_keep=batch.responding()).logits.float()
        tokens = batch.targets[batch.mask]
        return batch.of_responses(ppo_math.token_logprobs(logits, tokens, temperature=self._settings.temperature))

    def _adapt_kl(self, readings: dict[str, float | None], tokens: int) -> None:
        """Move the coefficient by how far the KL per response, of `tokens` tokens in all, is from its target."""
        settings, kl = self._settings, readings.get("kl_ref")
        if settings.kl_target is not None and kl is not None:
            self._kl_coef = ppo_math.adapt_kl_coef(
                self._kl_coef,
                kl * tokens / settings.batch_size,
                target=settings.kl_target,
                horizon=settings.kl_horizon,
                responses=settings.batch_size,
            )

    def _samples(self, where: dict[str, int], step: int) -> list[Any]:
        """Greedy responses of the policy, before this step's updates, to the first prompts of the table."""
        settings = self._settings
        if not settings.sample_every or step % settings.sample_every:
            return []
        prompts = self.prompts.first(settings.sample_prompts)
        greedy = replace(self._sampling, temperature=0.0, top_p=1.0, top_k=0)
        tokens = [prompt.tokens for prompt in prompts]
        rows = list(range(len(tokens)))
        rollout = self._rollouts.generate(tokens, greedy, seed=0, rows=rows, total=len(rows))
        return sample_rows(where, prompts, rollout, response_texts(rollout, self._tokenizer))

    def _rollout_engine(self, policy: PreTrainedModel, directory: Path) -> RolloutEngine:
        """The engine that the study chose. It has the policy itself, or a copy where that will be spread over ranks."""
        if self._settings.rollout_engine == "vllm":
            from bai_pipeline.ppo.rollouts.vllm import VllmEngine

            return VllmEngine(directory, dtype=self._settings.precision)
        from bai_pipeline.ppo.rollouts.embedded import EmbeddedEngine

        if self._parallelism.zero_stage < 3:
            return EmbeddedEngine(policy, in_place=True)
        return EmbeddedEngine(deepcopy(policy), in_place=False)

    def _named_tokens(self, names: Sequence[str]) -> list[int]:
        """Token ids of the study's stop tokens.

        Raises:
            DataError: the tokenizer has no such token.
        """
        vocabulary = self._tokenizer.get_vocab()
        if unknown := [name for name in names if name not in vocabulary]:
            raise DataError(f"stop_tokens: the actor's tokenizer has no token {', '.join(map(repr, unknown))}")
        return [vocabulary[name] for name in names]

    def _check_shares(self, settings: PpoSettings) -> None:
        self.ranks.check_divides("batch_size", settings.batch_size)
        self.ranks.check_divides("mini_batch_size", settings.mini_batch_size)
        self.ranks.check_divides("the last mini-batch", settings.batch_size % settings.mini_batch_size)


ACTOR_COLUMNS = (
    "policy_loss",
    "kl_train_sample",
    "kl_mismatch",
    "entropy",
    "clip_fraction",
    "grad_norm_actor",
    "lr_actor",
    "aux_loss",
)
"""Empty in a step that trains the critic only."""


def _number(value: Tensor) -> float | None:
    """A scalar; None for NaN."""
    number = float(value)
    return None if math.isnan(number) else number
