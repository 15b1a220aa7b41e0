"""The store in object storage: whole or absent, verified as it is fetched, one holder of a job."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bai_pipeline.cli import main as cli
from bai_pipeline.errors import StoreError
from bai_pipeline.store import Ref, RefKey, Store, open_store
from bai_pipeline.store.bucket import Bucket
from bai_pipeline.store.lease import Lease
from bai_pipeline.store.remote import RemoteStore
from bai_pipeline.store.snapshots import Snapshots
from tests.store.object_storage import Machines, files_of
from tests.store.publishing import publish

LOGGER = logging.getLogger("test")


def test_what_one_machine_publishes_another_opens(machines: Machines) -> None:
    uri = publish(machines.be("one"), a="1", b__c="2")
    store = machines.be("two")
    assert not store.root.exists()
    assert (store.open(uri) / "b" / "c").read_text() == "2"
    assert (store.open(f"{uri}/b") / "c").read_text() == "2"
    assert store.objects() == [uri]
    assert store.digest(uri) == Path(uri).name


def test_the_digest_is_that_of_a_directory_store(machines: Machines, tmp_path: Path) -> None:
    remote, local = machines.be("one"), Store(tmp_path / "store")
    uri = publish(remote, a="1", x__b="2")
    assert publish(local, a="1", x__b="2") == uri
    assert remote.digest(f"{uri}/x") == local.digest(f"{uri}/x")


def test_refs_are_replaced_and_seen_everywhere(machines: Machines) -> None:
    key = RefKey("s", "ppo_run", "0.5", 0)
    for digest in ("1", "2"):
        machines.be("one").write_ref(key, Ref("store:objects/t/1", digest, "j", {"base": "b"}))
    store = machines.be("two")
    assert store.read_ref(key) == Ref("store:objects/t/1", "2", "j", {"base": "b"})
    assert store.read_ref(RefKey("s", "ppo_run", "0.7", 0)) is None
    assert [path.as_posix() for path, _ in store.refs()] == ["refs/s/ppo_run/0.5/0.json"]


def test_an_object_without_its_table_is_absent_and_its_files_are_garbage(machines: Machines) -> None:
    """What a kill between two files leaves."""
    store = machines.be("one")
    kept = publish(store, a="1")
    store.write_ref(RefKey("s", "t"), Ref(kept, "d", "j", {}))
    store.bucket.put("objects/table/0123/a", b"half")
    other = machines.be("two")
    assert other.objects() == [kept]
    with pytest.raises(StoreError, match="objects/table/0123 is not in the store"):
        other.open("store:objects/table/0123")
    assert other.collect_garbage() == []
    assert "objects/table/0123/a" in files_of(other)
    other.collect_garbage(older_than=0)
    assert files_of(other, "objects") == [f"{kept.removeprefix('store:')}/{name}" for name in (".files.json", "a")]


def test_a_process_that_is_killed_while_it_uploads_leaves_nothing_to_see(machines: Machines, tmp_path: Path) -> None:
    store = machines.be("one")
    process = subprocess.Popen([sys.executable, "-m", "tests.store.uploader", store.location, "40"])
    while len(files_of(store)) < 5:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= len(files_of(store)) <= 40, "the kill came too late"
    assert store.objects() == []
    again = subprocess.run(
        [sys.executable, "-m", "tests.store.uploader", store.location, "40"], capture_output=True, text=True, check=True
    )
    assert store.objects() == [again.stdout.strip()]
    machines.be("two").verify(again.stdout.strip())


def test_a_damaged_file_is_named_and_replaced_by_the_same_content(machines: Machines) -> None:
    store = machines.be("one")
    uri = publish(store, a="1", b="2")
    store.bucket.put(f"{uri.removeprefix('store:')}/b", b"3")
    other = machines.be("two")
    with pytest.raises(StoreError, match=f"{uri} is damaged or incomplete: b: .*do not match the digest"):
        other.open(uri)
    assert not other.path(uri).exists()
    with pytest.raises(StoreError, match="the bytes of b do not match"):
        other.verify(uri)
    store.bucket.put(f"{uri.removeprefix('store:')}/b", b"345")
    with pytest.raises(StoreError, match="b has 3 bytes, expected 1"):
        other.peek(uri)
    assert publish(other, a="1", b="2") == uri
    assert (machines.be("three").open(uri) / "b").read_text() == "2"


def test_a_missing_file_is_named(machines: Machines) -> None:
    store = machines.be("one")
    uri = publish(store, a="1", b="2")
    store.bucket.delete([f"{uri.removeprefix('store:')}/b"])
    with pytest.raises(StoreError, match="b is missing"):
        store.peek(uri)


def test_an_altered_copy_in_the_cache_is_fetched_again(machines: Machines) -> None:
    store = machines.be("one")
    uri = publish(store, a="1")
    (store.path(uri) / "a").write_text("2")
    assert (store.open(uri) / "a").read_text() == "1"


def test_an_altered_copy_is_not_peeked_into(machines: Machines) -> None:
    store = machines.be("one")
    uri = publish(store, a="1", b="2")
    (store.path(uri) / "a").write_text("3")
    assert (store.peek(uri, "a") / "a").read_text() == "1"
    (store.open(uri) / ".files.json").write_text("{}")
    assert store.digest(uri) == Path(uri).name
    assert (store.peek(uri, "a") / "a").read_text() == "1"


def test_two_writers_of_the_same_object_are_harmless(machines: Machines) -> None:
    stores = [machines.be("one"), machines.be("two")]
    uris: list[str] = []
    threads = [threading.Thread(target=lambda s=s: uris.append(publish(s, a="1", b="2"))) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(uris) == 2
    assert len(set(uris)) == 1
    machines.be("three").verify(uris[0])


def test_only_what_is_read_is_fetched(machines: Machines) -> None:
    uri = publish(machines.be("one"), run="r", policies__m="1", tables__t="2")
    store = machines.be("two")
    assert sorted(p.name for p in store.peek(uri, "run").rglob("*")) == ["run"]
    assert (store.open(f"{uri}/tables") / "t").read_text() == "2"
    assert sorted(p.name for p in store.open(uri, skip=("policies",)).rglob("*") if p.is_file()) == ["run", "t"]
    with pytest.raises(StoreError, match="holds no x"):
        store.peek(uri, "x")


def test_copies_can_be_evicted(machines: Machines) -> None:
    store = machines.be("one")
    uri = publish(store, a="1")
    assert store.evict() == []
    assert store.evict(older_than=-1) == [store.path(uri)]
    assert (store.open(uri) / "a").read_text() == "1"


def test_a_large_file_comes_in_parts(machines: Machines, tmp_path: Path) -> None:
    store = machines.be("one")
    content = os.urandom(20 * 1024 * 1024 + 7)
    with store.staging() as out:
        (out / "large").write_bytes(content)
        uri = store.publish("table", out)
    assert (machines.be("two").open(uri) / "large").read_bytes() == content


def test_a_bucket_that_does_not_exist_is_named(bucket: str, tmp_path: Path) -> None:
    store = RemoteStore(tmp_path, Bucket("s3://no-such-bucket/x"))
    for ask in (lambda: store.read_ref(RefKey("s", "t")), lambda: publish(store, a="1"), store.objects):
        with pytest.raises(StoreError, match=r"s3://no-such-bucket/x/.*the bucket does not exist"):
            ask()


@pytest.mark.parametrize("location", ["http://bucket/x", "s3://", "s3:///x"])
def test_another_location_is_refused(location: str) -> None:
    with pytest.raises(StoreError, match="expected a directory, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"):
        open_store(location)


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_the_state_of_a_job_goes_from_machine_to_machine(machines: Machines) -> None:
    store = machines.be("one")
    with store.claim("job", LOGGER) as claim:
        work = claim.directory / "work"
        (work / "state").mkdir(parents=True)
        (work / "state" / "first").write_text("1")
        (work / ".half").write_text("no")
        claim.save()
        (work / "state" / "first").unlink()
        (work / "state" / "second").write_text("2")
        claim.save()
        (work / "state" / "third").write_text("lost with the machine")
    assert len(files_of(store, "jobs/job/files")) == 1
    other = machines.be("two")
    with other.claim("job", LOGGER) as claim:
        files = {path.name: path.read_text() for path in (claim.directory / "work").rglob("*") if path.is_file()}
        assert files == {"second": "2"}
        (claim.directory / "work" / "state" / "second").write_text("22")
        claim.save()
    with machines.be("one").claim("job", LOGGER) as claim:
        assert (claim.directory / "work" / "state" / "second").read_text() == "22"
        assert not (claim.directory / "work" / "state" / "third").exists()


def test_a_machine_goes_on_from_its_own_newer_state(machines: Machines) -> None:
    store = machines.be("one")
    with store.claim("job", LOGGER) as claim:
        (claim.directory / "work").mkdir()
        claim.save()
        (claim.directory / "work" / "newer").write_text("1")
    with store.claim("job", LOGGER) as claim:
        assert (claim.directory / "work" / "newer").read_text() == "1"


def test_a_state_that_another_process_has_written_is_not_overwritten(machines: Machines, tmp_path: Path) -> None:
    store = machines.be("one")
    snapshots = []
    for name in ("one", "two"):
        (tmp_path / name / "work").mkdir(parents=True)
        snapshots.append(Snapshots(store.bucket, "jobs/job", tmp_path / name))
        snapshots[-1].restore()
        (tmp_path / name / "work").mkdir(exist_ok=True)
        (tmp_path / name / "work" / "state").write_text(name)
    snapshots[1].save()
    with pytest.raises(StoreError, match="was written by another process"):
        snapshots[0].save()


def test_a_file_that_grows_while_it_is_uploaded_is_saved_as_it_was_at_one_time(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker writes when it likes."""
    store, upload = machines.be("one"), Bucket.upload
    grown: list[str] = []

    def grow(bucket: Bucket, name: str, path: Path) -> None:
        if len(grown) < 2:
            grown.append(name)
            with path.open("a") as file:
                file.write("more")
        upload(bucket, name, path)

    with store.claim("job", LOGGER) as claim:
        (claim.directory / "work").mkdir()
        (claim.directory / "work" / "events").write_text("some")
        monkeypatch.setattr(Bucket, "upload", grow)
        claim.save()
    assert len(grown) == 2
    with machines.be("two").claim("job", LOGGER) as claim:
        assert (claim.directory / "work" / "events").read_text() == "somemoremore"


def test_a_job_is_held_by_one_machine_and_waited_for_by_the_other(machines: Machines) -> None:
    bucket = machines.be("one").bucket
    first, second = (Lease(bucket, "lease", cache, seconds=2) for cache in ("one", "two"))
    first.acquire(LOGGER)
    got = threading.Event()

    def wait() -> None:
        second.acquire(LOGGER)
        got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(3), "renewals were not seen"
    first.release()
    assert got.wait(10)
    thread.join()
    second.check()
    second.release()
    assert bucket.get("lease") is None


def test_the_job_of_a_machine_that_is_gone_is_taken_over(machines: Machines) -> None:
    bucket = machines.be("one").bucket
    bucket.put("lease", b'{"token": "t", "cache": "lost", "host": "h", "process": 1}')
    lease = Lease(bucket, "lease", "own", seconds=1)
    lease.acquire(LOGGER)
    lease.release()


def test_a_process_that_ended_on_this_machine_is_not_waited_for(machines: Machines) -> None:
    bucket = machines.be("one").bucket
    bucket.put("lease", b'{"token": "t", "cache": "own", "host": "h", "process": 1}')
    lease = Lease(bucket, "lease", "own", seconds=10_000)
    lease.acquire(LOGGER)
    lease.release()


def test_a_lease_that_was_taken_over_is_noticed(machines: Machines) -> None:
    bucket = machines.be("one").bucket
    lease = Lease(bucket, "lease", "own", seconds=0.4)
    lease.acquire(LOGGER)
    bucket.put("lease", b'{"token": "t", "cache": "other", "host": "h", "process": 1}')
    lease._thread.join(10)
    with pytest.raises(StoreError, match="is held by another process"):
        lease.check()
    lease.release()
    assert bucket.get("lease") is not None


def test_object_storage_that_ignores_conditions_is_refused(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(bucket: Bucket, name: str, content: bytes) -> dict[str, str]:
        bucket.put(name, content)
        return {"e_tag": "any"}

    monkeypatch.setattr(Bucket, "put_new", put)
    with pytest.raises(StoreError, match="ignores conditional writes"):
        Lease(machines.be("one").bucket, "lease", "own").acquire(LOGGER)


def test_ranks_on_machines_without_a_common_cache_are_told(machines: Machines) -> None:
    one, two = machines.be("one"), machines.be("two")
    with one.claim("job", LOGGER):
        one.check_shared("job")
        with pytest.raises(StoreError, match="need one cache directory"):
            two.check_shared("job")


def test_a_log_is_kept_and_gone_on_with(machines: Machines) -> None:
    store = machines.be("one")
    (store.job_directory("job") / "log.txt").write_text("first attempt\n")
    store.keep_log("job")
    assert (machines.be("two").job_directory("job") / "log.txt").read_text() == "first attempt\n"


# -- the command -------------------------------------------------------------------------------------------------------


def test_commands_take_a_location(machines: Machines) -> None:
    def bai(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.app, [*arguments, "--store", machines.location])
        return result.exit_code, result.output

    store = machines.be("one")
    uri = publish(store, a="1")
    machines.be("two")
    assert bai("verify") == (0, "1 objects, 0 damaged\n")
    assert bai("store", "evict") == (0, "0 copies removed\n")
    code, output = bai("status", "--study", "micro", "--json")
    assert code == 0
    assert "fresh" not in output
    store.bucket.put(f"{uri.removeprefix('store:')}/a", b"2")
    code, output = bai("verify")
    assert code == 1
    assert "1 objects, 1 damaged" in output
    assert bai("store", "gc", "--older-than", "-1") == (0, f"{uri}\n1 objects removed\n")
    assert files_of(store) == []
