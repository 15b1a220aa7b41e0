"""What the page of the small-scale experiment says whatever its results are."""

from bai_pipeline.report.judgements import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED
from bai_pipeline.report.run_numbers import MIN_STEPS

READING = (
    (
        "Statuses follow from rules that were fixed before the runs (below). The replicates are independent chains "
        "(base, SFT models, reward model), each the mean over its PPO seeds; [low, high] is a 95 % interval by "
        "Student's t over chains. Three chains make it wide: much is not testable because an interval holds both."
    ),
    (
        "Settings share the chains' seeds, and with them problems and mostly models: a claim with one status in "
        "several settings was not confirmed several times. Nothing is corrected for the number of claims and "
        "settings: of 40 effects that lie on their threshold, one would be called reproduced and one not reproduced."
    ),
    "Benchmarks are the embedded world's, digit arithmetic on held-out problems, and never the paper's.",
)

RULES = (
    (
        "A criterion above d holds if the whole interval lies above d, fails if the whole interval lies below d, and "
        "is open otherwise; one below d likewise. d is the smallest effect that counts."
    ),
    f"{REPRODUCED}: every criterion holds.",
    (
        f"{NOT_REPRODUCED}: a criterion fails. Where a claim's premise was not reproduced, there is nothing that it "
        "could be true of, and only criteria marked “alone” can refute it."
    ),
    (
        f"{NOT_TESTABLE}: anything else, with the reason: no data, one chain, the premise, an interval that holds both "
        "answers, or that no result at this scale could decide."
    ),
    (
        "Start: the first step. Early: the first quarter of the steps after it. Middle: the fifth around the middle. "
        "End: the last fifth. Runs with fewer steps than the setting's longest, or than "
        f"{MIN_STEPS}, count for nothing."
    ),
    "Counts of verdicts are told beside an effect and decide nothing: runs of one chain are not independent.",
)

OWN = (
    "These are not claims of the paper. A prototype of this project found them, with one or two chains; the statuses "
    "say whether they were found again, by the same rules."
)
ANNOUNCED = (
    "Runs of all inits, counted. Runs of a chain share their critic's start, and settings share chains: independent "
    "cases are hardly more than chains, so this table is not tested; the finding's criterion is."
)
POOLED = (
    "Runs of all chains are pooled here, as if each were a seed: bands are one standard error over runs, and say less "
    "than the intervals above."
)

_MICRO = "Otherwise this is micro, and its reward model is confounded with length as micro's is."
CONFOUNDED = {
    "": (
        (
            "The critic starts as a copy of the reward model. An error of its values on long prefixes is enough to "
            "shorten or lengthen the first responses, whatever the actor starts from: see the verdicts of "
            "critic_offset."
        ),
        "All models have 0.24M parameters; learning rate and batch are not the paper's.",
    ),
    "micro": (
        (
            "Preference pairs are sampled from the instruct SFT alone, whose right answers are mostly worked out and "
            "whose wrong ones are mostly direct: the reward model is confounded with length, and has seen no long "
            "response."
        ),
        "There is no KL penalty: late in the run, lengths are those of the reward model's errors.",
    ),
    "micro-neutral": (
        (
            "World, preference pairs, reward-model training and the number of PPO steps all differ from micro: a "
            "difference between the two settings has no single cause."
        ),
    ),
    "micro-reasoning-only": (
        (
            "Stage 1 is the reasoning model alone: BAI is here a blend of the base with the model that Paradigm 3 "
            "starts from, a control and not the paper's method. alpha 0.0 is Paradigm 3's own initialization."
        ),
        _MICRO,
    ),
    "micro-kl": (_MICRO,),
    "micro-calibrated": (_MICRO,),
    "micro-verifiable": (
        "The score is correctness itself: score and true accuracy cannot part.",
        (
            "It differs from micro in the critic as well as in the reward: the reward model that the critic is copied "
            "from has seen pairs of both SFT models."
        ),
    ),
}
"""What a setting's design confounds, by its name; "" for all."""
