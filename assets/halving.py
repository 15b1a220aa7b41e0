"""Successive halving: every alpha gets a short run, the collapsing and the worst are dropped, the rest go on.

A rung trains the same PPO jobs as `ppo_run`, with a smaller `until_step`; the next one continues them from their
checkpoints. So a survivor ends as the very run that the full grid would have made, and a dropped alpha can be continued
later by materializing its partition of `ppo_run`. What PPO starts from is not made here: it is to be there.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg

from assets.execution import (
    crashes_are_retried,
    data_version,
    outcomes,
    provenance,
    readings,
    refusals_are_final,
    severity,
)
from assets.graph import Graph, pool_of
from assets.rlhf import SHARED
from bai_pipeline.dynamics.ladder import Rung, rungs
from bai_pipeline.errors import StoreError
from bai_pipeline.plan import Plan
from bai_pipeline.store import Ref, RefKey
from resources import Compute, ComputeResource, Finished, StudyResource

NAME = "successive_halving"


def halving_job(graph: Graph) -> dg.JobDefinition:
    """The job; its shape (how many rungs) follows from the study.

    Raises:
        StudyError: the study is too small for halving to save anything.
    """
    study = graph.study
    ladder = rungs(study.alphas, study.until_step, study.halving)

    @dg.op(out=dg.DynamicOut(str), description="Every alpha of the study, if what PPO starts from is there.")
    def all_alphas(study: StudyResource) -> Iterator[dg.DynamicOutput[str]]:
        with refusals_are_final():
            plan = study.plan()
            _require_upstream(plan)
        yield from _outputs(list(plan.study.alphas))

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
            for asset in ("bai_actor", "ppo_run"):
                keys = [*plan.beside(asset), *plan.keys(asset, alpha)]
                done = {key: _run(context, plan, key, compute, until) for key in keys}
                _record(context, plan, asset, alpha, done, number)
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
            done = {key: _run(context, plan, key, compute)}
            text = (plan.store.open(done[key].result.object) / "halving.md").read_text(encoding="utf-8")
        context.log.info(text)
        metadata = {
            "halving": dg.MetadataValue.md(text),
            **readings(done),
            **provenance(done, plan.store),
        }
        context.log_event(dg.AssetMaterialization(NAME, metadata=metadata))

    return conclude


def _require_upstream(plan: Plan) -> None:
    """Raise StoreError with all that PPO starts from and that was never made."""
    models = ("base_model", *(f"{role}_sft" for role in plan.study.sft), "merge_weights")
    needed = [RefKey(plan.study.name, name) for name in (*models, *SHARED) if name in plan.assets]
    absent = [key.asset for key in needed if plan.store.read_ref(key) is None]
    if absent:
        selection = ",".join(f"*{name}" for name in ("bai_actor", *SHARED) if name in plan.assets)
        raise StoreError(
            f"{', '.join(absent)} of study {plan.study.name!r} have not been materialized, and every run starts from "
            "them; make them first: dagster asset materialize -m assets.definitions "
            f"--select '{selection}' --partition {plan.study.alphas[0]}"
        )


def _run(
    context: dg.OpExecutionContext, plan: Plan, key: RefKey, compute: Compute, until_step: int | None = None
) -> Finished:
    """Run the job of a ref, PPO to `until_step` at most, and have the ref name what it made."""
    spec = plan.spec(key)
    if spec.kind == "ppo":
        spec = replace(spec, execution=replace(spec.execution, until_step=until_step))
    with crashes_are_retried(context):
        finished = compute.run(context, spec, plan.store)
    result = finished.result
    plan.store.write_ref(key, Ref(result.object, result.digest, spec.identity, dict(spec.inputs)))
    return finished


def _record(
    context: dg.OpExecutionContext, plan: Plan, asset: str, alpha: str, done: dict[RefKey, Finished], rung: int
) -> None:
    """Tell Dagster of a partition what its own materialization would tell, and the rung."""
    own = {key: finished for key, finished in done.items() if key.asset == asset}
    context.log_event(
        dg.AssetMaterialization(
            asset,
            partition=alpha,
            metadata={"alpha": float(alpha), "rung": rung, **readings(own), **provenance(own, plan.store)},
            tags={"dagster/data_version": data_version([finished.result for finished in own.values()])},
        )
    )
    for name, check in outcomes([finished.result for finished in done.values()]).items():
        context.log_event(
            dg.AssetCheckEvaluation(  # type: ignore[arg-type]  # taken, though its annotation does not say so
                asset_key=dg.AssetKey(asset),
                check_name=name,
                passed=check.passed,
                metadata=dict(check.metadata),
                severity=severity(check),
                partition=alpha,
            )
        )


def _runs(plan: Plan) -> dict[str, Path]:
    """The directory of every run of the sweep, by "ALPHA/SEED"."""
    refs = {f"{key.part}/{key.seed}": plan.store.read_ref(key) for key in plan.keys("ppo_run")}
    return {name: plan.store.open(ref.object) for name, ref in refs.items() if ref is not None}


def _outputs(alphas: list[str]) -> Iterator[dg.DynamicOutput[str]]:
    for alpha in alphas:
        yield dg.DynamicOutput(alpha, mapping_key=f"alpha_{alpha.replace('.', '_')}")
