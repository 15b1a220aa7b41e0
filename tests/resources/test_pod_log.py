"""A pod's log, read piece by piece and by several readers: every line once, and in order."""

from pathlib import Path

import pytest

from resources.cluster_api import Cluster
from resources.pod_log import LogCopy, PodLogReader, nanoseconds, parsed


class Recorded(Cluster):
    """A cluster of which only a log is asked: the last of these texts."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[int | None] = []

    def log(self, pod: str, container: str, since: int | None, attempts: int = 1) -> str | None:
        self.asked.append(since)
        return self.texts.pop(0) if self.texts else None


def copy_of(cluster: Recorded, file: Path, uid: str = "a") -> LogCopy:
    return LogCopy(cluster, "pod", uid, "job", file, PodLogReader().accept)


ONE = "2026-01-01T00:00:00.1Z one\n"
TWO = "2026-01-01T00:00:00.15Z two\n"
THREE = "2026-01-01T00:00:00.15Z three\n"


def test_time_stamps_sort_like_times_whatever_was_cut_off() -> None:
    """As texts, ".1Z" would come after ".15Z"."""
    stamps = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.15Z", "2026-01-01T00:00:01Z"]
    assert sorted(stamps) != stamps
    assert sorted(map(nanoseconds, stamps)) == list(map(nanoseconds, stamps))


def test_lines_that_share_a_time_stamp_are_two_lines() -> None:
    assert [(key[1], line) for key, line in parsed(ONE + TWO + THREE)] == [(0, "one"), (0, "two"), (1, "three")]


def test_what_is_read_twice_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    copy = copy_of(Recorded(ONE + TWO, TWO, ONE + TWO + THREE), file)
    for _ in range(3):
        copy.catch_up()
    assert file.read_text() == "one\ntwo\nthree\n"
    assert list(copy.tail) == ["one", "two", "three"]


def test_the_first_reading_is_whole_and_later_ones_overlap_by_a_minute(tmp_path: Path) -> None:
    cluster = Recorded(ONE, TWO)
    copy = copy_of(cluster, tmp_path / "log.txt")
    copy.catch_up()
    copy.catch_up()
    assert cluster.asked[0] is None
    assert cluster.asked[1] is not None
    assert 60 <= cluster.asked[1] <= 120


def test_a_line_without_its_end_waits_for_it(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    copy = copy_of(Recorded(ONE + TWO[:-2], ONE + TWO, ONE + TWO + THREE.rstrip("\n")), file)
    copy.catch_up()
    assert file.read_text() == "one\n"
    copy.catch_up()
    assert file.read_text() == "one\ntwo\n"
    copy.catch_up(whole=True)
    assert file.read_text() == "one\ntwo\nthree\n"


def test_a_reader_that_takes_over_writes_only_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.txt"
    copy_of(Recorded(ONE + TWO), file).catch_up()
    capsys.readouterr()
    copy_of(Recorded(ONE + TWO + THREE), file).catch_up()
    assert file.read_text() == "one\ntwo\nthree\n"
    assert capsys.readouterr().out == "one\ntwo\nthree\n"  # its run shows all of it


def test_the_next_attempt_is_appended_though_its_clock_is_behind(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    copy_of(Recorded(TWO), file).catch_up()
    copy_of(Recorded(ONE), file, uid="b").catch_up()
    assert file.read_text() == "two\none\n"


def test_pipes_messages_are_no_lines_and_text_that_looks_like_one_is(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    message = '2026-01-01T00:00:00.2Z {"__dagster_pipes_version": "0.1", "method": "opened", "params": {}}\n'
    text = "2026-01-01T00:00:00.3Z {__dagster_pipes_version is a key\n"
    copy_of(Recorded(ONE + message + text), file).catch_up()
    assert file.read_text() == "one\n{__dagster_pipes_version is a key\n"


def test_a_carriage_return_ends_no_line(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    copy_of(Recorded("2026-01-01T00:00:00Z 10%\r20%\r30%\n"), file).catch_up()
    assert file.read_bytes() == b"10%\r20%\r30%\n"
