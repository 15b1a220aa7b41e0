"""Writing: whole or absent."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bai_pipeline.checkpoints import (
    Checkpoint,
    Reader,
    ShardFiles,
    check_space,
    emptied_on_failure,
    whole_or_absent,
)
from bai_pipeline.errors import CheckpointError

MakeCheckpoint = Callable[..., Path]


def write_and_stop(directory: Path) -> None:
    (directory / "sub").mkdir()
    (directory / "sub" / "file").write_text("content")
    (directory / "file").write_text("content")
    raise KeyboardInterrupt


def test_a_rewritten_file_is_the_reference_implementations_byte_for_byte(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    source, out = make_checkpoint(), tmp_path / "copy"
    out.mkdir()
    tensors = list(Checkpoint.open(source).tensors.values())
    files = ShardFiles(out, {"model.safetensors": tensors})
    with Reader() as reader:
        for tensor in reversed(tensors):
            with files.open(tensor.name) as place:
                offset = 0
                for chunk in reader.chunks(tensor):
                    place.write(chunk, offset)
                    offset += len(chunk)
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_modes_follow_the_umask(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    tensors = list(Checkpoint.open(make_checkpoint()).tensors.values())
    before = os.umask(0o027)
    try:
        with whole_or_absent(tmp_path / "out") as partial:
            ShardFiles(partial, {"model.safetensors": tensors})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "out" / "model.safetensors").stat().st_mode) == 0o640


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_written(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    room = free.f_bavail * free.f_frsize
    check_space([tmp_path], room // 2)
    for directories, nbytes in (([tmp_path], 2 * room), ([tmp_path, tmp_path], room // 2 + room // 4)):
        with pytest.raises(CheckpointError, match=r"no space left on the device: \d+ bytes are needed, \d+ are free"):
            check_space(directories, nbytes)


def test_a_second_writer_of_the_same_directory_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    with whole_or_absent(tmp_path / "out") as partial:
        (partial / "file").write_text("first")
        with pytest.raises(CheckpointError, match="another process is writing it"), whole_or_absent(tmp_path / "out"):
            pass
    assert (tmp_path / "out" / "file").read_text() == "first"


def test_parents_that_were_made_for_it_go_with_a_directory_that_failed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), whole_or_absent(tmp_path / "there" / "new" / "deep" / "out") as partial:
        write_and_stop(partial)
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    with whole_or_absent(tmp_path / "deep" / "out") as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "file").write_text("content")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "sub" / "file").read_text() == "content"
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "out"]


def test_a_directory_is_absent_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_or_absent(tmp_path / "out") as partial:
        write_and_stop(partial)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_destination(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with whole_or_absent(tmp_path / "out") as partial:
            (partial / "file").write_text("content")
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "out").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == [".out.partial"]
    with whole_or_absent(tmp_path / "out") as partial:
        assert list(partial.iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_an_existing_destination_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="already exists; nothing was written"), whole_or_absent(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_dir()


def test_a_directory_handed_in_is_emptied_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), emptied_on_failure(tmp_path):
        write_and_stop(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("content")
    with pytest.raises(CheckpointError, match="expected an empty directory"), emptied_on_failure(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "content"
