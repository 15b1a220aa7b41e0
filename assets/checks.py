"""Asset checks: what must hold of each artefact, tested with Great Expectations after it was materialized.

A blocking check stops what is downstream within a run. Across runs the library refuses (bai_pipeline.merging).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg

from assets import frames
from assets.expectations import Expected, always, between, expect, not_null, rows_at_least, unique
from assets.graph import PARTITIONED, Graph
from bai_pipeline.errors import BaiPipelineError
from bai_pipeline.plan import Plan
from bai_pipeline.study import WEIGHT_TOLERANCE
from resources import StudyResource

if TYPE_CHECKING:
    import pandas as pd

MakeFrame = Callable[[Plan, str, str | None], "pd.DataFrame"]
_ROUNDING = 1e-9
"""An estimate of a KL is zero or more up to rounding."""

SOUND_ROWS = [rows_at_least(1), unique("table", "id"), between("shortest_text", 1, None)]
SOUND_TRAINING_ROWS = [*SOUND_ROWS, always("held_out_problems", 0)]
COMPLETE_SCORES = [
    rows_at_least(1),
    unique("model", "benchmark"),
    always("explained", True),
    between("score", 0.0, 1.0),
    between("stderr", 0.0, 1.0),
    between("n", 0, None),
]


def asset_checks(graph: Graph) -> list[dg.AssetChecksDefinition]:
    """All checks of the assets that the study has, besides those that jobs make themselves."""
    weights = _frame_check(
        graph,
        "merge_weights",
        "weights_sum_to_one",
        "Every merge's weights sum to 1, none is negative, alpha is in [0, 1] and alpha + beta = 1.",
        frames.merge_weights,
        expected_weights(graph),
        blocking=True,
    )
    return [weights, *_data_checks(graph), *_run_checks(graph), *_score_checks(graph), *_recipe_checks(graph)]


def expected_weights(graph: Graph) -> list[Expected]:
    """Of merge_weights: a row per merge whose weights sum to one, as recorded and as summed here."""
    low, high = 1.0 - WEIGHT_TOLERANCE, 1.0 + WEIGHT_TOLERANCE
    sums = ("weight_sum", "sum_of_weights", "sum_of_sft_weights")
    return [
        rows_at_least(1 + len(graph.study.alphas)),
        unique("merge"),
        *(expected for column in sums for expected in (not_null(column), between(column, low, high))),
        between("alpha", 0.0, 1.0),
        between("alpha_plus_beta", low, high),
        not_null("smallest_weight"),
        between("smallest_weight", 0.0, 1.0),
    ]


def expected_metrics(graph: Graph) -> list[Expected]:
    """Of a `steps` table: each step once and in order, values finite and within their bounds."""
    return [
        rows_at_least(len(graph.study.seeds) * graph.study.until_step),
        unique("seed", "step"),
        always("step_increase", 1),
        always("non_finite", 0),
        always("length_ordered", True),
        between("length_min", 1, None),
        between("length_max", None, graph.study.ppo.max_new_tokens),
        between("truncated_share", 0.0, 1.0),
        between("clip_fraction", 0.0, 1.0),
        between("kl_train_sample", -_ROUNDING, None),
        between("kl_mismatch", -_ROUNDING, None),
    ]


def _data_checks(graph: Graph) -> list[dg.AssetChecksDefinition]:
    names = ("pretraining_data", "sft_data", "preference_data", "prompts")
    text = "No text is empty, no id appears twice, and no held-out problem is stated."
    training = [(name, text, SOUND_TRAINING_ROWS) for name in names if name in graph.names]
    benchmarks = ("benchmark_data", "No text is empty and no id appears twice in a benchmark.", SOUND_ROWS)
    return [
        _frame_check(graph, name, "rows_are_sound", description, frames.texts, expected)
        for name, description, expected in [*training, benchmarks]
    ]


def _run_checks(graph: Graph) -> list[dg.AssetChecksDefinition]:
    text = "Each step once and in order, all values finite, KL zero or more, lengths within their bounds."
    names = [name for name in ("paradigm_1_run", "paradigm_3_run", "ppo_run") if name in graph.names]
    expected = expected_metrics(graph)
    return [_frame_check(graph, name, "metrics_are_sound", text, frames.steps, expected) for name in names]


def _score_checks(graph: Graph) -> list[dg.AssetChecksDefinition]:
    text = "Every benchmark has a score in [0, 1] for every model, or the reason why it was not run."
    names = ("benchmark_scores", "paradigm_scores")
    return [_frame_check(graph, name, "scores_are_complete", text, frames.scores, COMPLETE_SCORES) for name in names]


def _frame_check(
    graph: Graph,
    asset: str,
    name: str,
    description: str,
    make_frame: MakeFrame,
    expected: list[Expected],
    *,
    blocking: bool = False,
) -> dg.AssetChecksDefinition:
    partitions = graph.alphas if asset in PARTITIONED else None

    @dg.asset_check(asset=asset, name=name, description=description, blocking=blocking, partitions_def=partitions)
    def check(context: dg.AssetCheckExecutionContext, study: StudyResource) -> dg.AssetCheckResult:
        alpha = context.partition_key if partitions is not None else None
        return expect(make_frame(study.plan(), asset, alpha), expected)

    return check


def _recipe_checks(graph: Graph) -> list[dg.AssetChecksDefinition]:
    return [_recipe_check(graph, asset) for asset in ("merged_sft", "bai_actor")]


def _recipe_check(graph: Graph, asset: str) -> dg.AssetChecksDefinition:
    partitions = graph.alphas if asset in PARTITIONED else None

    @dg.asset_check(
        asset=asset,
        name="recorded_recipe",
        description="The recipe that the model records is the one that the study asks for.",
        partitions_def=partitions,
    )
    def check(context: dg.AssetCheckExecutionContext, study: StudyResource) -> dg.AssetCheckResult:
        from bai_pipeline.merging.recipe_directory import check_recorded

        plan, alpha = study.plan(), context.partition_key if partitions is not None else None
        ((_, path),) = frames.objects(plan, asset, alpha)
        recipe = plan.requested_recipe(alpha)
        try:
            check_recorded(path, recipe)
        except BaiPipelineError as error:
            return dg.AssetCheckResult(passed=False, metadata={"error": str(error)})
        return dg.AssetCheckResult(passed=True, metadata={"recipe": dg.MetadataValue.text(recipe.to_json())})

    return check
