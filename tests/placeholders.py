"""A study whose objects are placeholders: as little in each as its plan reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bai_pipeline.jobspec import JobSpec, Json
from bai_pipeline.plan import Plan
from bai_pipeline.store import Ref, RefKey
from bai_pipeline.study import Study, load_study

Stopped = Mapping[RefKey, int]
"""Run → the step after which its own dynamics ended it."""
REASON = "Mean length fell below 0.8 of its start"


def study_of(tmp_path: Path, text: str = "") -> Study:
    """Two alphas with two seeds each, and what `text` changes."""
    path = tmp_path / "study.yaml"
    path.write_text("extends: smoke\nname: test\nalphas: ['0.1', '0.5']\nheadline_alpha: '0.5'\nseeds: [0, 1]\n" + text)
    return load_study(path)


def materialize(plan: Plan, keys: Sequence[RefKey] | None = None, *, stopped: Stopped | None = None) -> None:
    """Write the object and the ref of each key (default: the whole study), but for holes."""
    for key in keys or list(plan.all_keys()):
        if plan.hole(key) is not None:
            continue
        spec = plan.spec(key)
        with plan.store.staging() as out:
            _fill(out, spec, (stopped or {}).get(key))
            uri = plan.store.publish(spec.kind, out)
        plan.store.write_ref(key, Ref(uri, plan.store.digest(uri), spec.identity, dict(spec.inputs)))


def _fill(out: Path, spec: JobSpec, stopped: int | None) -> None:
    (out / "identity").write_text(spec.identity)
    if spec.kind == "sft_data":
        for role, source in spec.settings["sources"].items():
            (out / role).mkdir()
            (out / role / f"{role}.parquet").write_text(json.dumps([role, source]))
    if spec.kind == "ppo":
        (out / "policy").mkdir()
        (out / "policy" / "weights").write_text(spec.identity)
        (out / "run.json").write_text(json.dumps(_record(spec, stopped)))
    if spec.kind == "merge_weights":
        weights = spec.settings["sft_weights"]
        rows = [{"merge": merge, "sft_weights": weights} for merge in ["merged_sft", *spec.settings["alphas"]]]
        (out / "merge_weights.json").write_text(json.dumps(rows))


def _record(spec: JobSpec, stopped: int | None) -> Json:
    """`run.json`: of a stopped run, with the policy that is evaluated if it came so far, and with its last."""
    execution = spec.execution
    if stopped is None:
        return {"until_step": execution.until_step, "policies": {execution.evaluate_at_step: "policy"}}
    kept = {step for step in (execution.evaluate_at_step, stopped) if step is not None and step <= stopped}
    record = {"step": stopped, "reason": REASON, "dynamics": execution.dynamics}
    return {"until_step": stopped, "policies": dict.fromkeys(sorted(kept), "policy"), "stopped": record}
