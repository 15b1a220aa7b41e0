"""What the columns of other trainers' logs are called, and which of ours they are.

Only columns that mean the same are mapped. A KL whose direction or estimator is another is left out, but for TRL's
`approxkl`, mean (log r)² / 2, which either direction equals to second order (Schulman 2020).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LogFormat:
    """Names of columns by ours; the first that is there is taken."""

    name: str
    source: str
    """Where the names were read."""
    marks: frozenset[str]
    """A log with one of these has this format."""
    columns: Mapping[str, tuple[str, ...]]

    def found(self, names: Iterable[str]) -> dict[str, str]:
        """Theirs by ours, of those that are there."""
        there = set(names)
        first = {ours: next((name for name in theirs if name in there), None) for ours, theirs in self.columns.items()}
        return {ours: name for ours, name in first.items() if name is not None}


_STEP = ("step", "global_step", "train/global_step", "training/global_step", "Step", "_step")

BAI = LogFormat(
    name="bai",
    source="bai_pipeline/ppo/metrics.py",
    marks=frozenset({"kl_mismatch", "stop_gap"}),
    columns={},
)
TRL_GRPO = LogFormat(
    name="trl-grpo",
    source="TRL 1.12.0, trl/trainer/grpo_trainer.py and rloo_trainer.py; completion_length: before TRL 0.17",
    marks=frozenset({"completions/mean_length", "completion_length"}),
    columns={
        "step": _STEP,
        "length_mean": ("completions/mean_length", "completion_length"),
        "length_min": ("completions/min_length",),
        "length_max": ("completions/max_length",),
        "truncated_share": ("completions/clipped_ratio",),
        "score_mean": ("reward",),
        "score_std": ("reward_std",),
        "kl_ref": ("kl",),
        "entropy": ("entropy",),
        "aux_loss": ("aux_loss",),
    },
)
TRL_PPO = LogFormat(
    name="trl-ppo",
    source="TRL 1.12.0, trl/experimental/ppo/ppo_trainer.py, which logs no lengths; tokens/ and env/: TRL before 0.12",
    marks=frozenset({"objective/scores", "objective/rlhf_reward", "tokens/responses_len_mean"}),
    columns={
        "step": (*_STEP, "episode"),
        "length_mean": ("tokens/responses_len_mean", "mean_length", "length_mean", "response_length"),
        "score_mean": ("objective/scores", "env/reward_mean"),
        "score_std": ("env/reward_std",),
        "reward_mean": ("objective/rlhf_reward",),
        "kl_ref": ("objective/kl",),
        "kl_train_sample": ("policy/approxkl_avg",),
        "entropy": ("policy/entropy_avg",),
        "clip_fraction": ("policy/clipfrac_avg",),
        "policy_loss": ("loss/policy_avg",),
        "value_loss": ("loss/value_avg",),
    },
)
OPENRLHF = LogFormat(
    name="openrlhf",
    source="OpenRLHF 0.11.0, openrlhf/trainer/ppo_trainer.py and ray/ppo_actor.py; without rollout/: 0.8.3",
    marks=frozenset({"rollout/response_length_mean", "total_length", "gen_len"}),
    columns={
        "step": _STEP,
        "length_mean": ("rollout/response_length_mean", "response_length", "gen_len"),
        "truncated_share": ("rollout/truncated_rate",),
        "score_mean": ("rollout/reward_mean", "reward"),
        "score_std": ("rollout/reward_std",),
        "kl_ref": ("kl",),
        "entropy": ("entropy_loss", "ent_loss"),
        "policy_loss": ("policy_loss",),
        "value_loss": ("critic_loss",),
    },
)
VERL = LogFormat(
    name="verl",
    source="verl 0.8.0.dev, verl/trainer/ppo/metric_utils.py and ray_trainer.py",
    marks=frozenset({"response_length/mean"}),
    columns={
        "step": ("training/global_step", *_STEP),
        "length_mean": ("response_length/mean",),
        "length_min": ("response_length/min",),
        "length_max": ("response_length/max",),
        "truncated_share": ("response_length/clip_ratio",),
        "score_mean": ("critic/score/mean",),
        "reward_mean": ("critic/rewards/mean",),
        "kl_ref": ("actor/reward_kl_penalty", "actor/kl_loss"),
        "entropy": ("actor/entropy",),
        "clip_fraction": ("actor/pg_clipfrac",),
        "explained_variance": ("critic/vf_explained_var",),
    },
)
PLAIN = LogFormat(
    name="plain",
    source="any table with a step, a mean length and, if known, a score",
    marks=frozenset(),
    columns={
        "step": (*_STEP, "steps", "iteration", "iter", "update"),
        "length_mean": (
            *("mean_length", "length_mean", "length", "avg_length", "average_length", "mean_len", "response_length"),
            *("response_len", "mean_response_length", "response_length_mean", "completion_length"),
        ),
        "score_mean": ("score", "mean_score", "score_mean", "reward", "mean_reward", "reward_mean"),
        "score_std": ("score_std", "std_score", "reward_std"),
        "accuracy": ("accuracy", "mean_accuracy"),
        "truncated_share": ("truncated_share", "truncated", "truncation_rate"),
        "kl_train_sample": ("kl_train_sample",),
        "kl_ref": ("kl_ref",),
        "entropy": ("entropy",),
    },
)
FORMATS = {entry.name: entry for entry in (BAI, TRL_GRPO, TRL_PPO, VERL, OPENRLHF, PLAIN)}
"""By name, in the order in which they are tried."""


def format_of(names: Iterable[str]) -> LogFormat:
    """The format whose marks are among these columns; plain where none are."""
    there = set(names)
    return next((entry for entry in FORMATS.values() if there & entry.marks), PLAIN)
