"""No program of `hostile_programs` passes, escapes, hangs or leaves anything."""

import contextlib
import dataclasses
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bai_pipeline.evals.code import Limits, Verdict, grade_program
from bai_pipeline.evals.code.bubblewrap import Bubblewrap
from tests.evals.code.cheating_programs import ENDINGS, HONEST, whole
from tests.evals.code.conftest import processes_of
from tests.evals.code.hostile_programs import ADD, ATTACKS, HARMLESS, RESOURCES, Attack

REPOSITORY = Path(__file__).parents[3]
LIMITS = Limits(wall_seconds=1.0, cpu_seconds=5, memory_bytes=256 << 20, scratch_bytes=32 << 20, answer_bytes=1 << 20)
SPARE_SECONDS = 10.0
"""For starting and ending two sandboxes on a busy machine."""
AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What the attacks aim at."""

    marker: str
    secret: str
    private: Path
    port: int
    abstract: str
    socket_file: Path

    def aimed(self, program: str) -> str:
        """The program with its placeholders filled."""
        for name, value in {
            "ABSTRACT": self.abstract,
            "HOME": str(Path.home()),
            "MARKER": self.marker,
            "PID": str(os.getpid()),
            "PORT": str(self.port),
            "PRIVATE": str(self.private),
            "REPO": str(REPOSITORY),
            "SOCKET": str(self.socket_file),
        }.items():
            program = program.replace(f"@{name}@", value)
        return program


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a program."""

    verdict: Verdict
    seconds: float


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """A secret in this process's environment, a file of the user's, and sockets that listen on this machine."""
    directory = tmp_path_factory.mktemp("prepared")
    secret = secrets.token_hex(16)
    private = directory / "private"
    private.write_text(secret, encoding="ascii")
    private.chmod(0o644)
    marker = f"hostile-{secrets.token_hex(8)}"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
        pytest.MonkeyPatch.context() as patch,
    ):
        abstract.bind(f"\0{marker}")
        abstract.listen()
        named.bind(str(directory / "socket"))
        named.listen()
        patch.setenv("BAI_TEST_SECRET", f"SECRET{secret}")
        yield Prepared(marker, secret, private, listener.getsockname()[1], marker, directory / "socket")


@pytest.fixture(scope="module")
def outcomes(prepared: Prepared, isolation: Bubblewrap) -> dict[str, Outcome]:
    """Of all programs, several at once."""
    programs = ATTACKS | {name: Attack(program) for name, program in HARMLESS.items()}

    def outcome(name: str) -> Outcome:
        attack, begin = programs[name], time.monotonic()
        limits = dataclasses.replace(LIMITS, wall_seconds=30.0) if name in HARMLESS else LIMITS
        suites = {"suite": attack.suite}
        verdict = grade_program(prepared.aimed(attack.program), suites, limits=limits, isolation=isolation)["suite"]
        return Outcome(verdict, time.monotonic() - begin)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(programs, pool.map(outcome, programs), strict=True))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_not_pass_and_ends(name: str, outcomes: dict[str, Outcome], prepared: Prepared) -> None:
    outcome = outcomes[name]
    assert not outcome.verdict.passed
    assert outcome.verdict.reason != "passed"
    assert outcome.seconds < LIMITS.wall_seconds + SPARE_SECONDS
    assert prepared.secret not in outcome.verdict.detail


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ENDINGS])
def test_an_attack_fails_for_no_fault_of_its_own(name: str, outcomes: dict[str, Outcome]) -> None:
    kind = outcomes[name].verdict.detail.partition(":")[0]
    assert kind not in ("AttributeError", "ImportError", "IndentationError", "NameError", "SyntaxError", "TypeError")


@pytest.mark.parametrize("name", HARMLESS)
def test_an_attempt_that_comes_to_nothing_does_not_spoil_a_right_program(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    assert outcomes[name].verdict == Verdict(True, "passed")


def test_the_suites_pass_an_honest_program(isolation: Bubblewrap) -> None:
    suites = {name: attack.suite for name, attack in ATTACKS.items()}
    verdicts = grade_program(HONEST, {suite: suite for suite in set(suites.values())}, isolation=isolation)
    assert all(verdict.passed for verdict in verdicts.values())


def test_no_process_is_left(outcomes: dict[str, Outcome], isolation: Bubblewrap) -> None:
    assert len(outcomes) == len(ATTACKS) + len(HARMLESS)
    assert processes_of(isolation) == []


def test_no_file_is_left(outcomes: dict[str, Outcome], prepared: Prepared, isolation: Bubblewrap) -> None:
    assert outcomes
    places = [Path(place) for place in ("/", "/dev", "/dev/shm", "/home", "/root", "/var/tmp", tempfile.gettempdir())]
    left = []
    for place in [*places, Path.home(), REPOSITORY]:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            for path in place.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if prepared.marker in path.name or path.lstat().st_uid == isolation.user:
                        left.append(path)
    assert left == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a memory bomb", "memory"),
        ("a huge string", "memory"),
        ("a huge answer", "refused"),
        ("a recursion that overflows the C stack", "crashed"),
        ("an exit without ceremony in the call", "crashed"),
        ("a deep recursion", "error"),
        ("an assertion of its own", "wrong"),
        ("a verdict", "refused"),
        ("an end where every exception is caught", "crashed"),
        ("a full disk", "error"),
    ],
)
def test_a_verdict_says_why(name: str, reason: str, isolation: Bubblewrap) -> None:
    attack, limits = ATTACKS[name], dataclasses.replace(LIMITS, wall_seconds=30.0)
    verdicts = grade_program(attack.program, {"suite": attack.suite}, limits=limits, isolation=isolation)
    assert verdicts["suite"].reason == reason


@pytest.mark.parametrize("name", ["an endless sleep", "endless output", "an endless loop that ignores signals"])
def test_what_does_not_end_is_out_of_time(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].verdict == Verdict(False, "timeout", "no verdict after 1 s")


def test_a_fork_bomb_has_no_more_processes_than_the_limit(isolation: Bubblewrap) -> None:
    counts, ended = [0], threading.Event()

    def count() -> None:
        while not ended.wait(0.02):
            counts.append(len(processes_of(isolation)))

    watcher = threading.Thread(target=count)
    watcher.start()
    try:
        limits = dataclasses.replace(LIMITS, processes=8)
        grade_program(whole(RESOURCES["a fork bomb"]), {"suite": ADD}, limits=limits, isolation=isolation)
    finally:
        ended.set()
        watcher.join()
    # Of the program's sandbox 8; of the tests' 2, its first process and Python; and a bubblewrap outside each.
    assert 8 <= max(counts) <= 8 + 2 + 2


def test_cpu_time_is_limited_where_the_clock_is_not(isolation: Bubblewrap) -> None:
    limits = Limits(wall_seconds=60.0, cpu_seconds=1)
    begin = time.monotonic()
    (verdict,) = grade_program("while True: pass", {"suite": ADD}, limits=limits, isolation=isolation).values()
    assert verdict == Verdict(False, "timeout", "the program's process used 1 s of CPU time")
    assert time.monotonic() - begin < 30
