"""Thresholds of the detectors: section `dynamics` of a study.

They say what counts as a collapse, not how a run is trained, so they are no part of a PPO job's identity.
"""

from typing import Annotated, Literal

from pydantic import Field

from bai_pipeline.settings import Count, Positive, Settings, Share


class DynamicsSettings(Settings):
    """Thresholds of `bai_pipeline.dynamics`."""

    bucket_width: Count = 100
    """Tokens of a bucket of response lengths (paper: 100)."""
    false_alarms: Annotated[float, Field(gt=0.0, le=0.5)] = 0.05
    """Share of steady runs that a detector may call otherwise, over all looks at a run."""
    smallest_bucket: Count = 8
    """Responses of a bucket and window of steps below which its mean says nothing."""

    # length_collapse
    collapse_depth: Share = 0.2
    """Loss of mean length, as a share of the run's own start, that is a collapse."""

    # truncation
    truncated_share: Share = 0.5
    """Share of responses cut at the length limit from which lengths and scores are those of the limit."""

    # entropy_collapse
    entropy_floor: Share = 0.2
    """Entropy, as a share of the run's own start, below which the policy has collapsed."""

    # router_collapse
    router_load: Share = 0.9
    """How far the load has moved from even (0) to all tokens on the same top-k experts (1) in the worst layer."""

    # reward_hockey_stick
    hockey_stick_decline: Positive = 0.1
    """Decline of a bucket's score, in standard deviations of the first step's scores, that counts."""
    hockey_stick_visible: Positive = 0.5
    """Decline, in the same unit, that must be excluded before a run is called steady."""

    # kl_train_sample
    kl_spike: Annotated[float, Field(gt=1.0)] = 5.0
    """How many times the running median a step's KL must be to be a spike."""
    kl_volatility: Annotated[float, Field(gt=1.0)] = 2.0
    """Typical factor between a step's KL and the running median from which a run is volatile."""

    # over_optimization
    accuracy_loss: Share = 0.05
    """Fall of true accuracy that counts while the score does not fall."""
    accuracy_visible: Share = 0.2
    """Fall of true accuracy that must be excluded before score and accuracy are called aligned."""

    # critic_offset
    critic_error: Positive = 0.1
    """Mean value error on long prefixes, in standard deviations of the first step's scores, that announces a change."""
    critic_visible: Positive = 0.5
    """Error, in the same unit, that must be excluded before the critic is called calibrated."""
    critic_steps: Count = 3
    """First steps whose prefixes are judged."""


class HalvingSettings(Settings):
    """Successive halving (`dynamics.ladder`, `dynamics.halving`): section `halving` of a study."""

    first_step: Count = 5
    """Steps that every alpha is trained for before the first decision."""
    factor: Annotated[int, Field(ge=2)] = 2
    """One in this many alphas continues after a decision, and the steps up to the next one are multiplied by it."""
    goal: Literal["score", "accuracy", "growth"] = "score"
    """What alphas are ranked by: means of the last fifth of the steps; growth is that of length since the start."""
    survivors: Count = 1
    """Alphas that are trained to the end, at least."""
