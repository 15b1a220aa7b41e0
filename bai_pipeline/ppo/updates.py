"""The optimizer updates of one step: every mini-batch trains the actor, then the critic.

A mini-batch is shared by the ranks, and a rank's share is cut into micro-batches. Losses are sums over tokens with
weights that come from the whole mini-batch, so neither ranks nor micro-batches change what is computed.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import bai_pipeline.ppo.math as ppo_math
from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo import diagnostics
from bai_pipeline.ppo.engines import backward, update
from bai_pipeline.ppo.experience import Experience
from bai_pipeline.ppo.randomness import permutation
from bai_pipeline.ppo.ranks import Ranks
from bai_pipeline.ppo.records import Means
from bai_pipeline.settings import PpoSettings


@dataclass
class Updater:
    """Trains the two engines on a step's experience."""

    settings: PpoSettings
    seed: int
    ranks: Ranks
    actor: Any
    critic: Any
    micro_batch_size: int | None

    def __post_init__(self) -> None:
        config = self.actor.module.config
        self._routed = getattr(config, "output_router_logits", None) is not None
        self._top_k: int = config.num_experts_per_tok if self._routed else 0
        self._layers: int = config.num_hidden_layers

    def run(self, step: int, experience: Experience, kl_coef: float) -> Means:
        """All epochs; token means are over every visit, before the update that follows from it.

        Args:
            kl_coef: of the KL term of the policy loss.

        Raises:
            TrainingError: a loss is not finite, before the update; or a gradient is not, after it: the weights in
                memory are lost then, and no checkpoint is made of them.
        """
        settings, means = self.settings, Means()
        for epoch in range(settings.epochs):
            order = permutation(len(experience.tokens), self.seed, step, f"mini-batches of epoch {epoch}")
            for batch in experience.mini_batches(order, settings.mini_batch_size):
                if step >= settings.critic_warmup_steps:
                    self._update_actor(step, batch, kl_coef, means)
                self._update_critic(step, batch, means)
        return means

    def _update_actor(self, step: int, batch: Experience, kl_coef: float, means: Means) -> None:
        micro_batches = batch.micro_batches(self.micro_batch_size, self.ranks)
        sums = dict.fromkeys(("policy_loss", "kl_train_sample", "entropy", "clip_fraction"), 0.0)
        routing: Tensor | None = None
        for number, micro in enumerate(micro_batches):
            output = self._forward(micro)
            loss, terms = self._policy_loss(batch, micro, output, kl_coef)
            if self._routed:
                aux, counts = self._aux_loss(batch, micro, output)
                loss = loss + self.settings.router_aux_coef * aux
                routing = counts if routing is None else routing + counts
            for name, value in terms.items():
                sums[name] += value
            backward(self.actor, loss * self.ranks.size, last=number + 1 == len(micro_batches))
        totals = self.ranks.sums(sums)
        tokens = int(batch.mask.sum())
        if "kl_mismatch" not in means:
            means.add(1, kl_mismatch=totals["kl_train_sample"])
        totals["aux_loss"] = 0.0
        if routing is not None:
            routing = self.ranks.sum(routing)
            counts, probabilities = routing
            totals["aux_loss"] = float(ppo_math.load_balancing_loss(counts, probabilities, int(batch.real.sum())))
            means.add(tokens, **diagnostics.expert_load(counts))
        means.add(tokens, **totals)
        self._apply(step, "actor", "policy loss", totals["policy_loss"], means)

    def _forward(self, micro: Experience) -> Any:
        options = {"output_router_logits": True} if self._routed else {}
        return self.actor(**micro.reading(), logits_to_keep=micro.responding(), **options)

    def _policy_loss(
        self, batch: Experience, micro: Experience, output: Any, kl_coef: float
    ) -> tuple[Tensor, dict[str, float]]:
        """This micro-batch's part of the loss, and of the mini-batch's means."""
        settings, mask = self.settings, micro.mask
        of_responses = ppo_math.logprobs_and_entropy(
            output.logits.float(), micro.targets[mask], temperature=settings.temperature
        )
        logprobs, entropy = map(micro.of_responses, of_responses)
        correction = None
        if settings.importance_cap is not None:
            correction = ppo_math.importance_weights(
                micro.old_logprobs, micro.sample_logprobs, mask, cap=settings.importance_cap
            )
        terms = ppo_math.policy_terms(
            logprobs,
            micro.old_logprobs,
            micro.advantages,
            mask,
            clip_range=settings.clip_range,
            clip_range_high=settings.clip_range_high,
            dual_clip=settings.dual_clip,
            weights=correction,
        )
        weights = _weights(settings, batch, micro)
        policy_loss = (terms * weights).sum()
        loss = policy_loss
        if settings.entropy_coef:
            loss = loss - settings.entropy_coef * (entropy * weights).sum()
        if kl_coef:
            loss = loss + kl_coef * (ppo_math.kl_loss_terms(logprobs, micro.ref_logprobs, mask) * weights).sum()
        with torch.no_grad():
            share = 1.0 / int(batch.mask.sum())
            kl = diagnostics.kl_train_sample_terms(logprobs, micro.sample_logprobs, mask)
            clipped = diagnostics.clipped(
                logprobs,
                micro.old_logprobs,
                mask,
                clip_range=settings.clip_range,
                clip_range_high=settings.clip_range_high,
            )
            means = {
                "policy_loss": policy_loss.detach(),
                "kl_train_sample": kl.sum() * share,
                "entropy": entropy.detach()[mask].sum() * share,
                "clip_fraction": clipped.sum() * share,
            }
        return loss, {name: float(value) for name, value in means.items()}

    def _aux_loss(self, batch: Experience, micro: Experience, output: Any) -> tuple[Tensor, Tensor]:
        """This rank's part of the router's load-balancing loss, and (2, layers, E) what it is made of.

        The loss is that of a micro-batch over all ranks: a mean over micro-batches, as accumulation always makes it.
        """
        logits = torch.stack(output.router_logits)[:, None]  # (layers, 1, N, E): no token of a reading is padding
        everything = torch.ones_like(logits[0, ..., 0], dtype=torch.bool)
        counts, probabilities = ppo_math.router_statistics(logits, everything, top_k=self._top_k)
        statistics = torch.stack([counts.to(probabilities.dtype), probabilities.detach()])
        if not self.settings.router_aux_coef:
            return torch.zeros((), device=logits.device), statistics
        everywhere = self.ranks.sum(torch.cat([counts.flatten().float(), micro.real.sum().float().view(1)]))
        tokens = int(everywhere[-1])
        aux = ppo_math.load_balancing_loss(everywhere[:-1].view_as(counts), probabilities, tokens)
        return aux * tokens / int(batch.real.sum()), statistics

    def _update_critic(self, step: int, batch: Experience, means: Means) -> None:
        micro_batches = batch.micro_batches(self.micro_batch_size, self.ranks)
        total = 0.0
        for number, micro in enumerate(micro_batches):
            values = micro.of_reading(self.critic(**micro.reading()))
            terms = ppo_math.value_terms(
                values, micro.values, micro.returns, micro.mask, value_clip=self.settings.value_clip_range
            )
            loss = (terms * _weights(self.settings, batch, micro)).sum()
            total += float(loss.detach())
            backward(self.critic, loss * self.ranks.size, last=number + 1 == len(micro_batches))
        value_loss = self.ranks.sums({"value_loss": total})["value_loss"]
        means.add(int(batch.mask.sum()), value_loss=value_loss)
        self._apply(step, "critic", "value loss", value_loss, means)

    def _apply(self, step: int, name: str, quantity: str, loss: float, means: Means) -> None:
        """One optimizer update."""
        engine = self.actor if name == "actor" else self.critic
        require_finite(step, quantity, loss)
        learning_rate = engine.get_lr()[0]
        norm = update(engine)
        require_finite(step, f"gradient norm of the {name}", norm)
        means.add(1, **{f"grad_norm_{name}": norm, f"lr_{name}": learning_rate})


def _weights(settings: PpoSettings, batch: Experience, micro: Experience) -> Tensor:
    """What each token of a micro-batch counts in the loss of its mini-batch."""
    return ppo_math.loss_weights(
        micro.mask,
        aggregation=settings.loss_aggregation,
        tokens=int(batch.mask.sum()),
        sequences=len(batch.tokens),
    )


def require_finite(step: int, quantity: str, value: float) -> None:
    """Stop at a number that is NaN or infinite.

    Raises:
        TrainingError: it is.
    """
    if not math.isfinite(value):
        raise TrainingError(
            f"step {step}: the {quantity} is {value}; training stopped, the checkpoints made before are intact"
        )
