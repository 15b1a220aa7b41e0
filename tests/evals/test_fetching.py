"""Fetching benchmarks from a stand-in for the hub, by a process that is online: this one is not."""

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.evals.data import Source, has_split, read_split
from bai_pipeline.evals.fetching import Record, described, fetch, read_record
from tests.evals.hub import TOKEN, Hub, Repository, commit_of, dataset, online, running_hub

ROWS = [{"id": str(number), "question": "é" * number} for number in range(50)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
LARGE = bytes(range(256)) * 4000
"""Stands for Parquet where it is only moved."""

PROGRAM = """
import json, sys
from pathlib import Path
from bai_pipeline.errors import DataError
from bai_pipeline.evals.data import Source
from bai_pipeline.evals.fetching import fetch
from bai_pipeline.progress import SilentReporter

class Recorder(SilentReporter):
    def __init__(self):
        self.readings = []
    def progress(self, done, total, **numbers):
        self.readings.append([done, total])

for line in sys.stdin:
    asked = json.loads(line)
    recorder = Recorder()
    try:
        fetch(asked["name"], Source(**asked["source"]), Path(asked["to"]), progress=recorder, **asked["options"])
        print(json.dumps([None, recorder.readings]), flush=True)
    except DataError as error:
        print(json.dumps([str(error), recorder.readings]), flush=True)
"""

Fetch = Callable[..., list[list[int]]]


@contextmanager
def fetcher(endpoint: str, home: Path, token: str | None = TOKEN) -> Iterator[Fetch]:
    """A process that fetches; raises the errors here that were raised there."""
    command = [sys.executable, "-c", PROGRAM]
    environment = online(endpoint, home, token)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, answers = process.stdin, process.stdout

        def fetch_there(name: str, source: Source, root: Path, **options: Any) -> list[list[int]]:
            described = {key: getattr(source, key) for key in ("repository", "files", "licence", "revision")}
            to.write(json.dumps({"name": name, "source": described, "to": str(root), "options": options}) + "\n")
            error, readings = json.loads(answers.readline())
            if error is not None:
                raise DataError(error)
            return list(readings)

        yield fetch_there
        to.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(served: Hub) -> Hub:
    served.repositories.clear()
    served.files.clear()
    served.requests.clear()
    return served


@pytest.fixture(scope="module")
def known(served: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetch]:
    with fetcher(served.endpoint, tmp_path_factory.mktemp("home")) as fetch_there:
        yield fetch_there


@pytest.fixture(scope="module")
def unknown(served: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetch]:
    with fetcher(served.endpoint, tmp_path_factory.mktemp("home"), token=None) as fetch_there:
        yield fetch_there


def source(files: dict[str, str] | None = None, **values: Any) -> Source:
    return Source("owner/set", files or {"test": "test.jsonl"}, licence="MIT", **values)


def record_of(directory: Path) -> Record:
    record = read_record(directory)
    assert record is not None
    return record


def left(root: Path) -> list[str]:
    """Everything below a data root."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_fetched_benchmark_has_its_splits_and_says_where_they_are_from(
    hub: Hub, known: Fetch, tmp_path: Path
) -> None:
    files = {"data/test-a.jsonl": LINES, "data/dev-a.parquet": LARGE, "README.md": b"x", "data/test-b.json": b"[]"}
    hub.repositories["owner/set"] = dataset(files)
    readings = known("mine", source({"test": "data/test-*.jsonl", "dev": "data/dev-*.parquet"}), tmp_path)
    directory = tmp_path / "benchmarks" / "mine"
    assert left(directory) == ["dev.parquet", "source.json", "test.jsonl"]
    assert read_split(directory, "test") == ROWS
    assert (directory / "dev.parquet").read_bytes() == LARGE
    assert not any(path.is_symlink() for path in directory.iterdir())
    record = record_of(directory)
    assert (record.repository, record.revision, record.licence) == ("owner/set", commit_of(1), "MIT")
    assert record.fetched.endswith("+00:00")
    assert record.files["test.jsonl"].model_dump() == {
        "uri": f"hf://datasets/owner/set@{commit_of(1)}/data/test-a.jsonl",
        "sha256": hashlib.sha256(LINES).hexdigest(),
        "bytes": len(LINES),
    }
    assert record.files.keys() == {"test.jsonl", "dev.parquet"}
    total = len(LINES) + len(LARGE)
    assert readings == [[len(LINES), total], [total, total]]
    # Nothing that was not asked for was downloaded.
    assert not any(path.endswith(("README.md", "test-b.json")) for _, path in hub.requests)
    assert described(directory, source()) == commit_of(1)


def test_several_files_of_a_split_become_shards_in_the_order_of_their_paths(
    hub: Hub, known: Fetch, tmp_path: Path
) -> None:
    files = {f"{subject}/test-0.jsonl": f'{{"subject": "{subject}"}}'.encode() for subject in ("b", "a", "c")}
    hub.repositories["owner/set"] = dataset(files | {"deep/er/test-0.jsonl": b"{}", "d/test-0/e.jsonl": b"{}"})
    known("mine", source({"test": "*/test-*.jsonl"}), tmp_path)
    directory = tmp_path / "benchmarks" / "mine"
    assert left(directory)[1:] == [f"test-0000{number}-of-00003.jsonl" for number in range(3)]
    assert [row["subject"] for row in read_split(directory, "test")] == ["a", "b", "c"]


def test_splits_may_come_from_several_repositories(hub: Hub, known: Fetch, tmp_path: Path) -> None:
    hub.repositories["owner/set"] = dataset({"test.jsonl": LINES})
    hub.repositories["other/math"] = Repository({commit_of(5): {"q/a.json": b"[1]"}, commit_of(6): {}})
    files = {"test": "test.jsonl", "math": f"hf://datasets/other/math@{commit_of(5)}/q/*.json"}
    known("mine", source(files), tmp_path)
    record = record_of(tmp_path / "benchmarks" / "mine")
    assert record.revision == f"owner/set@{commit_of(1)}, other/math@{commit_of(5)}"
    assert record.files["math.json"].uri == f"hf://datasets/other/math@{commit_of(5)}/q/a.json"
    # Only files without a repository of their own are of the revision asked for.
    only_math = source({"math": files["math"]})
    with pytest.raises(DataError, match="no revision 'main' can be chosen"):
        known("math", only_math, tmp_path, revision="main")
    with pytest.raises(DataError, match=r"\n  hf://datasets/other/math@\w+/q/\*\.json as .*/math\.json, or if"):
        fetch("math", only_math, tmp_path)


def test_files_may_come_from_urls(hub: Hub, known: Fetch, tmp_path: Path) -> None:
    hub.files["/raw/abc/a question.jsonl"] = LINES
    by_url = Source(f"{hub.endpoint}/raw/", {"test": "abc/a question.jsonl"}, "MIT")
    known("mine", by_url, tmp_path)
    directory = tmp_path / "benchmarks" / "mine"
    assert read_split(directory, "test") == ROWS
    record = record_of(directory)
    assert record.revision is None
    assert record.files["test.jsonl"].uri == f"{hub.endpoint}/raw/abc/a%20question.jsonl"
    # What stands at a URL may change, so it is fetched anew when that is wanted, and only then.
    hub.files["/raw/abc/a question.jsonl"] = b'{"new": 1}'
    known("mine", by_url, tmp_path)
    assert read_split(directory, "test") == ROWS
    known("mine", by_url, tmp_path, force=True)
    assert read_split(directory, "test") == [{"new": 1}]
    hub.files.clear()
    with pytest.raises(DataError, match=r"no such file.*HTTP 404"):
        known("mine", by_url, tmp_path, force=True)
    assert read_split(directory, "test") == [{"new": 1}]
    with pytest.raises(DataError, match="no revision 'main' can be chosen"):
        known("mine", by_url, tmp_path, revision="main")


def test_what_is_there_is_kept_without_the_network(hub: Hub, known: Fetch, tmp_path: Path) -> None:
    hub.repositories["owner/set"] = Repository({commit_of(1): {"test.jsonl": LINES}})
    known("mine", source(), tmp_path)
    hub.repositories["owner/set"].commits[commit_of(2)] = {"test.jsonl": b'{"new": 1}'}
    hub.requests.clear()
    known("mine", source(), tmp_path)
    known("mine", source(revision=commit_of(1)), tmp_path)
    known("mine", source(), tmp_path, revision=commit_of(1), force=True)
    assert hub.requests == []
    assert fetch("mine", source(), tmp_path) == tmp_path / "benchmarks" / "mine"
    assert read_split(tmp_path / "benchmarks" / "mine", "test") == ROWS


def test_another_revision_replaces_what_is_there_only_by_force(hub: Hub, known: Fetch, tmp_path: Path) -> None:
    files = {"test.jsonl": LINES, "dev.jsonl": b"{}"}
    hub.repositories["owner/set"] = Repository({commit_of(1): files, commit_of(2): {"test.jsonl": b'{"new": 1}'}})
    pinned = source({"test": "test.jsonl", "dev": "dev.jsonl"}, revision=commit_of(1))
    known("mine", pinned, tmp_path)
    directory = tmp_path / "benchmarks" / "mine"
    with pytest.raises(DataError, match=f"holds revision {commit_of(1)} of owner/set.*--force"):
        known("mine", source(), tmp_path, revision=commit_of(2))
    assert read_split(directory, "test") == ROWS
    known("mine", source(), tmp_path, revision="main", force=True)
    assert left(tmp_path) == ["benchmarks/mine/source.json", "benchmarks/mine/test.jsonl"]
    assert read_split(directory, "test") == [{"new": 1}]
    assert record_of(directory).revision == commit_of(2)
    # By force, but there is nothing newer: no file is downloaded.
    hub.requests.clear()
    known("mine", source(), tmp_path, force=True)
    assert [path for _, path in hub.requests] == ["/api/datasets/owner/set"]
    # A split that the source has since gained is missed.
    with pytest.raises(DataError, match="lacks the split 'dev'"):
        known("mine", source({"test": "test.jsonl", "dev": "dev.jsonl"}), tmp_path)


def test_a_damaged_benchmark_is_told_and_fetched_anew_by_force(hub: Hub, known: Fetch, tmp_path: Path) -> None:
    hub.repositories["owner/set"] = dataset({"test.jsonl": LINES})
    pinned = source(revision=commit_of(1))
    known("mine", pinned, tmp_path)
    directory = tmp_path / "benchmarks" / "mine"
    (directory / "test.jsonl").write_bytes(LINES[1:])
    with pytest.raises(DataError, match=r"is damaged: test\.jsonl.*--force"):
        known("mine", pinned, tmp_path)
    known("mine", pinned, tmp_path, force=True)
    assert read_split(directory, "test") == ROWS
    (directory / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"lacks test\.jsonl"):
        known("mine", pinned, tmp_path)
    (directory / "source.json").write_text("{}")
    with pytest.raises(DataError, match=r"cannot read .*source\.json"):
        known("mine", pinned, tmp_path)


def test_what_a_person_put_there_is_never_overwritten(hub: Hub, known: Fetch, tmp_path: Path) -> None:
    hub.repositories["owner/set"] = dataset({"test.jsonl": LINES})
    directory = tmp_path / "benchmarks" / "mine"
    directory.mkdir(parents=True)
    assert described(directory, source()) == "absent"
    (directory / "test.json").write_text('[{"own": 1}]')
    assert described(directory, source()) == "put there by hand"
    assert described(directory, source({"test": "t.json", "dev": "d.json"})) == "put there by hand, without dev"
    known("mine", source(), tmp_path)
    assert left(directory) == ["test.json"]
    with pytest.raises(DataError, match="put there by hand"):
        known("mine", source(), tmp_path, force=True)
    (directory / "test.json").unlink()
    known("mine", source(), tmp_path)
    assert read_split(directory, "test") == ROWS
    (directory / "baseline.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"holds what was not fetched, baseline\.jsonl"):
        known("mine", source(), tmp_path, force=True)
    assert has_split(directory, "baseline")


def test_a_file_that_is_not_there_is_told_with_those_that_are(hub: Hub, known: Fetch, tmp_path: Path) -> None:
    hub.repositories["owner/set"] = dataset({"all.jsonl": LINES, "README.md": b""})
    with pytest.raises(DataError, match=r"expected test\.jsonl in the dataset owner/set .* there are: all\.jsonl$"):
        known("mine", source(), tmp_path)
    with pytest.raises(DataError, match=r"expected \.jsonl, .* for the split 'test' of mine, got 'test\.zip'"):
        known("mine", source({"test": "test.zip"}), tmp_path)
    assert left(tmp_path) == []


def test_what_does_not_exist_is_told(hub: Hub, known: Fetch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or dataset: http.*/datasets/owner/set \(HTTP 404\)"):
        known("mine", source(), tmp_path)
    hub.repositories["owner/set"] = dataset({"test.jsonl": LINES})
    with pytest.raises(DataError, match="/datasets/owner/set has no such revision"):
        known("mine", source(), tmp_path, revision="v2")
    with pytest.raises(DataError, match="HFValidationError"):
        known("mine", Source("no such name", {"test": "test.jsonl"}, "MIT"), tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("gated", [True, False])
def test_a_closed_dataset_needs_a_token(hub: Hub, known: Fetch, unknown: Fetch, tmp_path: Path, gated: bool) -> None:
    hub.repositories["owner/set"] = Repository({commit_of(1): {"test.jsonl": LINES}}, gated, private=not gated)
    with pytest.raises(DataError) as caught:
        unknown("mine", source(), tmp_path)
    for text in ("HTTP 401", "/datasets/owner/set", "accept its licence", "HF_TOKEN"):
        assert text in str(caught.value)
    assert left(tmp_path) == []
    known("mine", source(), tmp_path)
    assert read_split(tmp_path / "benchmarks" / "mine", "test") == ROWS


def test_a_download_that_was_cut_off_goes_on(hub: Hub, known: Fetch, tmp_path: Path) -> None:
    hub.repositories["owner/set"] = dataset({"test.parquet": LARGE})
    hub.repositories["owner/set"].cut_once.add("test.parquet")
    known("mine", source({"test": "test.parquet"}), tmp_path)
    assert (tmp_path / "benchmarks" / "mine" / "test.parquet").read_bytes() == LARGE


@pytest.mark.parametrize("name", ["test.parquet", "test.jsonl"])
def test_a_download_that_is_too_short_or_different_leaves_nothing(
    hub: Hub, known: Fetch, tmp_path: Path, name: str
) -> None:
    hub.repositories["owner/set"] = dataset({"dev.json": b"[]", name: LARGE + b"!"})
    asked = source({"dev": "dev.json", "test": name})
    hub.repositories["owner/set"].shorter.add(name)
    with pytest.raises(DataError, match="cannot fetch mine") as caught:
        known("mine", asked, tmp_path)
    assert "nothing was written" in str(caught.value)
    hub.repositories["owner/set"].shorter.clear()
    hub.repositories["owner/set"].changed.add(name)
    with pytest.raises(DataError, match=rf"as size or digest of hf://datasets/owner/set@\w+/{name}"):
        known("mine", asked, tmp_path)
    assert list((tmp_path / "benchmarks").iterdir()) == []


def test_a_refused_connection_is_told_with_what_to_do_by_hand(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    asked = source({"test": "data/test-*.parquet", "dev": "dev.jsonl"})
    with fetcher(endpoint, tmp_path / "home") as fetch_there:
        for wanted in (asked, Source(endpoint, {"test": "test.jsonl"}, "MIT")):
            with pytest.raises(DataError, match="ConnectError"):
                fetch_there("mine", wanted, tmp_path)
        with pytest.raises(DataError) as caught:
            fetch_there("mine", asked, tmp_path)
    directory = tmp_path / "benchmarks" / "mine"
    assert f"data/test-*.parquet of owner/set as {directory}/test.parquet" in str(caught.value)
    assert "test-00000-of-0000N.parquet" in str(caught.value)
    assert f"dev.jsonl of owner/set as {directory}/dev.jsonl" in str(caught.value)
    assert not directory.exists()


def test_offline_nothing_is_tried(hub: Hub, tmp_path: Path) -> None:
    """As this very process is."""
    for asked in (source(), Source(hub.endpoint, {"test": "test.jsonl"}, "MIT")):
        with pytest.raises(
            DataError, match=r"HF_HUB_OFFLINE is set(?s:.*)test\.jsonl( of owner/set)? as .*/mine/test\.jsonl"
        ):
            fetch("mine", asked, tmp_path)
    assert hub.requests == []
    assert list(tmp_path.iterdir()) == []


def test_importing_loads_no_library_of_the_hub() -> None:
    code = "import bai_pipeline.evals.fetching, sys; print(*{'huggingface_hub', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
