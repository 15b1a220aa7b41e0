"""What the paper claims, and what tests it in the small-scale experiment: fixed before any run.

The claims are in our own words; where they stand is given as far as our sources say (docs/design/001: the abstract, a
specification that quotes the paper, a transcription of its tables; the PDF was not at hand). After them, and labelled
as such, what a prototype of this project found and the experiment repeats: those are not the paper's.

A criterion holds, fails or stays open by one rule, with [low, high] the 95 % interval over chains (`contrasts`) and d
its threshold, the smallest effect that counts:

    above d:  holds if low > d,   fails if high < d,  open otherwise
    below d:  holds if high < d,  fails if low > d,   open otherwise

A claim is the conjunction of its criteria (`judgements`).
"""

from dataclasses import dataclass, replace
from typing import Literal

from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.report.contrasts import HEADLINE, Announcement, Contrast, Effect

_SETTINGS = DynamicsSettings()
KEPT = 1 - _SETTINGS.collapse_depth
"""Length kept, as a share of the start, below which it has collapsed: as for the detector length_collapse."""
DECLINE = _SETTINGS.hockey_stick_decline
ACCURACY_LOSS = _SETTINGS.accuracy_loss
P1, P3, SFT = "paradigm_1", "paradigm_3", "reasoning_sft"
"""Paradigm 2 is the reasoning SFT itself: distillation without RLHF."""


@dataclass(frozen=True)
class Criterion:
    """An effect and the side of a threshold on which a claim puts it."""

    effect: Effect
    side: Literal["above", "below"]
    threshold: float = 0.0
    """Of a factor: the factor itself, 1 for none."""
    alone: bool = False
    """Whether it can refute the claim where the claim's premise was not reproduced."""


@dataclass(frozen=True)
class Claim:
    """A statement and what tests it."""

    id: str
    statement: str
    where: str
    """In the paper; or that it is not the paper's."""
    criteria: tuple[Criterion, ...] = ()
    premise: str | None = None
    """The claim without which this one is about nothing."""
    counts: tuple[tuple[str, str, str], ...] = ()
    """(init, detector, verdict): how many runs have it is told beside, and decides nothing."""
    untestable: str = ""
    """Why no result at this scale could decide it."""
    settings: tuple[str, ...] = ()
    """The only settings that it is about; all of them where empty."""
    of_paper: bool = True


CLAIMS = (
    Claim(
        "length_collapse",
        "RLHF of a reasoning model that was distilled by SFT (Paradigm 3) shortens its responses sharply early on: "
        "Sequence Length Collapse.",
        "abstract; length figures (3, 4)",
        (Criterion(Contrast("length", P3), "below", KEPT),),
        counts=((P3, "length_collapse", "collapsed"),),
    ),
    Claim(
        "collapse_is_specific",
        "The collapse comes with the reasoning SFT: RLHF of an instruct model (Paradigm 1) does not collapse.",
        "abstract (the phenomena are those of the third paradigm); figure 3",
        (
            Criterion(Contrast("length", P1), "above", KEPT, alone=True),
            Criterion(Contrast("length", P3, P1), "below", 1.0),
        ),
        premise="length_collapse",
        counts=((P1, "length_collapse", "collapsed"),),
    ),
    Claim(
        "bai_resolves_collapse",
        "Balanced Actor Initialization resolves the Sequence Length Collapse.",
        "abstract; figures 3, 4",
        (
            Criterion(Contrast("length", HEADLINE), "above", KEPT, alone=True),
            Criterion(Contrast("length", HEADLINE, P3), "above", 1.0),
        ),
        premise="length_collapse",
        counts=((HEADLINE, "length_collapse", "collapsed"),),
    ),
    Claim(
        "bai_length_grows",
        "With BAI the responses grow continuously: in the first half of the run and in the second.",
        "abstract; figures 3, 4",
        (
            Criterion(Contrast("length_first_half", HEADLINE), "above", 1.0),
            Criterion(Contrast("length_second_half", HEADLINE), "above", 1.0),
        ),
    ),
    Claim(
        "hockey_stick",
        "In Paradigm 3 the reward falls steeply and then recovers, within buckets of response lengths: the Reward "
        "Hockey Stick Curve.",
        "abstract; figure 2",
        (
            Criterion(Contrast("decline", P3), "above", DECLINE),
            Criterion(Contrast("recovery", P3), "above"),
        ),
        counts=((P3, "reward_hockey_stick", "hockey_stick"), (P3, "reward_hockey_stick", "decline")),
    ),
    Claim(
        "bai_mitigates_hockey_stick",
        "BAI mitigates the Reward Hockey Stick Curve.",
        "abstract; figures 6, 7",
        (Criterion(Contrast("decline", HEADLINE, P3), "below"),),
        premise="hockey_stick",
        counts=((HEADLINE, "reward_hockey_stick", "hockey_stick"), (HEADLINE, "reward_hockey_stick", "decline")),
    ),
    Claim(
        "kl_level",
        "KL(training ‖ sampling) is higher in Paradigm 3 than with BAI.",
        "KL analysis, figure 5; estimator and direction not given",
        (Criterion(Contrast("kl", P3, HEADLINE), "above", 1.0),),
        counts=((P3, "kl_train_sample", "spiking"), (HEADLINE, "kl_train_sample", "spiking")),
    ),
    Claim(
        "kl_volatility",
        "KL(training ‖ sampling) is more volatile in Paradigm 3 than with BAI.",
        "KL analysis, figure 5; measure of volatility not given",
        (Criterion(Contrast("kl_volatility", P3, HEADLINE), "above"),),
        counts=((P3, "kl_train_sample", "volatile"), (HEADLINE, "kl_train_sample", "volatile")),
    ),
    Claim(
        "rlhf_hurts_reasoning",
        "RLHF of the reasoning model (Paradigm 3) scores below the reasoning SFT alone (Paradigm 2) on the benchmarks.",
        "table 1 (overall)",
        (Criterion(Contrast("benchmark", P3, SFT), "below"),),
    ),
    Claim(
        "bai_scores_best",
        "BAI scores above Paradigms 1, 2 and 3 on the average of the benchmarks.",
        "table 1 (overall)",
        tuple(Criterion(Contrast("benchmark", HEADLINE, other), "above") for other in (P1, SFT, P3)),
    ),
    Claim(
        "balanced_ratios",
        "Balanced ratios trade stability against reasoning best: the worse of the two is better at alpha 0.5 than at "
        "0.1 and at 0.9.",
        "abstract; table 2, figures 4, 7. What is traded, and how, is our reading",
        tuple(Criterion(Contrast("worse_side", "alpha 0.5", f"alpha {a}"), "above") for a in ("0.1", "0.9")),
    ),
    Claim(
        "knowledge",
        "BAI keeps the base model's knowledge (MMLU, MMLU-Pro, SuperGPQA).",
        "abstract; tables 1, 2",
        untestable="the embedded world holds digit arithmetic and no knowledge",
    ),
    Claim(
        "judged_benchmarks",
        "BAI scores best where a model judges the answers (ArenaHard, MixEval-Hard).",
        "tables 1, 2",
        untestable="there is no judge of digit arithmetic, and the models answer in about 50 words",
    ),
    Claim(
        "scale",
        "All of this holds for a mixture of experts with 2.5B active of 25B parameters, over 1600 and 3000 steps.",
        "experimental setup",
        untestable="the experiment has 0.24M parameters and 20 to 24 steps",
    ),
)

_ACCURACY = Contrast("accuracy_end", HEADLINE)
_OWN = "not the paper's: found by a prototype of this project"


def _against_micro(contrast: Contrast) -> Criterion:
    above = 1.0 if contrast.quantity == "length_early" else 0.0
    return Criterion(replace(contrast, reference="micro"), "above", above)


FINDINGS = (
    Claim(
        "over_optimization",
        "In Paradigm 3 the score holds while the true accuracy falls: the reward model is over-optimized.",
        _OWN,
        (
            Criterion(Contrast("score_change", P3), "above", -DECLINE),
            Criterion(Contrast("accuracy_change", P3), "below", -ACCURACY_LOSS),
        ),
        counts=((P3, "over_optimization", "over_optimized"), (HEADLINE, "over_optimization", "over_optimized")),
        of_paper=False,
    ),
    Claim(
        "bai_softens_over_optimization",
        "The true accuracy falls less with BAI than in Paradigm 3.",
        _OWN,
        (Criterion(Contrast("accuracy_change", HEADLINE, P3), "above"),),
        of_paper=False,
    ),
    Claim(
        "critic_announces_shortening",
        "A critic that underestimates long prefixes in the first steps announces that responses shorten next.",
        _OWN,
        (Criterion(Announcement("length_next", "critic_offset", "underestimates_long_prefixes"), "below", 1.0),),
        of_paper=False,
    ),
    Claim(
        "calibration_lengthens",
        "Calibrating the critic once, before the first update, makes the early responses of Paradigm 3 longer.",
        _OWN,
        (_against_micro(Contrast("length_early", P3)),),
        settings=("micro-calibrated",),
        of_paper=False,
    ),
    Claim(
        "kl_penalty_keeps_accuracy",
        "A KL penalty of 0.03 keeps true accuracy up, with BAI and in Paradigm 3.",
        _OWN,
        (_against_micro(_ACCURACY), _against_micro(replace(_ACCURACY, of=P3))),
        settings=("micro-kl",),
        of_paper=False,
    ),
    Claim(
        "verifiable_reward_keeps_accuracy",
        "A verifiable reward keeps true accuracy up, with BAI and in Paradigm 3.",
        _OWN,
        (_against_micro(_ACCURACY), _against_micro(replace(_ACCURACY, of=P3))),
        settings=("micro-verifiable",),
        of_paper=False,
    ),
)
