"""What a study needs, in order: for every asset the job that makes it, from the refs of what is upstream.

A plan is a pure function of the study file and the store's refs. An asset is fresh when its ref names the very job
that the plan asks for; so a changed setting, weight or input makes exactly the affected assets stale.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from bai_pipeline.errors import BaiPipelineError, StoreError, StoreUnavailable
from bai_pipeline.jobspec import Execution, JobSpec, Json
from bai_pipeline.merging import MERGE_VERSION
from bai_pipeline.merging.recipe import Recipe, bai_recipe, stage_1_recipe
from bai_pipeline.plan.builders import builder_of
from bai_pipeline.plan.runs import RUN_FILE, RunRecord, reaches, records_of, run_of_scores
from bai_pipeline.store import Ref, RefKey, Store
from bai_pipeline.study import CriticPath, Study

CODE_VERSIONS = {
    "pretraining_data": "1",
    "sft_data": "1",
    "prompts": "1",
    "benchmark_data": "2",
    "import_checkpoint": "1",
    "pretrain": "2",
    "finetune": "2",
    "preferences": "4",
    "reward": "2",
    "merge_weights": "1",
    "merge": MERGE_VERSION,
    "actor": "1",
    "actor_checkpoints": MERGE_VERSION,
    "ppo": "5",
    "evaluate": "5",
    "ratio_table": "2",
    "paradigm_table": "2",
    "case_studies": "1",
    "contamination": "1",
    "diagnose": "1",
    "recommendation": "2",
    "halving": "2",
    "figures": "2",
    "report": "4",
}
"""Raised whenever the same inputs and settings of a kind of job would give another result."""

State = Literal["fresh", "stale", "absent", "hole"]
"""A hole is what there will not be: scores of a run that was stopped before the step that is evaluated."""


@dataclass(frozen=True)
class Status:
    """Whether an asset's ref is what the plan asks for, and why not."""

    state: State
    reason: str = ""


@dataclass
class Plan:
    """The jobs of a study against one store."""

    study: Study
    store: Store
    used: list[RefKey] = field(default_factory=list, repr=False)
    """The upstream refs that the last `spec` read."""

    # -- which assets there are --------------------------------------------------------------------------------------

    @cached_property
    def assets(self) -> list[str]:
        """Names of the study's assets, upstream first; what is brought instead of made has no data asset."""
        study = self.study
        names = ["pretraining_data"] if study.base.train else []
        names += ["sft_data"] if any(s.train for s in study.sft.values()) else []
        names += ["prompts", "benchmark_data", "base_model", *(f"{role}_sft" for role in study.sft)]
        names += ["preference_data"] if study.reward.train else []
        names += ["reward_model"] if study.reward.has_model else []
        names += ["critic_model"] if isinstance(study.critic_init, CriticPath) else []
        names += ["merge_weights", "merged_sft", "bai_actor"]
        names += [f"paradigm_{n}_run" for n in (1, 3) if self.paradigm_role(n)]
        names += ["ppo_run", "training_dynamics"]
        names += ["paradigm_dynamics"] if any(map(self.paradigm_role, (1, 3))) else []
        return [
            *names,
            "benchmark_scores",
            "paradigm_scores",
            "contamination",
            "ratio_table",
            "paradigm_table",
            "case_studies",
            "ratio_recommendation",
            "dynamics_figures",
            "report",
        ]

    def keys(self, asset: str, alpha: str | None = None) -> list[RefKey]:
        """The refs of an asset: one, or one per alpha of the study (or the one asked for), table row and seed."""
        study, name = self.study, self.study.name
        alphas = study.alphas if alpha is None else (alpha,)
        if asset in ("bai_actor", "training_dynamics"):
            return [RefKey(name, asset, a) for a in alphas]
        if asset in ("ppo_run", "benchmark_scores"):
            return [RefKey(name, asset, a, seed) for a in alphas for seed in study.seeds]
        if asset in ("paradigm_1_run", "paradigm_3_run"):
            return [RefKey(name, asset, None, seed) for seed in study.seeds]
        if asset == "paradigm_scores":
            models = ["base_model", *(f"{role}_sft" for role in study.sft)]
            runs = [f"paradigm_{n}" for n in (1, 3) if self.paradigm_role(n)]
            return [RefKey(name, asset, m) for m in models] + [
                RefKey(name, asset, r, s) for r in runs for s in study.seeds
            ]
        return [RefKey(name, asset)]

    def beside(self, asset: str) -> list[RefKey]:
        """Refs that are made along with an asset, before it, and are none of their own: one job for all partitions."""
        written = asset == "bai_actor" and self.study.actors == "checkpoint"
        return [RefKey(self.study.name, "actor_checkpoints")] if written else []

    def all_keys(self) -> Iterator[RefKey]:
        """Every ref of the study, upstream first."""
        for asset in self.assets:
            yield from self.beside(asset)
            yield from self.keys(asset)

    # -- what each needs ---------------------------------------------------------------------------------------------

    def spec(self, key: RefKey) -> JobSpec:
        """The job that makes an asset, from what its upstream refs are now.

        Raises:
            StoreError: something upstream has not been materialized.
        """
        self.used = []
        return builder_of(key.asset)(self, key)

    def status(self) -> dict[RefKey, Status]:
        """The state of every ref of the study; one is stale also when something upstream of it is not fresh."""
        result: dict[RefKey, Status] = {}
        for key in self.all_keys():
            result[key] = self._status(key, result)
        return result

    def hole(self, key: RefKey) -> str | None:
        """Why there will be no such artefact; None if there can be one."""
        run = run_of_scores(key)
        ref = None if run is None else self.store.read_ref(run)
        if ref is None:
            return None
        try:
            record = RunRecord.read(self.store.peek(ref.object, RUN_FILE))
        except StoreUnavailable:
            raise
        except StoreError:
            return None
        if not record.stopped or str(self.study.evaluate_at_step) in record.policies:
            return None
        return f"stopped after step {record.stopped['step']}: {record.stopped['reason']}"

    def satisfied(self, key: RefKey, spec: JobSpec) -> bool:
        """Whether the ref names a whole object of this very job, trained as far as the execution asks for."""
        ref = self.store.read_ref(key)
        if ref is None or ref.job != spec.identity:
            return False
        try:
            path = self.store.peek(ref.object, *records_of(spec.kind))
        except StoreUnavailable:
            raise
        except StoreError:
            return False
        return reaches(spec, path)

    def requested_recipe(self, alpha: str | None) -> Recipe:
        """Stage 1 (`alpha` None) or Stage 2 as the study file asks for it; roles in alphabetical order."""
        return _recipe(alpha, self.study.sft_weights)

    def recipe(self, alpha: str | None) -> Recipe:
        """Stage 1 or Stage 2 from the rows of merge_weights; an alpha that has no row takes the Stage 1 weights.

        Raises:
            RecipeError: the table's weights are not those of a merge.
            StoreError: the table is not there, or says something else than the study.
        """
        rows = merge_weight_rows(self.store, self._read(RefKey(self.study.name, "merge_weights")))
        recipe = _recipe(alpha, rows.get(alpha or "merged_sft", rows["merged_sft"]))
        if recipe != self.requested_recipe(alpha):
            raise StoreError("merge_weights does not hold the weights of the study; materialize it again")
        return recipe

    def _status(self, key: RefKey, known: Mapping[RefKey, Status]) -> Status:
        hole, ref = self.hole(key), self.store.read_ref(key)
        if hole is not None:
            return Status("hole", hole)
        if ref is None:
            return Status("absent", "never materialized")
        try:
            spec = self.spec(key)
        except BaiPipelineError as error:
            return Status("stale", str(error))
        needed = dict.fromkeys([*self.used, *self.beside(key.asset)])
        waiting = [str(k) for k in needed if k in known and known[k].state in ("stale", "absent")]
        if waiting:
            return Status("stale", f"upstream is not fresh: {', '.join(waiting)}")
        if ref.job != spec.identity:
            return Status("stale", "inputs or settings changed")
        if not self.satisfied(key, spec):
            return Status("stale", "its object is not whole, or trained less far than the study asks for")
        return Status("fresh")

    # -- what the builders use ---------------------------------------------------------------------------------------

    def paradigm_role(self, number: int) -> str | None:
        """The SFT role of a baseline, if the study has it."""
        return self.study.paradigm_1 if number == 1 else self.study.paradigm_3

    def resolve(self, key: RefKey) -> Ref:
        """What an upstream asset is now, noted as used.

        Raises:
            StoreError: it has not been materialized.
        """
        self.used.append(key)
        return self._read(key)

    def _read(self, key: RefKey) -> Ref:
        ref = self.store.read_ref(key)
        if ref is None:
            what = "bai_actor, at any alpha," if key.asset == "actor_checkpoints" else "it"
            raise StoreError(f"{key} of study {key.study!r} has not been materialized; materialize {what} first")
        return ref

    def asset(self, asset: str) -> Ref:
        """`resolve` for an asset that is neither partitioned nor seeded."""
        return self.resolve(RefKey(self.study.name, asset))

    def part(self, ref: Ref, directory: str) -> Ref:
        """A directory inside an object, as an input of its own."""
        uri = f"{ref.object}/{directory}"
        return replace(ref, object=uri, digest=self.store.digest(uri))

    def job(
        self, kind: str, inputs: Mapping[str, Ref], settings: Json, seed: int | None = None, **execution: Any
    ) -> JobSpec:
        """A specification from resolved inputs; `execution` is what is not hashed."""
        return JobSpec(
            kind=kind,
            code_version=CODE_VERSIONS[kind],
            inputs={name: ref.digest for name, ref in inputs.items()},
            settings=settings,
            seed=seed,
            execution=Execution(inputs={name: ref.object for name, ref in inputs.items()}, **execution),
        )


def merge_weight_rows(store: Store, ref: Ref) -> dict[str, dict[str, float]]:
    """merge -> {role: Stage 1 weight} from the merge_weights table; merge is "merged_sft" or an alpha."""
    table = json.loads((store.open(ref.object) / "merge_weights.json").read_text(encoding="utf-8"))
    return {row["merge"]: {role: float(w) for role, w in row["sft_weights"].items()} for row in table}


def _recipe(alpha: str | None, sft_weights: Mapping[str, float]) -> Recipe:
    weights = dict(sorted(sft_weights.items()))  # the order fixes the bytes: not left to how a file is written
    return stage_1_recipe(weights) if alpha is None else bai_recipe(float(alpha), weights)
