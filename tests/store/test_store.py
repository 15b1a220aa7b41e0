"""The store: whole or absent, verified when read, refs replaced atomically."""

import errno
import os
from pathlib import Path

import pytest

from bai_pipeline.errors import StoreError
from bai_pipeline.store import Ref, RefKey, Store
from tests.store.publishing import publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_an_object_is_named_after_its_content(store: Store) -> None:
    first, again, other = publish(store, a="1"), publish(store, a="1"), publish(store, a="2")
    assert first == again != other
    assert store.digest(first) == Path(first).name
    assert (store.open(first) / "a").read_text() == "1"


def test_a_failed_job_leaves_nothing_behind(store: Store) -> None:
    def fail() -> None:
        with store.staging() as directory:
            (directory / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.objects() == []
    assert list((store.root / "staging").iterdir()) == []


def test_nothing_to_publish_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="is empty"):
        publish(store)


def test_a_symbolic_link_is_refused(store: Store, tmp_path: Path) -> None:
    with store.staging() as directory:
        (directory / "link").symlink_to(tmp_path)
        with pytest.raises(StoreError, match="no symbolic links"):
            store.publish("table", directory)


def test_an_absent_object_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match="objects/table/abc is not in the store"):
        store.open("store:objects/table/abc")


def test_a_missing_file_is_named(store: Store) -> None:
    uri = publish(store, a="1", b="2")
    (store.path(uri) / "b").unlink()
    with pytest.raises(StoreError, match="b is missing"):
        store.open(uri)


def test_a_file_of_another_size_is_named(store: Store) -> None:
    uri = publish(store, a="1")
    (store.path(uri) / "a").write_text("123")
    with pytest.raises(StoreError, match="a has 3 bytes, expected 1"):
        store.open(uri)


def test_altered_bytes_are_found_when_the_object_is_opened(store: Store) -> None:
    uri = publish(store, a="1")
    (store.path(uri) / "a").write_text("2")
    with pytest.raises(StoreError, match="bytes of a do not match"):
        store.open(uri)


def test_verify_finds_altered_bytes_behind_an_unchanged_time(store: Store) -> None:
    uri = publish(store, a="1")
    path = store.path(uri) / "a"
    before = path.stat()
    with path.open("r+") as file:
        file.write("2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    store.open(uri)
    with pytest.raises(StoreError, match="bytes of a do not match"):
        store.verify(uri)


def test_an_altered_table_is_found(store: Store) -> None:
    uri = publish(store, a="1")
    table = store.path(uri) / ".files.json"
    table.write_text(table.read_text().replace('"a"', '"b"'))
    with pytest.raises(StoreError, match="was altered"):
        store.open(uri)


def test_a_directory_inside_an_object_has_the_digest_it_would_have_alone(store: Store) -> None:
    inside, alone = publish(store, x__a="1", y="2"), publish(store, a="1")
    assert store.digest(f"{inside}/x") == store.digest(alone)
    with pytest.raises(StoreError, match="nothing below 'z'"):
        store.digest(f"{inside}/z")


@pytest.mark.parametrize("uri", ["store:objects/../../etc", "https://example.org/x", "objects/a/b"])
def test_a_uri_outside_the_store_is_refused(store: Store, uri: str) -> None:
    with pytest.raises(StoreError):
        store.path(uri)


def test_garbage_collection_removes_exactly_what_no_ref_names(store: Store) -> None:
    kept, inside, dropped = publish(store, a="1"), publish(store, x__a="2"), publish(store, a="3")
    store.write_ref(RefKey("s", "one"), Ref(kept, "d", "j", {}))
    store.write_ref(RefKey("t", "two", "0.5", 0), Ref(f"{inside}/x", "d", "j", {}))
    assert store.collect_garbage() == []
    assert store.collect_garbage(older_than=0, dry_run=True) == [dropped]
    assert store.path(dropped).exists()
    assert store.collect_garbage(older_than=0) == [dropped]
    assert store.objects() == sorted([kept, inside])


def test_garbage_collection_removes_what_interrupted_jobs_left_in_staging(store: Store) -> None:
    publish(store, a="1")
    (store.root / "staging" / "leftover").mkdir()
    store.collect_garbage(older_than=0)
    assert list((store.root / "staging").iterdir()) == []


def test_a_damaged_object_is_replaced_when_its_content_is_published_again(store: Store) -> None:
    uri = publish(store, a="1")
    (store.path(uri) / "a").write_text("2")
    assert publish(store, a="1") == uri
    assert (store.open(uri) / "a").read_text() == "1"


def test_a_ref_that_is_replaced_while_it_is_read_is_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS says ESTALE then."""
    store.write_ref(RefKey("s", "t"), Ref("store:objects/t/1", "1", "j", {}))
    read, stale = Path.read_text, [OSError(errno.ESTALE, "stale"), OSError(errno.ESTALE, "stale")]

    def read_text(path: Path, encoding: str) -> str:
        if stale:
            raise stale.pop()
        return read(path, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", read_text)
    ref = store.read_ref(RefKey("s", "t"))
    assert ref is not None
    assert ref.digest == "1"
    assert not stale


def test_refs_of_two_studies_do_not_disturb_each_other(store: Store) -> None:
    one, two = Ref("store:objects/t/1", "1", "j", {"base": "b"}), Ref("store:objects/t/2", "2", "j", {})
    store.write_ref(RefKey("first", "bai_actor", "0.5"), one)
    store.write_ref(RefKey("second", "bai_actor", "0.5"), two)
    assert store.read_ref(RefKey("first", "bai_actor", "0.5")) == one
    assert store.read_ref(RefKey("second", "bai_actor", "0.5")) == two
    assert store.read_ref(RefKey("third", "bai_actor", "0.5")) is None


def test_a_ref_is_replaced_and_leaves_no_temporary_file(store: Store) -> None:
    key = RefKey("s", "ppo_run", "0.5", 0)
    for digest in ("1", "2"):
        store.write_ref(key, Ref("store:objects/t/1", digest, "j", {}))
    ref = store.read_ref(key)
    assert ref is not None
    assert ref.digest == "2"
    assert [p.name for p in (store.root / "refs/s/ppo_run/0.5").iterdir()] == ["0.json"]


@pytest.mark.parametrize("part", ["../x", "", ".hidden"])
def test_a_ref_outside_its_study_is_refused(part: str) -> None:
    with pytest.raises(StoreError, match="not a name for a ref"):
        _ = RefKey("s", "asset", part).path
