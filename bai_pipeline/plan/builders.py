"""One builder an asset: the job that makes it, from the study and from what is upstream of it now."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bai_pipeline.errors import StoreError
from bai_pipeline.eval_settings import REGISTERED, benchmark_directory
from bai_pipeline.jobspec import JobSpec, Json
from bai_pipeline.plan.runs import RUN_FILE, RunRecord, run_of_scores
from bai_pipeline.store import Ref, RefKey
from bai_pipeline.study import CriticPath, Study

if TYPE_CHECKING:
    from bai_pipeline.plan.plan import Plan

CONTAMINATION_WORDS = 13
"""Words of the n-grams that are looked for in training data (Brown et al. 2020, arXiv:2005.14165, appendix C)."""

Builder = Callable[["Plan", RefKey], JobSpec]


def builder_of(asset: str) -> Builder:
    """The builder of an asset; every name that is not another's is an SFT model's, `<role>_sft`."""
    return _BUILDERS.get(asset, _sft)


def fingerprint(path: Path) -> Json:
    """What identifies something brought by path without reading it: each file's name, size and time of change."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    stats = [[str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return {"path": str(path), "files": stats}


def _pretraining_data(plan: "Plan", key: RefKey) -> JobSpec:
    return plan.job("pretraining_data", {}, {"world": plan.study.world.model_dump(mode="json")}, plan.study.chain_seed)


def _sft_data(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    brought = study.data.sft or {}
    sources = {
        role: fingerprint(brought[role]) if role in brought else {"style": source.train}
        for role, source in study.sft.items()
        if source.train
    }
    return plan.job(
        "sft_data", {}, {"world": study.world.model_dump(mode="json"), "sources": sources}, study.chain_seed
    )


def _prompts(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    source: Json = {"world": study.world.model_dump(mode="json")}
    if study.data.prompts:
        source = {"brought": fingerprint(study.data.prompts)}
    return plan.job("prompts", {}, source, None if study.data.prompts else study.chain_seed)


def _benchmark_data(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    source = {
        "world": study.world.model_dump(mode="json"),
        "benchmarks": {name: _benchmark_source(plan, name) for name in study.evals.benchmarks},
    }
    return plan.job("benchmark_data", {}, source, study.chain_seed)


def _benchmark_source(plan: "Plan", name: str) -> Json | None:
    """Where a benchmark's data comes from: the study, the directory of fetched data, or (None) the embedded world."""
    brought = plan.study.data.benchmarks or {}
    if name in brought:
        return fingerprint(brought[name])
    if name not in REGISTERED:
        return None
    directory = benchmark_directory(name)
    return fingerprint(directory) if directory.is_dir() else {"absent": str(directory)}


def _base_model(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    if study.base.path:
        return plan.job("import_checkpoint", {}, {"role": "causal_lm", "brought": fingerprint(study.base.path)})
    settings = {"model": study.model.model_dump(mode="json"), "training": study.pretraining.model_dump(mode="json")}
    return plan.job("pretrain", {"data": plan.asset("pretraining_data")}, settings, study.chain_seed)


def _sft(plan: "Plan", key: RefKey) -> JobSpec:
    study, role = plan.study, key.asset.removesuffix("_sft")
    source = study.sft[role]
    if source.path:
        return plan.job("import_checkpoint", {}, {"role": "causal_lm", "brought": fingerprint(source.path)})
    inputs = {"base": plan.asset("base_model"), "data": plan.part(plan.asset("sft_data"), role)}
    training = study.sft_training[str(source.train)].model_dump(mode="json")
    template = study.chat_template.read_text(encoding="utf-8") if study.chat_template else None
    return plan.job("finetune", inputs, {"training": training, "chat_template": template}, study.chain_seed)


def _preference_data(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    if study.data.preferences:
        return plan.job("preferences", {}, {"brought": fingerprint(study.data.preferences)})
    inputs = {role: plan.asset(f"{role}_sft") for role in study.preferences.sampled_from}
    settings = {"preferences": study.preferences.model_dump(mode="json"), "world": study.world.model_dump(mode="json")}
    return plan.job("preferences", inputs, settings, study.chain_seed)


def _reward_model(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    if study.reward.path:
        return plan.job("import_checkpoint", {}, {"role": "reward_model", "brought": fingerprint(study.reward.path)})
    inputs = {"init": plan.asset(f"{study.reward.init_from}_sft"), "preferences": plan.asset("preference_data")}
    return plan.job("reward", inputs, {"training": study.reward_training.model_dump(mode="json")}, study.chain_seed)


def _critic_model(plan: "Plan", key: RefKey) -> JobSpec:
    assert isinstance(plan.study.critic_init, CriticPath)
    return plan.job("import_checkpoint", {}, {"role": "critic", "brought": fingerprint(plan.study.critic_init.path)})


def _merge_weights(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    return plan.job("merge_weights", {}, {"alphas": list(study.alphas), "sft_weights": study.sft_weights})


def _merged_sft(plan: "Plan", key: RefKey) -> JobSpec:
    recipe = plan.recipe(None)
    return plan.job("merge", _merge_inputs(plan), {"recipe": recipe.to_dict(), **_merge_settings(plan)})


def _bai_actor(plan: "Plan", key: RefKey) -> JobSpec:
    recipe = plan.recipe(key.part)
    return plan.job("actor", _merge_inputs(plan, base=True), {"recipe": recipe.to_dict(), **_merge_settings(plan)})


def _actor_checkpoints(plan: "Plan", key: RefKey) -> JobSpec:
    recipes = {alpha: plan.recipe(alpha).to_dict() for alpha in plan.study.alphas}
    return plan.job("actor_checkpoints", _merge_inputs(plan, base=True), {"recipes": recipes, **_merge_settings(plan)})


def _merge_inputs(plan: "Plan", *, base: bool = False) -> dict[str, Ref]:
    models = (["base_model"] if base else []) + [f"{role}_sft" for role in sorted(plan.study.sft)]
    return {name: plan.asset(name) for name in models}


def _merge_settings(plan: "Plan") -> Json:
    study = plan.study
    return {
        "tokenizer_from": f"{study.tokenizer_from}_sft",
        "missing_rows_from": f"{study.missing_rows_from or study.tokenizer_from}_sft",
        "chat_template": study.chat_template.read_text(encoding="utf-8") if study.chat_template else None,
    }


def _actor(plan: "Plan", alpha: str) -> dict[str, Ref]:
    """The actor and the models of its recipe. It is the same actor, by its digest, where it was written as well."""
    actor = plan.resolve(RefKey(plan.study.name, "bai_actor", alpha))
    if plan.study.actors == "checkpoint" and alpha in plan.study.alphas:
        written = plan.asset("actor_checkpoints")
        actor = replace(actor, object=f"{written.object}/{alpha}")
    return {"actor": actor, **{f"actor.{name}": ref for name, ref in _merge_inputs(plan, base=True).items()}}


def _ppo(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    if key.asset == "ppo_run":
        inputs = _actor(plan, str(key.part))
    else:
        inputs = {"actor": plan.asset(f"{plan.paradigm_role(int(key.asset[len('paradigm_')]))}_sft")}
    inputs["prompts"] = plan.asset("prompts")
    if study.reward.kind == "model":
        inputs["reward_model"] = plan.asset("reward_model")
    if study.critic_init == "reward":
        inputs["critic"] = plan.asset("reward_model")
    else:
        inputs["critic"] = inputs["actor"] if study.critic_init == "policy" else plan.asset("critic_model")
    settings = {
        "ppo": study.ppo.model_dump(mode="json"),
        "reward": study.reward.model_dump(mode="json", include={"kind", "url", "function"}),
    }
    return plan.job(
        "ppo",
        inputs,
        settings,
        key.seed,
        until_step=study.until_step,
        evaluate_at_step=study.evaluate_at_step,
        checkpoint_every=study.checkpoint_every,
        on_collapse=study.on_collapse,
        dynamics=study.dynamics.model_dump(mode="json"),
    )


def _policy(plan: "Plan", run: RefKey) -> Ref:
    """The policy that the tables use: the run's checkpoint at `evaluate_at_step`."""
    ref = plan.resolve(run)
    record, step = RunRecord.read(plan.store.peek(ref.object, RUN_FILE)), str(plan.study.evaluate_at_step)
    if step not in record.policies:
        remedy = f"it was stopped after step {record.stopped['step']}" if record.stopped else "materialize it again"
        raise StoreError(f"{run} kept no policy of step {step} (it has {', '.join(record.policies)}); {remedy}")
    return plan.part(ref, record.policies[step])


def _evaluate(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    run = run_of_scores(key)
    model = plan.asset(str(key.part)) if run is None else _policy(plan, run)
    inputs = {"model": model, "data": plan.asset("benchmark_data")}
    return plan.job("evaluate", inputs, study.evals.model_dump(mode="json"), key.seed)


def _existing(plan: "Plan", keys: list[RefKey]) -> dict[str, Ref]:
    """Those of the refs that exist, by "PART" or "PART/SEED"; the others become holes."""
    result = {}
    for key in keys:
        ref = None if plan.hole(key) else plan.store.read_ref(key)
        if ref is not None:
            plan.used.append(key)
            result[(key.part or key.asset) + ("" if key.seed is None else f"/{key.seed}")] = ref
    return result


def _ratio_table(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    keys = plan.keys("benchmark_scores")
    settings = {"alphas": list(study.alphas), **_columns(study), "holes": _holes(plan, keys)}
    return plan.job("ratio_table", _existing(plan, keys), settings)


def _holes(plan: "Plan", keys: list[RefKey]) -> dict[str, str]:
    """Why a row of a table stays empty, where no seed of it can be scored; by alpha or paradigm."""
    reasons: dict[str, list[str | None]] = {}
    for key in keys:
        reasons.setdefault(str(key.part), []).append(plan.hole(key))
    return {part: found[0] for part, found in reasons.items() if found[0] is not None and None not in found}


def _columns(study: Study) -> Json:
    """What both tables take from the study: their columns, and how rows are compared."""
    return {
        "seeds": list(study.seeds),
        "benchmarks": list(study.evals.benchmarks),
        "resamples": study.tables.comparison_resamples,
    }


def _paradigm_table(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    keys = plan.keys("paradigm_scores") + plan.keys("benchmark_scores", study.headline_alpha)
    settings = {**_paradigms(study), **_columns(study), "holes": _holes(plan, keys)}
    return plan.job("paradigm_table", _paradigm_scores(plan), settings)


def _case_studies(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    settings = {**_paradigms(study), "seeds": list(study.seeds), "count": study.tables.case_studies}
    return plan.job("case_studies", _paradigm_scores(plan), settings, study.chain_seed)


def _paradigm_scores(plan: "Plan") -> dict[str, Ref]:
    """Scores of the paradigms and of BAI at the headline alpha, as far as they are there."""
    return _existing(plan, plan.keys("paradigm_scores") + plan.keys("benchmark_scores", plan.study.headline_alpha))


def _paradigms(study: Study) -> Json:
    return {
        "paradigm_1": study.paradigm_1,
        "paradigm_3": study.paradigm_3,
        "sft": list(study.sft),
        "headline_alpha": study.headline_alpha,
    }


def _contamination(plan: "Plan", key: RefKey) -> JobSpec:
    trained = [name for name in ("sft_data", "preference_data", "prompts") if name in plan.assets]
    inputs = {name: plan.asset(name) for name in ("benchmark_data", *trained)}
    return plan.job("contamination", inputs, {"n": CONTAMINATION_WORDS})


def _training_dynamics(plan: "Plan", key: RefKey) -> JobSpec:
    runs = plan.keys("ppo_run", key.part)
    return _diagnose(plan, {f"{run.part}/{run.seed}": plan.resolve(run) for run in runs})


def _paradigm_dynamics(plan: "Plan", key: RefKey) -> JobSpec:
    return _diagnose(plan, {f"{run.asset}/{run.seed}": plan.resolve(run) for run in _paradigm_runs(plan)})


def _diagnose(plan: "Plan", runs: dict[str, Ref]) -> JobSpec:
    return plan.job("diagnose", runs, {"dynamics": plan.study.dynamics.model_dump(mode="json")})


def _ratio_recommendation(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    inputs = {
        **_group("runs", _existing(plan, plan.keys("ppo_run"))),
        **_group("dynamics", _existing(plan, plan.keys("training_dynamics"))),
        **_group("scores", _existing(plan, plan.keys("benchmark_scores"))),
    }
    settings = {"alphas": list(study.alphas), "dynamics": study.dynamics.model_dump(mode="json")}
    return plan.job("recommendation", inputs, settings)


def _successive_halving(plan: "Plan", key: RefKey) -> JobSpec:
    study = plan.study
    runs = {f"{run.part}/{run.seed}": plan.resolve(run) for run in plan.keys("ppo_run")}
    settings = {
        "alphas": list(study.alphas),
        "seeds": list(study.seeds),
        "until_step": study.until_step,
        "halving": study.halving.model_dump(mode="json"),
        "dynamics": study.dynamics.model_dump(mode="json"),
    }
    return plan.job("halving", runs, settings)


def _group(name: str, refs: dict[str, Ref]) -> dict[str, Ref]:
    return {f"{name}/{part}": ref for part, ref in refs.items()}


def _paradigm_runs(plan: "Plan") -> list[RefKey]:
    return [key for n in (1, 3) if plan.paradigm_role(n) for key in plan.keys(f"paradigm_{n}_run")]


def _runs(plan: "Plan") -> dict[str, Ref]:
    return _existing(plan, _paradigm_runs(plan) + plan.keys("ppo_run"))


def _dynamics_figures(plan: "Plan", key: RefKey) -> JobSpec:
    return plan.job("figures", _runs(plan), _shown(plan.study))


def _shown(study: Study) -> Json:
    return {
        "bucket_width": study.dynamics.bucket_width,
        "headline_alpha": study.headline_alpha,
        "score_label": study.score_label,
    }


def _report(plan: "Plan", key: RefKey) -> JobSpec:
    shown = ("paradigm_table", "ratio_table", "ratio_recommendation", "case_studies", "contamination", "merge_weights")
    runs = _runs(plan)
    diagnosed = [
        k for name in ("paradigm_dynamics", "training_dynamics") if name in plan.assets for k in plan.keys(name)
    ]
    inputs = {
        **{name: plan.asset(name) for name in shown},
        **_group("runs", runs),
        **_group("dynamics", _existing(plan, diagnosed)),
    }
    settings = {
        "study": plan.study.name,
        **_shown(plan.study),
        "lineage": _lineage(plan),
        "run_jobs": {name: ref.job for name, ref in runs.items()},
    }
    return plan.job("report", inputs, settings)


def _lineage(plan: "Plan") -> list[Json]:
    """What is there of the study, in the order of its making: each ref and the job that it comes from."""
    found = (
        (key, plan.store.read_ref(key)) for key in plan.all_keys() if key.asset not in ("dynamics_figures", "report")
    )
    return [
        {
            "asset": key.asset,
            "part": key.part,
            "seed": key.seed,
            "job": ref.job,
            "object": ref.object,
            "digest": ref.digest,
        }
        for key, ref in found
        if ref is not None
    ]


_BUILDERS: dict[str, Builder] = {
    "pretraining_data": _pretraining_data,
    "sft_data": _sft_data,
    "prompts": _prompts,
    "benchmark_data": _benchmark_data,
    "base_model": _base_model,
    "preference_data": _preference_data,
    "reward_model": _reward_model,
    "critic_model": _critic_model,
    "merge_weights": _merge_weights,
    "merged_sft": _merged_sft,
    "bai_actor": _bai_actor,
    "actor_checkpoints": _actor_checkpoints,
    "ppo_run": _ppo,
    "paradigm_1_run": _ppo,
    "paradigm_3_run": _ppo,
    "benchmark_scores": _evaluate,
    "paradigm_scores": _evaluate,
    "ratio_table": _ratio_table,
    "paradigm_table": _paradigm_table,
    "case_studies": _case_studies,
    "contamination": _contamination,
    "training_dynamics": _training_dynamics,
    "paradigm_dynamics": _paradigm_dynamics,
    "ratio_recommendation": _ratio_recommendation,
    "successive_halving": _successive_halving,
    "dynamics_figures": _dynamics_figures,
    "report": _report,
}
