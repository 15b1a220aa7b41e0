"""What a study needs, in order: for every asset the job that makes it, from the refs of what is upstream.

A plan is a pure function of the study file and the store's refs. An asset is fresh when its ref names the very job
that the plan asks for; so a changed setting, weight or input makes exactly the affected assets stale.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from bai_pipeline.errors import BaiPipelineError, StoreError
from bai_pipeline.jobspec import Execution, JobSpec, Json
from bai_pipeline.merging.recipe import Recipe, bai_recipe, stage_1_recipe
from bai_pipeline.store import Ref, RefKey, Store
from bai_pipeline.study import CriticPath, Study

CODE_VERSIONS = {
    "pretraining_data": "1",
    "sft_data": "1",
    "prompts": "1",
    "benchmark_data": "1",
    "import_checkpoint": "1",
    "pretrain": "1",
    "finetune": "1",
    "preferences": "1",
    "reward": "1",
    "merge_weights": "1",
    "merge": "1",
    "ppo": "1",
    "evaluate": "1",
    "ratio_table": "1",
    "paradigm_table": "1",
    "figures": "1",
    "report": "1",
}
"""Raised whenever the same inputs and settings of a kind of job would give another result."""

State = Literal["fresh", "stale", "absent"]


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
    _used: list[RefKey] = field(default_factory=list, repr=False)

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
        names += [f"paradigm_{n}_run" for n in (1, 3) if self._paradigm_role(n)]
        return [
            *names,
            "ppo_run",
            "benchmark_scores",
            "paradigm_scores",
            "ratio_table",
            "paradigm_table",
            "dynamics_figures",
            "report",
        ]

    def keys(self, asset: str, alpha: str | None = None) -> list[RefKey]:
        """The refs of an asset: one, or one per alpha of the study (or the one asked for), table row and seed."""
        study, name = self.study, self.study.name
        alphas = study.alphas if alpha is None else (alpha,)
        if asset == "bai_actor":
            return [RefKey(name, asset, a) for a in alphas]
        if asset in ("ppo_run", "benchmark_scores"):
            return [RefKey(name, asset, a, seed) for a in alphas for seed in study.seeds]
        if asset in ("paradigm_1_run", "paradigm_3_run"):
            return [RefKey(name, asset, None, seed) for seed in study.seeds]
        if asset == "paradigm_scores":
            models = ["base_model", *(f"{role}_sft" for role in study.sft)]
            runs = [f"paradigm_{n}" for n in (1, 3) if self._paradigm_role(n)]
            return [RefKey(name, asset, m) for m in models] + [
                RefKey(name, asset, r, s) for r in runs for s in study.seeds
            ]
        return [RefKey(name, asset)]

    def all_keys(self) -> Iterator[RefKey]:
        """Every ref of the study, upstream first."""
        for asset in self.assets:
            yield from self.keys(asset)

    # -- what each needs ---------------------------------------------------------------------------------------------

    def spec(self, key: RefKey) -> JobSpec:
        """The job that makes an asset, from what its upstream refs are now.

        Raises:
            StoreError: something upstream has not been materialized.
        """
        self._used = []
        return _BUILDERS.get(key.asset, _sft)(self, key)

    def status(self) -> dict[RefKey, Status]:
        """The state of every ref of the study; one is stale also when something upstream of it is not fresh."""
        result: dict[RefKey, Status] = {}
        for key in self.all_keys():
            result[key] = self._status(key, result)
        return result

    def satisfied(self, key: RefKey, spec: JobSpec) -> bool:
        """Whether the ref names a whole object of this very job, trained as far as the execution asks for."""
        ref = self.store.read_ref(key)
        if ref is None or ref.job != spec.identity:
            return False
        try:
            path = self.store.open(ref.object)
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

    # -- internals ---------------------------------------------------------------------------------------------------

    def _status(self, key: RefKey, known: Mapping[RefKey, Status]) -> Status:
        ref = self.store.read_ref(key)
        if ref is None:
            return Status("absent", "never materialized")
        try:
            spec = self.spec(key)
        except BaiPipelineError as error:
            return Status("stale", str(error))
        waiting = [str(k) for k in dict.fromkeys(self._used) if k in known and known[k].state != "fresh"]
        if waiting:
            return Status("stale", f"upstream is not fresh: {', '.join(waiting)}")
        if ref.job != spec.identity:
            return Status("stale", "inputs or settings changed")
        if not self.satisfied(key, spec):
            return Status("stale", "its object is not whole, or trained less far than the study asks for")
        return Status("fresh")

    def _paradigm_role(self, number: int) -> str | None:
        return self.study.paradigm_1 if number == 1 else self.study.paradigm_3

    def _resolve(self, key: RefKey) -> Ref:
        self._used.append(key)
        return self._read(key)

    def _read(self, key: RefKey) -> Ref:
        ref = self.store.read_ref(key)
        if ref is None:
            raise StoreError(f"{key} of study {key.study!r} has not been materialized; materialize it first")
        return ref

    def _asset(self, asset: str) -> Ref:
        return self._resolve(RefKey(self.study.name, asset))

    def _part(self, ref: Ref, directory: str) -> Ref:
        """A directory inside an object, as an input of its own."""
        uri = f"{ref.object}/{directory}"
        return replace(ref, object=uri, digest=self.store.digest(uri))

    def _spec(
        self, kind: str, inputs: Mapping[str, Ref], settings: Json, seed: int | None = None, **execution: int
    ) -> JobSpec:
        return JobSpec(
            kind=kind,
            code_version=CODE_VERSIONS[kind],
            inputs={name: ref.digest for name, ref in inputs.items()},
            settings=settings,
            seed=seed,
            execution=Execution(inputs={name: ref.object for name, ref in inputs.items()}, **execution),  # type: ignore[arg-type]
        )


def reaches(spec: JobSpec, path: Path) -> bool:
    """Whether an object of this job is trained as far as the execution asks for; only PPO runs can fall short."""
    if spec.kind != "ppo":
        return True
    run = json.loads((path / "run.json").read_text(encoding="utf-8"))
    return (
        run["until_step"] >= (spec.execution.until_step or 0)
        and str(spec.execution.evaluate_at_step) in run["policies"]
    )


def merge_weight_rows(store: Store, ref: Ref) -> dict[str, dict[str, float]]:
    """merge -> {role: Stage 1 weight} from the merge_weights table; merge is "merged_sft" or an alpha."""
    table = json.loads((store.open(ref.object) / "merge_weights.json").read_text(encoding="utf-8"))
    return {row["merge"]: {role: float(w) for role, w in row["sft_weights"].items()} for row in table}


def _recipe(alpha: str | None, sft_weights: Mapping[str, float]) -> Recipe:
    weights = dict(
        sorted(sft_weights.items())
    )  # the order fixes the bytes, so it must not depend on how a file is written
    return stage_1_recipe(weights) if alpha is None else bai_recipe(float(alpha), weights)


def fingerprint(path: Path) -> Json:
    """What identifies something brought by path without reading it: each file's name, size and time of change."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    stats = [[str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return {"path": str(path), "files": stats}


# -- one builder an asset ----------------------------------------------------------------------------------------------


def _pretraining_data(plan: Plan, key: RefKey) -> JobSpec:
    return plan._spec(
        "pretraining_data", {}, {"world": plan.study.world.model_dump(mode="json")}, plan.study.chain_seed
    )


def _sft_data(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    brought = study.data.sft or {}
    sources = {
        role: fingerprint(brought[role]) if role in brought else {"style": source.train}
        for role, source in study.sft.items()
        if source.train
    }
    return plan._spec(
        "sft_data", {}, {"world": study.world.model_dump(mode="json"), "sources": sources}, study.chain_seed
    )


def _prompts(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    source: Json = {"world": study.world.model_dump(mode="json")}
    if study.data.prompts:
        source = {"brought": fingerprint(study.data.prompts)}
    return plan._spec("prompts", {}, source, None if study.data.prompts else study.chain_seed)


def _benchmark_data(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    brought = study.data.benchmarks or {}
    source = {
        "world": study.world.model_dump(mode="json"),
        "benchmarks": {n: fingerprint(brought[n]) if n in brought else None for n in study.evals.benchmarks},
    }
    return plan._spec("benchmark_data", {}, source, study.chain_seed)


def _base_model(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    if study.base.path:
        return plan._spec("import_checkpoint", {}, {"role": "causal_lm", "brought": fingerprint(study.base.path)})
    settings = {"model": study.model.model_dump(mode="json"), "training": study.pretraining.model_dump(mode="json")}
    return plan._spec("pretrain", {"data": plan._asset("pretraining_data")}, settings, study.chain_seed)


def _sft(plan: Plan, key: RefKey) -> JobSpec:
    study, role = plan.study, key.asset.removesuffix("_sft")
    source = study.sft[role]
    if source.path:
        return plan._spec("import_checkpoint", {}, {"role": "causal_lm", "brought": fingerprint(source.path)})
    inputs = {"base": plan._asset("base_model"), "data": plan._part(plan._asset("sft_data"), role)}
    training = study.sft_training[str(source.train)].model_dump(mode="json")
    template = study.chat_template.read_text(encoding="utf-8") if study.chat_template else None
    return plan._spec("finetune", inputs, {"training": training, "chat_template": template}, study.chain_seed)


def _preference_data(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    if study.data.preferences:
        return plan._spec("preferences", {}, {"brought": fingerprint(study.data.preferences)})
    inputs = {role: plan._asset(f"{role}_sft") for role in study.preferences.sampled_from}
    settings = {"preferences": study.preferences.model_dump(mode="json"), "world": study.world.model_dump(mode="json")}
    return plan._spec("preferences", inputs, settings, study.chain_seed)


def _reward_model(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    if study.reward.path:
        return plan._spec("import_checkpoint", {}, {"role": "reward_model", "brought": fingerprint(study.reward.path)})
    inputs = {"init": plan._asset(f"{study.reward.init_from}_sft"), "preferences": plan._asset("preference_data")}
    return plan._spec("reward", inputs, {"training": study.reward_training.model_dump(mode="json")}, study.chain_seed)


def _critic_model(plan: Plan, key: RefKey) -> JobSpec:
    assert isinstance(plan.study.critic_init, CriticPath)
    return plan._spec("import_checkpoint", {}, {"role": "critic", "brought": fingerprint(plan.study.critic_init.path)})


def _merge_weights(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    return plan._spec("merge_weights", {}, {"alphas": list(study.alphas), "sft_weights": study.sft_weights})


def _merge(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    recipe = plan.recipe(key.part if key.asset == "bai_actor" else None)
    inputs = {name: plan._asset(name) for name in recipe.models}
    inputs.setdefault(f"{study.tokenizer_from}_sft", plan._asset(f"{study.tokenizer_from}_sft"))
    template = study.chat_template.read_text(encoding="utf-8") if study.chat_template else None
    settings = {
        "recipe": json.loads(recipe.to_json()),
        "tokenizer_from": f"{study.tokenizer_from}_sft",
        "chat_template": template,
    }
    return plan._spec("merge", inputs, settings)


def _ppo(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    if key.asset == "ppo_run":
        actor = plan._resolve(RefKey(study.name, "bai_actor", key.part))
    else:
        actor = plan._asset(f"{plan._paradigm_role(int(key.asset[len('paradigm_')]))}_sft")
    inputs = {"actor": actor, "prompts": plan._asset("prompts")}
    if study.reward.kind == "model":
        inputs["reward_model"] = plan._asset("reward_model")
    if study.critic_init == "reward":
        inputs["critic"] = plan._asset("reward_model")
    else:
        inputs["critic"] = actor if study.critic_init == "policy" else plan._asset("critic_model")
    settings = {
        "ppo": study.ppo.model_dump(mode="json"),
        "reward": study.reward.model_dump(mode="json", include={"kind", "url", "function"}),
    }
    return plan._spec(
        "ppo",
        inputs,
        settings,
        key.seed,
        until_step=study.until_step,
        evaluate_at_step=study.evaluate_at_step,
        checkpoint_every=study.checkpoint_every,
    )


def _policy(plan: Plan, run: RefKey) -> Ref:
    """The policy that the tables use: the run's checkpoint at `evaluate_at_step`."""
    ref = plan._resolve(run)
    policies = json.loads((plan.store.open(ref.object) / "run.json").read_text(encoding="utf-8"))["policies"]
    step = str(plan.study.evaluate_at_step)
    if step not in policies:
        raise StoreError(f"{run} kept no policy of step {step} (it has {', '.join(policies)}); materialize it again")
    return plan._part(ref, policies[step])


def _evaluate(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    if key.asset == "benchmark_scores":
        model = _policy(plan, RefKey(study.name, "ppo_run", key.part, key.seed))
    elif key.seed is not None:
        model = _policy(plan, RefKey(study.name, f"{key.part}_run", None, key.seed))
    else:
        model = plan._asset(str(key.part))
    inputs = {"model": model, "data": plan._asset("benchmark_data")}
    return plan._spec("evaluate", inputs, study.evals.model_dump(mode="json"), key.seed)


def _existing(plan: Plan, keys: list[RefKey]) -> dict[str, Ref]:
    """Those of the refs that exist, by "PART" or "PART/SEED"; the others become holes."""
    result = {}
    for key in keys:
        ref = plan.store.read_ref(key)
        if ref is not None:
            plan._used.append(key)
            result[(key.part or key.asset) + ("" if key.seed is None else f"/{key.seed}")] = ref
    return result


def _ratio_table(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    settings = {"alphas": list(study.alphas), "seeds": list(study.seeds), "benchmarks": list(study.evals.benchmarks)}
    return plan._spec("ratio_table", _existing(plan, plan.keys("benchmark_scores")), settings)


def _paradigm_table(plan: Plan, key: RefKey) -> JobSpec:
    study = plan.study
    inputs = _existing(plan, plan.keys("paradigm_scores") + plan.keys("benchmark_scores", study.headline_alpha))
    settings = {
        "paradigm_1": study.paradigm_1,
        "paradigm_3": study.paradigm_3,
        "sft": list(study.sft),
        "headline_alpha": study.headline_alpha,
        "seeds": list(study.seeds),
        "benchmarks": list(study.evals.benchmarks),
    }
    return plan._spec("paradigm_table", inputs, settings)


def _runs(plan: Plan) -> dict[str, Ref]:
    keys = [k for n in (1, 3) if plan._paradigm_role(n) for k in plan.keys(f"paradigm_{n}_run")]
    return _existing(plan, keys + plan.keys("ppo_run"))


def _dynamics_figures(plan: Plan, key: RefKey) -> JobSpec:
    return plan._spec("figures", _runs(plan), {})


def _report(plan: Plan, key: RefKey) -> JobSpec:
    tables = {name: plan._asset(name) for name in ("paradigm_table", "ratio_table")}
    return plan._spec("report", {**tables, **_runs(plan)}, {"study": plan.study.name})


_BUILDERS: dict[str, Callable[[Plan, RefKey], JobSpec]] = {
    "pretraining_data": _pretraining_data,
    "sft_data": _sft_data,
    "prompts": _prompts,
    "benchmark_data": _benchmark_data,
    "base_model": _base_model,
    "preference_data": _preference_data,
    "reward_model": _reward_model,
    "critic_model": _critic_model,
    "merge_weights": _merge_weights,
    "merged_sft": _merge,
    "bai_actor": _merge,
    "ppo_run": _ppo,
    "paradigm_1_run": _ppo,
    "paradigm_3_run": _ppo,
    "benchmark_scores": _evaluate,
    "paradigm_scores": _evaluate,
    "ratio_table": _ratio_table,
    "paradigm_table": _paradigm_table,
    "dynamics_figures": _dynamics_figures,
    "report": _report,
}
