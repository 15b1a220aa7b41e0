"""What the parts of the experiment left in the store, gathered by setting."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from assets.experiment.design import Part
from bai_pipeline.plan import Plan
from bai_pipeline.report.experiment import SettingResults
from bai_pipeline.store import RefKey, Store

if TYPE_CHECKING:
    import pandas as pd

_RUNS = ("paradigm_1_run", "paradigm_3_run", "ppo_run")
_GATHERED = (*_RUNS, "training_dynamics", "paradigm_dynamics", "benchmark_scores", "paradigm_scores")
_TABLES = ("steps", "responses", "prefixes")


def gather(setting: str, description: str, parts: Iterable[Part], store: Store) -> SettingResults:
    """The results of one setting over its chains; what is not there is named in `missing`."""
    import pandas as pd

    parts = list(parts)
    plans = {part.chain: Plan(part.load(), store) for part in parts}
    study = plans[parts[0].chain].study
    missing: list[str] = []
    versions: dict[str, str] = {}
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in (*_TABLES, "verdicts", "scores")}
    for chain, plan in plans.items():
        for name, frame in _frames(plan, chain, missing, versions):
            found[name].append(frame.assign(chain=chain))
    tables = {
        name: pd.concat(frames, ignore_index=True) if frames else pd.DataFrame() for name, frames in found.items()
    }
    return SettingResults(
        study=setting,
        description=description,
        headline_alpha=study.headline_alpha,
        bucket_width=study.dynamics.bucket_width,
        chains=tuple(plans),
        seeds=parts[0].seeds,
        runs=tables["steps"],
        responses=tables["responses"],
        prefixes=tables["prefixes"],
        verdicts=tables["verdicts"],
        scores=tables["scores"],
        missing=tuple(missing),
        score_label=study.score_label,
        versions=versions,
    )


def _frames(
    plan: Plan, chain: int, missing: list[str], versions: dict[str, str]
) -> Iterator[tuple[str, "pd.DataFrame"]]:
    """(table, rows) of all that a part made and that is what its study asks for: nothing of other settings."""
    import pandas as pd

    for key, status in plan.status().items():
        if key.asset not in _GATHERED:
            continue
        ref = plan.store.read_ref(key)
        if ref is None or status.state != "fresh":
            missing.append(f"chain {chain}: {key}" + ("" if status.state == "absent" else f" ({status.reason})"))
            continue
        spec, path = plan.spec(key), plan.store.open(ref.object)
        versions[spec.kind] = spec.code_version
        if key.asset in _RUNS:
            for table in _TABLES:
                yield table, pd.read_parquet(path / table).assign(init=_init(key))
        elif key.asset.endswith("dynamics"):
            yield "verdicts", pd.read_parquet(path / "verdicts.parquet")
        else:
            scores = pd.read_parquet(path / "scores.parquet")
            yield "scores", scores.assign(model=_init(key), seed=-1 if key.seed is None else key.seed)


def _init(key: RefKey) -> str:
    """ "alpha 0.5" of a blend; the name of a baseline or of a model otherwise."""
    if key.asset in ("ppo_run", "benchmark_scores"):
        return f"alpha {key.part}"
    return (key.part or key.asset).removesuffix("_run")
