"""Writing: whole or absent."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bai_pipeline.checkpoints import Checkpoint, Reader, ShardWriter, emptied_on_failure, whole_or_absent
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
    source = make_checkpoint()
    tensors = list(Checkpoint.open(source).tensors.values())
    with Reader() as reader, ShardWriter(tmp_path / "copy.safetensors", tensors) as writer:
        for tensor in tensors:
            writer.write(tensor, reader.chunks(tensor))
    assert (tmp_path / "copy.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_a_file_with_a_tensor_unwritten_is_an_error(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    tensors = list(Checkpoint.open(make_checkpoint()).tensors.values())
    with pytest.raises(CheckpointError, match="0 of 4 tensors were written"), ShardWriter(tmp_path / "a", tensors):
        pass


def test_tensors_out_of_order_are_an_error(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    tensors = list(Checkpoint.open(make_checkpoint()).tensors.values())
    expected = rf"expected \d+ bytes of {tensors[0].name}, got \d+ bytes of tensor {tensors[1].name}"
    with Reader() as reader, pytest.raises(CheckpointError, match=expected):  # noqa: SIM117
        with ShardWriter(tmp_path / "a", tensors) as writer:
            writer.write(tensors[1], reader.chunks(tensors[1]))


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
    with whole_or_absent(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_dir()


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
