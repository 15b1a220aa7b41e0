"""The small-scale experiment: what is run, what is gathered of it, and that a part that fails is no reason to stop."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from assets.demo.__main__ import DemoFailure
from assets.experiment import __main__ as command
from assets.experiment.design import ALPHAS, CHAINS, SEEDS, SETTINGS, Part, parts
from assets.experiment.results import gather
from bai_pipeline.errors import StoreError
from bai_pipeline.jobspec import JobSpec, Json
from bai_pipeline.plan import CODE_VERSIONS, Plan
from bai_pipeline.report.experiment import SettingResults
from bai_pipeline.store import Ref, RefKey, Store
from bai_pipeline.study import PRESETS, load_study, preset_names
from tests import placeholders

STEPS = 4
STEPS_4 = "evaluate_at_step: 4\nuntil_step: 4\n"
RUNS = ("paradigm_1_run", "paradigm_3_run", "ppo_run")
DIAGNOSES = ("training_dynamics", "paradigm_dynamics")
SCORES = ("benchmark_scores", "paradigm_scores")


# -- the design --------------------------------------------------------------------------------------------------------


def test_every_setting_is_run_with_every_chain_in_the_order_of_the_design(tmp_path: Path) -> None:
    found = list(parts(tmp_path))
    assert [(part.setting, part.chain) for part in found] == [(s, c) for s in SETTINGS for c in CHAINS]
    assert set(SETTINGS) == {name for name in preset_names() if name.startswith("micro")}
    assert len({part.load().name for part in found}) == len(found) == 18


def test_a_part_is_its_preset_with_a_chain_of_its_own_and_nothing_else(tmp_path: Path) -> None:
    for part in parts(tmp_path, chains=(2,)):
        study, preset = part.load().model_dump(), load_study(part.setting).model_dump()
        changed = {key for key, value in study.items() if value != preset[key]}
        assert changed <= {"name", "chain_seed", "alphas", "seeds"}
        assert (study["chain_seed"], study["alphas"], study["seeds"]) == (2, ALPHAS, SEEDS)


def test_the_whole_experiment_is_648_runs(tmp_path: Path) -> None:
    plans = [Plan(part.load(), Store(tmp_path)) for part in parts(tmp_path)]
    # 6 settings, 3 chains, 3 seeds; Paradigm 1, Paradigm 3 and alpha 0.0 to 0.9
    assert sum(len(plan.keys(asset)) for plan in plans for asset in RUNS) == 6 * 3 * 3 * (2 + 10) == 648


def test_writing_the_parts_again_changes_no_file(tmp_path: Path) -> None:
    first = {part.file: part.file.read_text() for part in parts(tmp_path, seeds=(0, 4))}
    assert {part.file: part.file.read_text() for part in parts(tmp_path, seeds=(0, 4))} == first
    assert all("seeds: [0, 4]" in text for text in first.values())


# -- what is gathered --------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def small_parts(tmp_path: Path, text: str = "") -> list[Part]:
    """Two chains of a setting with two alphas and one seed."""
    found = []
    for chain in (0, 1):
        file = tmp_path / f"small.chain-{chain}.yaml"
        file.write_text(f"extends: smoke\nname: small.chain-{chain}\nchain_seed: {chain}\n{STEPS_4}{text}")
        found.append(Part("small", chain, (0,), file))
    return found


def key_of(chain: int, asset: str, part: str | None = None, seed: int | None = None) -> RefKey:
    return RefKey(f"small.chain-{chain}", asset, part, seed)


def put(plan: Plan, key: RefKey, *, stopped: bool = False) -> None:
    """An object of the asset, as its job would leave it, and its ref; a run may be stopped after step 3."""
    spec, store = plan.spec(key), plan.store
    with store.staging() as out:
        (out / "key").write_text(key.path)
        if key.asset in RUNS:
            _put_run(out, spec, stopped)
        elif key.asset in DIAGNOSES:
            inits = [f"alpha {key.part}"] if key.part else ["paradigm_1", "paradigm_3"]
            rows = [{"init": i, "seed": 0, "detector": "length_collapse", "verdict": "healthy"} for i in inits]
            pd.DataFrame(rows).to_parquet(out / "verdicts.parquet", index=False)
        else:
            rows = [{"benchmark": "held_out_sum", "score": 0.5, "stderr": 0.1, "n": 20}]
            pd.DataFrame(rows).to_parquet(out / "scores.parquet", index=False)
        uri = store.publish(key.asset, out)
    store.write_ref(key, Ref(uri, store.digest(uri), spec.identity, dict(spec.inputs)))


def _put_run(out: Path, spec: JobSpec, stopped: bool) -> None:
    steps = 3 if stopped else STEPS
    step = pd.DataFrame({"seed": spec.seed, "step": range(steps)})
    tables = {
        "steps": step.assign(length_mean=50.0, score_mean=0.1),
        "responses": step.assign(length=50, score=0.1),
        "prefixes": step.assign(prefix=0, tokens=100, value_error=0.0),
    }
    for name, table in tables.items():
        (out / name).mkdir()
        table.to_parquet(out / name / "part-0.parquet", index=False)
    (out / "policy").mkdir()
    (out / "policy" / "weights").write_text("the policy's")
    record: Json = {"until_step": steps, "policies": {str(steps): "policy"}}
    if stopped:
        record["stopped"] = {"step": 3, "reason": "Mean length fell.", "dynamics": spec.execution.dynamics}
    (out / "run.json").write_text(json.dumps(record))


def wanted(part: Part, store: Store) -> list[RefKey]:
    plan = Plan(part.load(), store)
    return [key for key in plan.all_keys() if key.asset in (*RUNS, *DIAGNOSES, *SCORES)]


def put_all(found: list[Part], store: Store, failed: RefKey | None = None, stopped: RefKey | None = None) -> None:
    """All that the parts make, but for a run that failed or was stopped after step 3, and what hangs on it."""
    for part in found:
        plan = Plan(part.load(), store)
        models = plan.assets[: plan.assets.index("paradigm_1_run")]
        placeholders.materialize(plan, [key for key in plan.all_keys() if key.asset in models])
        for key in wanted(part, store):
            if key == failed or failed in plan_reads(plan, key) or plan.hole(key) is not None:
                continue
            put(plan, key, stopped=key == stopped)


def plan_reads(plan: Plan, key: RefKey) -> list[RefKey]:
    """The refs that its job reads; as far as the first that is not there."""
    with suppress(StoreError):
        plan.spec(key)
    return plan.used


def runs_of(results: SettingResults) -> set[tuple[int, str, int]]:
    return set(results.runs[["chain", "init", "seed"]].itertuples(index=False, name=None))


def test_all_that_the_chains_made_is_gathered_under_its_chain_and_init(tmp_path: Path, store: Store) -> None:
    found = small_parts(tmp_path)
    put_all(found, store)
    results = gather("small", "What it is.", found, store)
    assert results.missing == ()
    inits = ("paradigm_1", "paradigm_3", "alpha 0.0", "alpha 0.5")
    assert runs_of(results) == {(chain, init, 0) for chain in (0, 1) for init in inits}
    for table in (results.runs, results.responses, results.prefixes):
        assert len(table) == 2 * len(inits) * STEPS
    assert len(results.verdicts) == 2 * len(inits)
    models = {("base_model", -1), ("instruct_sft", -1), ("reasoning_sft", -1), *((init, 0) for init in inits)}
    assert set(results.scores[["model", "seed"]].itertuples(index=False, name=None)) == models
    assert (results.chains, results.seeds, results.headline_alpha) == ((0, 1), (0,), "0.5")
    assert results.versions == {kind: CODE_VERSIONS[kind] for kind in ("ppo", "diagnose", "evaluate")}
    assert results.score_label == "score (reward model: sd of its scores)"


def test_a_run_that_failed_and_all_that_hangs_on_it_is_named_and_leaves_the_others(
    tmp_path: Path, store: Store
) -> None:
    found = small_parts(tmp_path)
    absent = [
        key_of(1, "ppo_run", "0.5", 0),
        key_of(1, "training_dynamics", "0.5"),
        key_of(1, "benchmark_scores", "0.5", 0),
    ]
    put_all(found, store, failed=absent[0])
    results = gather("small", "", found, store)
    assert sorted(results.missing) == sorted(f"chain 1: {key}" for key in absent)
    assert (1, "alpha 0.5", 0) not in runs_of(results)
    assert (0, "alpha 0.5", 0) in runs_of(results)
    assert (1, "alpha 0.0", 0) in runs_of(results)


@pytest.mark.parametrize("scored_before", [False, True])
def test_a_stopped_run_is_kept_as_far_as_it_came_and_its_scores_are_missing_with_the_reason(
    tmp_path: Path, store: Store, scored_before: bool
) -> None:
    found = small_parts(tmp_path, "on_collapse: stop\n")
    if scored_before:
        put_all(found, store)
    put_all(found, store, stopped=key_of(0, "ppo_run", "0.5", 0))
    results = gather("small", "", found, store)
    scores = key_of(0, "benchmark_scores", "0.5", 0)
    assert (store.read_ref(scores) is not None) == scored_before
    assert results.missing == (f"chain 0: {scores} (stopped after step 3: Mean length fell.)",)
    kept = results.runs[(results.runs["chain"] == 0) & (results.runs["init"] == "alpha 0.5")]
    assert kept["step"].tolist() == [0, 1, 2]
    scored = results.scores[results.scores["model"] == "alpha 0.5"]
    assert scored["chain"].tolist() == [1]


def test_what_was_made_with_other_settings_is_missing(tmp_path: Path, store: Store) -> None:
    put_all(small_parts(tmp_path), store)
    found = small_parts(tmp_path, "ppo: {lam: 0.9}\n")
    results = gather("small", "", found, store)
    assert results.runs.empty
    run, scores = key_of(1, "ppo_run", "0.5", 0), key_of(1, "benchmark_scores", "0.5", 0)
    assert f"chain 1: {run} (inputs or settings changed)" in results.missing
    assert f"chain 1: {scores} (upstream is not fresh: {run})" in results.missing
    assert set(results.scores["model"]) == {"base_model", "instruct_sft", "reasoning_sft"}


def test_an_object_that_was_lost_is_missing_and_so_is_what_was_made_of_it(tmp_path: Path, store: Store) -> None:
    found = small_parts(tmp_path)
    put_all(found, store)
    lost = key_of(0, "paradigm_3_run", None, 0)
    ref = store.read_ref(lost)
    assert ref is not None
    (store.path(ref.object) / "run.json").unlink()
    results = gather("small", "", found, store)
    scores, verdicts = key_of(0, "paradigm_scores", "paradigm_3", 0), key_of(0, "paradigm_dynamics")
    first, *others = results.missing
    assert first == f"chain 0: {lost} (its object is not whole, or trained less far than the study asks for)"
    assert [line.partition(" (")[0] for line in others] == [f"chain 0: {verdicts}", f"chain 0: {scores}"]
    assert (0, "paradigm_3", 0) not in runs_of(results)
    assert (0, "paradigm_1", 0) in runs_of(results)


def test_a_setting_of_which_nothing_was_run_is_empty_and_names_all_of_it(tmp_path: Path, store: Store) -> None:
    found = small_parts(tmp_path)
    results = gather("small", "", found, store)
    assert all(table.empty for table in (results.runs, results.responses, results.verdicts, results.scores))
    assert sorted(results.missing) == sorted(
        f"chain {part.chain}: {key}" for part in found for key in wanted(part, store)
    )


# -- the command -------------------------------------------------------------------------------------------------------


class Failed(DemoFailure):
    """A Dagster run that failed."""

    def __init__(self) -> None:
        self.log = Path("log.txt")
        Exception.__init__(self, "alpha 0.5")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the studies that were started: nothing is run; chain 1 of micro fails."""
    names: list[str] = []

    def materialize(plan: Plan, console: Console, *, tables: bool = True) -> None:
        assert os.environ["BAI_STUDY"].endswith(f"{plan.study.name}.yaml")
        assert not tables
        names.append(plan.study.name)
        if plan.study.name == "micro.chain-1":
            raise Failed
        if plan.study.name == "micro-kl.chain-0":
            raise KeyboardInterrupt

    for name, value in (("BAI_STORE", str(tmp_path / "store")), ("BAI_STUDY", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(command, "materialize", materialize)
    monkeypatch.setattr(command, "prepare_instance", lambda: None)
    return names


def study(tmp_path: Path, *words: str) -> tuple[int, Path]:
    out = tmp_path / "out"
    return command.main([*words, "--seeds", "0", "--out", str(out)]), out / "README.md"


def test_a_part_that_fails_is_passed_over_and_makes_the_exit_code_1(tmp_path: Path, started: list[str]) -> None:
    code, page = study(tmp_path, "--settings", "micro,micro-verifiable", "--chains", "0,1")
    assert code == 1
    assert started == ["micro.chain-0", "micro.chain-1", "micro-verifiable.chain-0", "micro-verifiable.chain-1"]
    missing = (page.parent / "micro" / "missing.txt").read_text().splitlines()
    assert "chain 1: ppo_run[0.5] seed 0" in missing
    assert "Nothing of this setting was run to its end" in page.read_text()


def test_the_page_says_of_each_setting_what_its_preset_says(tmp_path: Path, started: list[str]) -> None:
    code, page = study(tmp_path, "--settings", "micro-kl", "--chains", "0", "--only-write")
    assert (code, started) == (0, [])
    about = (PRESETS / "micro-kl.yaml").read_text().splitlines()[0].removeprefix("# ")
    assert about in page.read_text()


def test_an_interrupted_experiment_ends_at_once_and_writes_no_page(tmp_path: Path, started: list[str]) -> None:
    code, page = study(tmp_path, "--settings", "micro-kl,micro", "--chains", "0")
    assert (code, started) == (130, ["micro-kl.chain-0"])
    assert not page.exists()
