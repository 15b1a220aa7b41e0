"""`bai data`: what it prints, and how it fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bai_pipeline.cli import data as commands
from bai_pipeline.cli.data import benchmark_sources, data_app
from bai_pipeline.evals.data import Source
from tests.evals.hub import commit_of, dataset, online, running_hub

RUNNER = CliRunner()
ONE = Source("owner/one", {"test": "test.jsonl"}, "MIT")
TWO = Source("owner/two", {"test": "test.jsonl", "dev": "dev.jsonl"}, "Apache-2.0")


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BAI_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "benchmark_sources", lambda: {"one": ONE, "two": TWO})


def bai_data(*words: str | Path) -> Result:
    return RUNNER.invoke(data_app, list(map(str, words)))


def put(root: Path, name: str, split: str = "test") -> None:
    directory = root / "benchmarks" / name
    directory.mkdir(parents=True)
    (directory / f"{split}.jsonl").write_text('{"id": "1"}\n')


@pytest.mark.usefixtures("two")
def test_the_list_says_where_data_is_from_and_whether_it_is_here(root: Path) -> None:
    put(root, "two")
    output = bai_data("list").output
    for text in ("owner/one", "MIT", "absent", "owner/two", "Apache-2.0", "put there by hand, without dev"):
        assert text in output
    first, second = json.loads(bai_data("list", "--json").output)
    assert first == {
        "benchmark": "one",
        "repository": "owner/one",
        "licence": "MIT",
        "here": "absent",
        "directory": f"{root}/benchmarks/one",
    }
    assert second["here"] == "put there by hand, without dev"
    assert json.loads(bai_data("list", "--json", "--to", root / "other").output)[1]["here"] == "absent"


@pytest.mark.usefixtures("two")
def test_what_is_there_is_kept_and_what_cannot_be_fetched_is_told(root: Path) -> None:
    put(root, "one")
    kept = bai_data("fetch", "one")
    assert kept.exit_code == 0
    assert f"one: {root}/benchmarks/one (MIT)" in kept.stdout
    # The others are not given up for one that fails; this process is offline.
    both = bai_data("fetch", "two", "one")
    assert both.exit_code == 1
    assert "HF_HUB_OFFLINE" in both.stderr
    assert f"dev.jsonl of owner/two as {root}/benchmarks/two/dev.jsonl" in both.stderr
    assert f"one: {root}/benchmarks/one (MIT)" in both.stdout
    assert bai_data("fetch", "--all").exit_code == 1


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name benchmarks or give --all"),
        (("one", "--all"), "name benchmarks or give --all"),
        (("three",), "expected some of one, two"),
        (("one", "two", "--revision", "main"), "that of one benchmark"),
    ],
)
def test_what_is_not_understood_is_refused(words: tuple[str, ...], message: str) -> None:
    result = bai_data("fetch", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_every_benchmark_that_is_published_has_a_source() -> None:
    sources = benchmark_sources()
    assert {"mmlu", "mmlu_pro", "supergpqa"} <= sources.keys()
    for source in sources.values():
        assert source.files
        assert source.licence


def test_a_benchmark_of_the_registry_is_fetched(tmp_path: Path) -> None:
    """By a process that is online, from a stand-in for the hub."""
    source = benchmark_sources()["supergpqa"]
    program = "from bai_pipeline.cli.data import data_app; data_app(prog_name='bai data')"
    with running_hub() as hub:
        hub.repositories[source.repository] = dataset({source.files["test"]: b'{"uuid": "1"}\n'})
        environment = online(hub.endpoint, tmp_path / "home") | {"BAI_DATA": str(tmp_path)}
        command = [sys.executable, "-c", program, "fetch", "supergpqa"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    directory = tmp_path / "benchmarks" / "supergpqa"
    assert (done.returncode, done.stderr.splitlines()) == (
        0,
        [f"supergpqa: hf://datasets/{source.repository}@{commit_of(1)}/{source.files['test']}"],
    )
    assert done.stdout == f"supergpqa: {directory} ({source.licence})\n"
    assert (directory / "test.jsonl").read_text() == '{"uuid": "1"}\n'
