"""Settings of every stage: what is hashed into a job's identity.

Presets (bai_pipeline/presets/*.yaml) give the values; no key exists in one preset alone. "paper" names the section of
the BAI paper that fixes a value; "not given in the paper" marks our own choice.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]


class Settings(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WorldSettings(Settings):
    """The embedded world of procedural tasks (not in the paper; see docs/design)."""

    task_weights: dict[Literal["sum", "alt", "max"], Share]
    """How often each task is drawn: sum mod 10, alternating sum mod 10, maximum."""
    operands_min: Count
    operands_max: Annotated[int, Field(ge=1, le=12)]
    held_out_modulus: Annotated[int, Field(ge=2)]
    """One problem in this many (by a hash of the problem) is never trained on."""
    document_mix: dict[Literal["facts", "brief", "direct", "long", "noise", "chat"], Share]
    """Shares of the kinds of pretraining documents."""
    chat_mix: dict[Literal["noise", "direct", "brief", "long", "think"], Share]
    """Shares of the kinds of answer in the chat documents of pretraining ("think" keeps the <think> markers)."""
    direct_share: Share
    """Share of direct answers (no steps) in the instruct SFT data."""
    verification_passes: dict[Annotated[int, Field(ge=1, le=3)], Share]
    """Shares of the number of self-verification passes in a long chain of thought."""
    pretraining_documents: Count
    sft_examples: Count
    """SFT rows per role."""
    prompts: Count
    """Prompts in the PPO table."""
    benchmark_problems: Count
    """Held-out problems per benchmark."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if self.operands_min > self.operands_max:
            raise ValueError(f"operands_min {self.operands_min} is greater than operands_max {self.operands_max}")
        for name in ("task_weights", "document_mix", "chat_mix", "verification_passes"):
            if not any(getattr(self, name).values()):
                raise ValueError(f"{name} needs a share above 0")
        return self


class ModelSettings(Settings):
    """The tiny OLMoE that the embedded world trains (paper: OLMoE, 2.5B active of 25B)."""

    num_hidden_layers: Count
    hidden_size: Count
    num_attention_heads: Count
    num_experts: Count
    num_experts_per_tok: Count
    intermediate_size: Count
    """Width of one expert."""
    max_position_embeddings: Count


class TrainingSettings(Settings):
    """Supervised training: pretraining, SFT and the reward model (values not given in the paper)."""

    steps: Count
    batch_size: Count
    """Sequences (or preference pairs) per optimizer step, over all ranks."""
    learning_rate: Positive
    warmup_steps: int = Field(ge=0)
    """Linear warm-up; then cosine decay to a tenth of the learning rate."""
    weight_decay: float = Field(ge=0.0)
    adam_beta2: Share
    max_grad_norm: Positive
    aux_loss_coef: float = Field(ge=0.0)
    """Router load-balancing loss; 0 switches it off."""
    max_length: Count
    """Tokens of a training sequence; longer examples are an error, documents are packed to it."""


class PreferenceSettings(Settings):
    """How preference pairs are sampled from SFT models (not given in the paper)."""

    sampled_from: tuple[str, ...]
    """SFT roles whose samples make the pairs."""
    prompts: Count
    samples_per_prompt: Count
    max_new_tokens: Count
    temperature: Positive
    length_tolerance: Share | None
    """None: any right response is paired with any wrong one. Otherwise both are of one model and their lengths differ
    by at most this share (or 3 tokens), so that the reward model learns nothing from length."""


class PpoSettings(Settings):
    """PPO (paper, section 4.1 unless said otherwise). A step is one rollout batch."""

    batch_size: Count
    """Prompts per step, each sampled once (paper: 4096)."""
    mini_batch_size: Count
    """Responses per optimizer step (paper: 512)."""
    epochs: Count
    """Passes over a rollout batch (not given in the paper; 1)."""
    precision: Literal["float32", "bfloat16"]
    """Of the models in training; optimizer states are float32 (not given in the paper)."""
    actor_learning_rate: Positive
    """Paper: 1e-6."""
    critic_learning_rate: Positive
    """Paper: 1e-6."""
    warmup_updates: int = Field(ge=0)
    """Optimizer steps of linear warm-up, constant after (length not given in the paper)."""
    adam_beta1: Share
    adam_beta2: Share
    weight_decay: float = Field(ge=0.0)
    max_grad_norm: Positive
    """Not given in the paper; 1."""
    gamma: Share
    """Paper: 1."""
    lam: Share
    """GAE lambda of the actor's advantages, paper: 0.95."""
    critic_lam: Share | None
    """GAE lambda of the critic's returns; None: `lam` (decoupled GAE, Yuan et al. 2025, arXiv:2503.01491)."""
    clip_range: Positive
    """Not given in the paper; 0.2."""
    clip_range_high: Positive | None
    """The upper clipping range where it differs (clip-higher, Yu et al. 2025, arXiv:2503.14476); None: `clip_range`."""
    dual_clip: Annotated[float, Field(gt=1.0)] | None
    """Bound on the ratio where the advantage is negative (dual clip, Ye et al. 2020, arXiv:1912.09729); None: none."""
    loss_aggregation: Literal["token", "sequence"]
    """Mean over all response tokens of a mini-batch, or over its sequences' means (not given in the paper; token)."""
    importance_cap: Positive | None
    """Truncated importance correction of what sampler and trainer compute differently: the ratio's denominator is the
    trainer's policy before the update, and every token is weighted by min(pi_old / pi_sample, cap). None: the ratio is
    to what was sampled from."""
    value_clip_range: Positive | None
    """None: unclipped value loss. Not given in the paper; 0.2."""
    whiten_advantages: bool
    """Not given in the paper; true."""
    critic_warmup_steps: int = Field(ge=0)
    """First steps in which only the critic is trained; 0 in the paper."""
    calibrate_critic: bool
    """Shift the critic once, before the first update, so that its mean value on the first batch is that of the returns;
    false in the paper."""
    kl_coef: float = Field(ge=0.0)
    """Coefficient of the KL penalty against the reference; 0 loads no reference (not given in the paper)."""
    kl_placement: Literal["reward", "loss"]
    """On every token's reward, log pi_sample - log pi_ref, or as a term of the policy loss."""
    kl_target: Positive | None
    """The coefficient follows this KL per response (adaptive controller, Ziegler et al. 2019, arXiv:1909.08593, section
    2.2); None: it is fixed."""
    kl_horizon: Count
    """Responses over which the adaptive coefficient moves."""
    entropy_coef: float = Field(ge=0.0)
    """Entropy bonus; 0 in the paper."""
    router_aux_coef: float = Field(ge=0.0)
    """Router load-balancing loss of a mixture of experts; always logged, 0 by default."""
    temperature: Positive
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    """Nucleus of the sampler; 1 in the paper. Log-probabilities are those of the uncut distribution."""
    top_k: int = Field(ge=0)
    """Most probable tokens that the sampler chooses from; 0: all."""
    stop_tokens: tuple[str, ...]
    """Tokens that end a response, beside the end-of-sequence tokens."""
    rollout_engine: Literal["embedded", "vllm"]
    """Who samples. The engines draw different responses, so it is part of what a run is."""
    probe_responses: Count
    """Responses of a step whose log-probabilities are compared, before the update, with the trainer's."""
    probe_tolerance: Positive
    """Mean difference of their tokens' log-probabilities that is put down to rounding; more stops the run."""
    max_prompt_tokens: Count
    max_new_tokens: Count
    """Not given in the paper for every stage; responses that reach it are truncated."""
    missing_eos_penalty: float = Field(ge=0.0)
    """Subtracted from the score of a truncated response; 0 in the paper."""
    sample_every: int = Field(ge=0)
    """Steps between greedy responses to the run's first prompts, kept for reading; 0: never."""
    sample_prompts: Count
    """How many prompts these are."""
    prefix_width: Count
    """Tokens of a bucket of prefixes in the table of the critic's error."""
    verifier_coef: float = Field(ge=0.0)
    """The prompts' verifiers beside the learned reward: this times +1 for a right response and -1 for a wrong one is
    added to its score; 0 in the paper."""

    @model_validator(mode="after")
    def _check_horizon(self) -> Self:
        if self.kl_target is not None and self.batch_size >= 5 * self.kl_horizon:
            raise ValueError(
                f"kl_horizon {self.kl_horizon} is too short for batches of {self.batch_size}: the KL coefficient moves "
                "by up to 0.2 batch_size / kl_horizon a step, which must be less than 1"
            )
        return self
