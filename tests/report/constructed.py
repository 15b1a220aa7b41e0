"""Results of a study that nobody ran: small tables with every part that the page shows, and hostile texts in them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd

from bai_pipeline.evals import paradigm_table, ratio_table
from bai_pipeline.evals.comparisons import paired_comparisons
from bai_pipeline.report import StudyResults

INITS = ("paradigm_1", "paradigm_3", "alpha 0.1", "alpha 0.5")
SCORE_LABEL = "score (right +1, wrong −1)"
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
"""What a model may write."""


def metrics(
    inits: tuple[str, ...] = INITS, seeds: int = 2, steps: int = 12, batch: int = 32
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables of runs, responses and prefixes; the same for the same arguments."""
    rng = np.random.default_rng(0)
    responses = pd.DataFrame(
        [(init, seed, step) for init in inits for seed in range(seeds) for step in range(steps) for _ in range(batch)],
        columns=["init", "seed", "step"],
    )
    responses["length"] = rng.integers(1, 60, len(responses))
    responses["score"] = rng.normal(size=len(responses)) + 0.1 * responses["step"]
    responses["correct"] = rng.random(len(responses)) < 0.5
    means = responses.groupby(["init", "seed", "step"])[["length", "score", "correct"]].mean().reset_index()
    runs = means.rename(columns={"length": "length_mean", "score": "score_mean", "correct": "accuracy"})
    runs["kl_train_sample"] = rng.random(len(runs)) / 1000
    prefixes = runs[["init", "seed", "step"]].merge(pd.DataFrame({"prefix": range(0, 60, 10)}), how="cross")
    prefixes["tokens"], prefixes["value_error"] = 500, rng.normal(size=len(prefixes))
    return runs, responses, prefixes


def results(**changes: object) -> StudyResults:
    """Everything; `changes` are fields of `StudyResults`."""
    runs, responses, prefixes = metrics()
    ratios = ["0.1", "0.5"]
    made = StudyResults(
        study="acme <b>",
        notes=["One chain."],
        paradigms=paradigm_table(
            _scores("Paradigm 1", "BAI"), ["Paradigm 1", "Paradigm 2", "BAI"], {"Paradigm 2": HOSTILE}
        ),
        ratios=ratio_table(_scores(*ratios), ratios, {}),
        comparisons={"paradigm_table": _compared("Paradigm 1", "BAI"), "ratio_table": _compared(*ratios)},
        runs=runs,
        responses=responses,
        prefixes=prefixes,
        verdicts=_verdicts(),
        recommendation=pd.DataFrame(
            [
                {"goal": "length", "alpha": "0.5", "value": 0.9, "low": 0.8, "high": 1.0, "unit": "ratio"}
                | {"resolved": False, "reason": "It is not resolved."},
                {"goal": "average", "alpha": None, "unit": "score", "resolved": False, "reason": "No benchmark."},
            ]
        ),
        next_alphas=pd.DataFrame([{"alpha": "0.3", "reason": "Between the two."}]),
        case_studies=f"# Case studies\n\nOne.\n\n## `sum`, question `1`\n\n```text\n{HOSTILE}\n# no heading\n```\n",
        contamination=pd.DataFrame(
            [{"benchmark": "sum", "questions": 64, "judged": 64, "contaminated": 0, "share": 0.0}]
        ),
        weights=pd.DataFrame(
            [{"merge": "alpha 0.5", "base": 0.5, "instruct": 0.25, "reasoning": 0.25, "weight_sum": 1.0}]
        ),
        lineage=pd.DataFrame(
            [{"asset": "ppo_run", "part": "0.5", "seed": 0, "job": "j" * 64, "object": "o", "digest": "d"}]
        ),
        costs=pd.DataFrame(
            [
                {
                    "init": init,
                    "seed": seed,
                    "steps": 12,
                    "sampled_tokens": tokens,
                    "cpu_seconds": 36.0,
                    "sample_seconds": 9.0,
                }
                for (init, seed), tokens in zip(
                    ((i, s) for i in INITS for s in (0, 1)), (9, 100, 20, 3, 1000, 7, 50, 8), strict=True
                )
            ]
        ),
        bucket_width=10,
        headline_alpha="0.5",
        score_label=SCORE_LABEL,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def nothing() -> StudyResults:
    """A study of which nothing was made yet."""
    empty = pd.DataFrame()
    return StudyResults(
        *("acme", (), empty, empty, {}, empty, empty, empty, empty, empty, empty, None, None, empty, empty, empty),
        bucket_width=10,
        headline_alpha="0.5",
    )


def _scores(*rows: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"row": row, "seed": 0, "benchmark": name, "score": 0.5 + 0.1 * number, "stderr": 0.06, "n": 64}
            for number, row in enumerate(rows)
            for name in ("held_out_sum", "held_out_max")
        ]
    )


def _compared(*rows: str) -> pd.DataFrame:
    questions = [
        {"row": row, "seed": 0, "benchmark": name, "id": str(question), "score": float(question % 5 < 2 + 2 * number)}
        for number, row in enumerate(rows)
        for name in ("held_out_sum", "held_out_max")
        for question in range(60)
    ]
    return paired_comparisons(pd.DataFrame(questions).assign(weight=1.0), rows, resamples=500)


def _verdicts() -> pd.DataFrame:
    lines = []
    for init in INITS:
        for seed in (0, 1):
            length = "collapsed" if init == "paradigm_3" else "undetermined" if seed else "healthy"
            for detector, verdict in (("length_collapse", length), ("kl_train_sample", "steady")):
                confidence = None if verdict == "undetermined" else 0.97
                reason, evidence = (
                    f"Fell by 0.5 (p < 0.01). {HOSTILE}",
                    json.dumps({"onset_step": 3, "depth": 0.512345}),
                )
                lines.append((init, seed, detector, verdict, confidence, reason, evidence))
    return pd.DataFrame(lines, columns=["init", "seed", "detector", "verdict", "confidence", "reason", "evidence"])
