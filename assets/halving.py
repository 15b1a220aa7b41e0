"""Successive halving: every alpha gets a short run, the collapsing and the worst are dropped, the rest go on.

A rung trains the same PPO jobs as `ppo_run`, with a smaller `until_step`; the next one continues them from their
checkpoints. So a survivor ends as the very run that the full grid would have made, and a dropped alpha can be continued
later by materializing its partition of `ppo_run`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg

from assets.execution import crashes_are_retried, refusals_are_final
from assets.graph import Graph, pool_of
from bai_pipeline.dynamics.ladder import Rung, rungs
from bai_pipeline.plan import Plan
from bai_pipeline.store import Ref, RefKey
from resources import ComputeResource, StudyResource

NAME = "successive_halving"


def halving_job(graph: Graph) -> dg.JobDefinition:
    """The job; its shape (how many rungs) follows from the study.

    Raises:
        StudyError: the study is too small for halving to save anything.
    """
    study = graph.study
    ladder = rungs(study.alphas, study.until_step, study.halving)

    @dg.op(out=dg.DynamicOut(str), description="Every alpha of the study.")
    def all_alphas() -> Iterator[dg.DynamicOutput[str]]:
        yield from _outputs(list(study.alphas))

    @dg.graph(name=NAME, description=__doc__)
    def successive_halving() -> None:
        alphas = all_alphas()
        for number, rung in enumerate(ladder, 1):
            trained = alphas.map(_train(number, rung)).collect()
            if number < len(ladder):
                alphas = _choose(ladder[: number + 1])(trained)
            else:
                _conclude()(trained)

    return successive_halving.to_job(
        executor_def=dg.multiprocess_executor,
        description="A short run of every alpha, longer ones of those that neither collapse nor fall behind.",
    )


def _train(number: int, rung: Rung) -> dg.OpDefinition:
    until = rung.until_step

    @dg.op(name=f"train_until_{until}", pool=pool_of("ppo"), description=f"Rung {number}: PPO until step {until}.")
    def train(context: dg.OpExecutionContext, alpha: str, study: StudyResource, compute: ComputeResource) -> str:
        with refusals_are_final():
            plan = study.plan()
            name = plan.study.name
            for key in (RefKey(name, "bai_actor", alpha), *plan.keys("ppo_run", alpha)):
                spec = plan.spec(key)
                if key.asset == "ppo_run":
                    spec = replace(spec, execution=replace(spec.execution, until_step=until))
                with crashes_are_retried(context):
                    result = compute.run(context, spec, plan.store).result
                plan.store.write_ref(key, Ref(result.object, result.digest, spec.identity, dict(spec.inputs)))
        context.log_event(
            dg.AssetMaterialization("ppo_run", partition=alpha, metadata={"until_step": until, "rung": number})
        )
        return alpha

    return train


def _choose(ladder: tuple[Rung, ...]) -> dg.OpDefinition:
    """After the rung before the last of `ladder`."""
    number = len(ladder) - 1

    @dg.op(
        name=f"choose_after_rung_{number}",
        out=dg.DynamicOut(str),
        description=f"Rung {number}: the alphas that go on.",
    )
    def choose(
        context: dg.OpExecutionContext, trained: list[str], study: StudyResource
    ) -> Iterator[dg.DynamicOutput[str]]:
        from bai_pipeline.jobs.halving import continuing, decisions

        with refusals_are_final():
            plan = study.plan()
            decision = decisions(_runs(plan), ladder, plan.study.halving, plan.study.dynamics)[-1]
        for row in decision.itertuples():
            context.log.info("alpha %s: %s. %s", row.alpha, row.decision, row.reason)
        yield from _outputs(continuing(decision))

    return choose


def _conclude() -> dg.OpDefinition:
    @dg.op(name="conclude", description="What was decided, what it cost, and the advice.")
    def conclude(
        context: dg.OpExecutionContext, trained: list[str], study: StudyResource, compute: ComputeResource
    ) -> None:
        with refusals_are_final():
            plan = study.plan()
            key = RefKey(plan.study.name, NAME)
            spec = plan.spec(key)
            result = compute.run(context, spec, plan.store).result
            plan.store.write_ref(key, Ref(result.object, result.digest, spec.identity, dict(spec.inputs)))
            page = plan.store.path(result.object) / "halving.md"
        metadata = {"halving": dg.MetadataValue.md(page.read_text(encoding="utf-8")), **result.metadata}
        context.log_event(dg.AssetMaterialization(NAME, metadata=metadata))

    return conclude


def _runs(plan: Plan) -> dict[str, Path]:
    """The directory of every run of the sweep, by "ALPHA/SEED"."""
    refs = {f"{key.part}/{key.seed}": plan.store.read_ref(key) for key in plan.keys("ppo_run")}
    return {name: plan.store.open(ref.object) for name, ref in refs.items() if ref is not None}


def _outputs(alphas: list[str]) -> Iterator[dg.DynamicOutput[str]]:
    for alpha in alphas:
        yield dg.DynamicOutput(alpha, mapping_key=f"alpha_{alpha.replace('.', '_')}")
