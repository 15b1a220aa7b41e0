"""Running jobs: once, whole or not at all, from the specification in the store."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from bai_pipeline.errors import JobError, RecipeError, StoreError
from bai_pipeline.jobs.runner import EXIT_REFUSED, job_function, read_result, read_spec, run_job, write_spec
from bai_pipeline.jobspec import Execution, JobSpec
from bai_pipeline.store import Store

LOGGER = logging.getLogger("test")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def weights_spec(**weights: float) -> JobSpec:
    return JobSpec("merge_weights", "1", {}, {"alphas": ["0.1"], "sft_weights": weights})


def test_a_job_publishes_its_object_and_its_result(store: Store) -> None:
    spec = weights_spec(instruct=0.5, reasoning=0.5)
    result = run_job(spec, store, LOGGER)
    rows = json.loads((store.open(result.object) / "merge_weights.json").read_text())
    assert [row["merge"] for row in rows] == ["merged_sft", "0.1"]
    assert rows[1]["weights"] == {"base_model": 0.1, "instruct_sft": 0.45, "reasoning_sft": 0.45}
    assert read_result(spec, store) == result


def test_a_job_that_is_done_is_not_run_again(store: Store) -> None:
    spec = weights_spec(instruct=0.5, reasoning=0.5)
    run_job(spec, store, LOGGER)
    run_job(spec, store, LOGGER)
    attempts = (store.job_directory(spec.identity) / "attempts.jsonl").read_text().splitlines()
    assert len(attempts) == 1


def test_a_refused_job_publishes_nothing(store: Store) -> None:
    spec = weights_spec(instruct=0.5, reasoning=0.6)
    with pytest.raises(RecipeError, match=r"1\.1"):
        run_job(spec, store, LOGGER)
    assert store.objects() == []
    assert read_result(spec, store) is None


def test_an_unknown_kind_is_refused_with_the_known_ones(store: Store) -> None:
    with pytest.raises(JobError, match="unknown kind of job 'magic'; known are"):
        run_job(JobSpec("magic", "1", {}, {}), store, LOGGER)


def test_an_absent_input_is_named(store: Store) -> None:
    spec = JobSpec("merge", "1", {"a": "x"}, {}, execution=Execution(inputs={"a": "store:objects/finetune/x"}))
    with pytest.raises(StoreError, match="objects/finetune/x is not in the store"):
        run_job(spec, store, LOGGER)


def test_an_altered_specification_is_refused(store: Store) -> None:
    spec = weights_spec(instruct=0.5, reasoning=0.5)
    uri = write_spec(spec, store)
    assert read_spec(uri, store) == spec
    path = store.path(uri)
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(JobError, match="was altered"):
        read_spec(uri, store)


def test_a_job_sees_the_order_of_keys_of_its_json_whoever_starts_it(tmp_path: Path) -> None:
    specs = [weights_spec(instruct=0.5, reasoning=0.5), weights_spec(reasoning=0.5, instruct=0.5)]
    assert specs[0].identity == specs[1].identity
    digests = {run_job(spec, Store(tmp_path / str(n)), LOGGER).digest for n, spec in enumerate(specs)}
    assert len(digests) == 1


@pytest.mark.parametrize("kind", ["evaluate", "finetune", "ppo", "preferences", "pretrain", "reward"])
def test_jobs_that_compute_with_models_first_let_native_code_multiply(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    monkeypatch.setattr("bai_pipeline.native.use_native_products", Mock(side_effect=Asked))
    with pytest.raises(Asked):
        job_function(kind)(Mock())


def test_a_damaged_result_is_made_again(store: Store) -> None:
    spec = weights_spec(instruct=0.5, reasoning=0.5)
    result = run_job(spec, store, LOGGER)
    (store.path(result.object) / "merge_weights.json").write_text("altered")
    assert read_result(spec, store) is None
    assert run_job(spec, store, LOGGER) == result
    store.verify(result.object)


def test_two_callers_of_one_job_do_not_overwrite_each_others_specification(store: Store) -> None:
    short = weights_spec(instruct=0.5, reasoning=0.5)
    longer = replace(short, execution=Execution(until_step=9))
    uris = [write_spec(spec, store) for spec in (short, longer)]
    assert [read_spec(uri, store) for uri in uris] == [short, longer]


def run_process(store: Store, uri: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BAI_STORE": str(store.root)}
    return subprocess.run(
        [sys.executable, "-m", "bai_pipeline.jobs", uri], env=environment, capture_output=True, text=True
    )


def test_a_job_process_needs_nothing_but_the_store_and_the_uri(store: Store) -> None:
    spec = weights_spec(instruct=0.5, reasoning=0.5)
    process = run_process(store, write_spec(spec, store))
    assert process.returncode == 0, process.stderr
    assert read_result(spec, store) is not None


def test_a_job_process_that_is_refused_says_why_in_its_last_line(store: Store) -> None:
    process = run_process(store, write_spec(weights_spec(instruct=0.5, reasoning=0.6), store))
    assert process.returncode == EXIT_REFUSED
    assert process.stderr.splitlines()[-1].startswith("RecipeError: merge weights must be non-negative and sum to 1")
