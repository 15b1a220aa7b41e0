"""What a sandbox holds, and what is done where there is none."""

import dataclasses
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.code import Limits, Submission, Verdict, find_isolation, grade_program, grade_programs
from bai_pipeline.evals.code.bubblewrap import Bubblewrap
from bai_pipeline.evals.code.seccomp import system_call_filter
from tests.evals.code.conftest import processes_of

PASSED = Verdict(True, "passed")
ONE = "def f(): return 1"
REPOSITORY = Path(__file__).parents[3]

LOOK = """
import os, resource, socket, stat, sys

def environment():
    return dict(os.environ)

def users():
    return os.getresuid() + os.getresgid()

def status(key):
    return [line.split()[1] for line in open("/proc/self/status") if line.startswith(key)]

def processes():
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())

def descriptors():
    kinds = [stat.S_IFMT(os.fstat(n).st_mode) for n in range(64) if os.path.exists(f"/proc/self/fd/{n}")]
    return [kinds.count(stat.S_IFCHR), kinds.count(stat.S_IFSOCK), len(kinds)]

def interfaces():
    return [line.split(":")[0].strip() for line in list(open("/proc/net/dev"))[2:]]

def host():
    return socket.gethostname()

def listed(path):
    return sorted(os.listdir(path))

def writable():
    mounts = [line.split() for line in open("/proc/self/mounts")]
    return sorted(point for _, point, _, options, *_ in mounts if "rw" in options.split(","))

def space(path):
    return os.statvfs(path).f_blocks * os.statvfs(path).f_frsize

def limit(name):
    return resource.getrlimit(getattr(resource, name))

def read(path):
    return open(path).read()

def modules():
    return sorted(name for name in sys.modules if "bai_pipeline" in name and not name.endswith("bai_pipeline"))
"""

ROOT = {"dev", "etc", "lib", "lib64", "packages", "proc", "tmp", "usr"}
ROOT |= {Path(path).resolve().parts[1] for path in (sys.base_prefix, sys.executable)} | {Path(sys.base_prefix).parts[1]}

FACTS = {
    "environment": "seen = {key: value for key, value in environment().items() if key not in ('PWD', 'LC_CTYPE')}\n"
    "assert seen == {'HOME': '/tmp', 'LANG': 'C.UTF-8', 'OPENBLAS_NUM_THREADS': '1', 'PYTHONHASHSEED': '0'}, seen",
    "user": "assert users() == (65534,) * 6, users()",
    "no capability": "assert status('Cap') == ['0' * 16] * 5 and status('NoNewPrivs') == ['1'], status('Cap')",
    "filter": "assert status('Seccomp')[0] == '2', status('Seccomp')",
    "processes": "assert processes() == [1, 2], processes()",
    "descriptors": "assert descriptors() == [3, 1, 4], descriptors()",
    "network": "assert interfaces() == ['lo'], interfaces()",
    "host": "assert host() == 'sandbox', host()",
    "root": f"assert set(listed('/')) <= {ROOT!r}, listed('/')\nassert listed('/etc') in ([], ['ld.so.cache'])",
    "directory": "assert listed('.') == listed('/tmp') == [], listed('.')",
    "packages": "assert set(listed('/packages')) <= {'bai_pipeline', 'numpy', 'numpy.libs'}, listed('/packages')\n"
    "assert listed('/packages/bai_pipeline/evals/code') == ['inside'], listed('/packages/bai_pipeline/evals/code')",
    "nothing is writable": "mounts = [point for point in writable() if point not in ('/proc', '/dev/pts')]\n"
    "assert [point for point in mounts if point.rpartition('/')[0] != '/dev'] == ['/tmp'], mounts",
    "space": "assert space('/tmp') == 8 << 20, space('/tmp')",
    "limits": "assert limit('RLIMIT_NPROC') == (5, 5) and limit('RLIMIT_CORE') == (0, 0)\n"
    "assert limit('RLIMIT_AS') == (1 << 30, 1 << 30) and limit('RLIMIT_CPU') == (10, 11)",
    "memory": "assert read('/proc/self/oom_score_adj') == '1000\\n'",
    "no other module": "assert all('.inside.' in name or name.count('.') <= 3 for name in modules()), modules()",
}


def test_a_sandbox_holds_what_python_needs_and_no_more(isolation: Bubblewrap) -> None:
    limits = Limits(scratch_bytes=8 << 20, processes=5)
    submissions = [Submission(LOOK, {name: tests}) for name, tests in FACTS.items()]
    verdicts = grade_programs(submissions, workers=4, limits=limits, isolation=isolation)
    assert verdicts == [{name: PASSED} for name in FACTS]


def test_the_tests_are_in_a_sandbox_as_well(isolation: Bubblewrap) -> None:
    tests = LOOK + FACTS["environment"] + "\n" + FACTS["no capability"] + "\n" + FACTS["processes"]
    suites = {"facts": tests, "passwd": "open('/etc/passwd')", "loop": "while True: pass"}
    verdicts = grade_program(ONE, suites, limits=Limits(wall_seconds=1.0), isolation=isolation)
    assert [verdict.reason for verdict in verdicts.values()] == ["passed", "error", "timeout"]


def test_a_sandbox_without_proc_grades_as_well(isolation: Bubblewrap) -> None:
    without = dataclasses.replace(isolation, proc=False)
    suites = {"one": "assert f() == 1", "proc": "import os\nassert not os.path.exists('/proc/self')"}
    assert grade_program(ONE, suites, isolation=without) == dict.fromkeys(suites, PASSED)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mask a part of /proc")
def test_where_proc_is_masked_there_are_sandboxes_without_it() -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("util-linux (unshare) is not installed")
    program = "from bai_pipeline.evals.code import find_isolation; print(find_isolation().proc)"
    masked = f"mount --bind /dev/null /proc/meminfo\nexec {sys.executable} -c '{program}'"
    command = [unshare, "--mount", "sh", "-ec", masked]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "False\n", done.stderr


def _allowed(program: bytes, number: int, architecture: int, argument: int = 0) -> bool:
    """Runs a filter as the kernel does (struct seccomp_data: number, architecture, instruction pointer, arguments)."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, argument, *[0] * 5)
    instructions = list(struct.iter_unpack("=HBBI", program))
    at, loaded = 0, 0
    while True:
        code, when_true, when_false, operand = instructions[at]
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("<I", data, operand)
        elif code == 0x06:
            return bool(operand == 0x7FFF0000)
        else:
            assert code in (0x15, 0x35)
            at += when_true if (loaded == operand if code == 0x15 else loaded >= operand) else when_false


@pytest.mark.parametrize(
    ("machine", "architecture", "socket_call", "ptrace", "userfaultfd", "openat"),
    [("x86_64", 0xC000003E, 41, 101, 323, 257), ("aarch64", 0xC00000B7, 198, 117, 282, 56)],
)
def test_the_filter_refuses_what_it_names(
    machine: str, architecture: int, socket_call: int, ptrace: int, userfaultfd: int, openat: int
) -> None:
    program = system_call_filter(machine)
    assert _allowed(program, openat, architecture)
    assert not _allowed(program, ptrace, architecture)
    assert not _allowed(program, userfaultfd, architecture)
    assert not _allowed(program, openat, architecture ^ 1)
    assert [family for family in range(50) if _allowed(program, socket_call, architecture, family)] == [1]
    assert _allowed(program, openat | 0x40000000, architecture) == (machine != "x86_64")


def test_a_machine_without_a_filter_runs_nothing() -> None:
    with pytest.raises(EvaluationError, match=r"got riscv64.*no program was run"):
        system_call_filter("riscv64")


def test_without_bubblewrap_nothing_is_run_unless_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"package bubblewrap.*isolation: none.*no program was run"):
        find_isolation()
    assert find_isolation("none").name == "none"


def test_a_bubblewrap_that_makes_no_sandbox_is_an_error_with_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"No permissions to create new namespace.*user namespaces allowed"):
        find_isolation()


def test_without_isolation_limits_and_verdicts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAI_TEST_SECRET", "secret")
    before = set(Path(tempfile.gettempdir()).glob("program-*"))
    isolation = find_isolation("none")
    program = """
import os, subprocess, sys, time
import numpy as np
def f(): return int(np.int64(1))
def secret(): return os.environ.get("BAI_TEST_SECRET")
def large(): return len(bytearray(10 ** 10))
def wait():
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)", "@unisolated@"])
    time.sleep(3600)
def write():
    with open("file", "w") as stream:
        stream.write("x")
    return os.listdir(".")
"""
    suites = {
        "right": "import numpy as np\nassert np.equal(f(), 1)",
        "wrong": "assert f() == 2",
        "secret": "assert secret() == 'secret'",
        "write": "assert write() == ['file']",
        "large": "large()",
        "wait": "wait()",
        "exit": "import os\nos._exit(3)",
    }
    verdicts = grade_program(program, suites, limits=Limits(wall_seconds=1.5), isolation=isolation)
    reasons = {name: verdict.reason for name, verdict in verdicts.items()}
    assert reasons == {
        "right": "passed",
        "wrong": "wrong",
        "secret": "wrong",
        "write": "passed",
        "large": "memory",
        "wait": "timeout",
        "exit": "crashed",
    }
    assert set(Path(tempfile.gettempdir()).glob("program-*")) <= before
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"@unisolated@" in command for command in commands)


def test_sandboxes_end_with_the_process_that_started_them(isolation: Bubblewrap) -> None:
    program = f"""
        from bai_pipeline.evals.code import Limits, grade_program
        from bai_pipeline.evals.code.bubblewrap import Bubblewrap
        isolation = Bubblewrap({isolation.executable!r}, {isolation.user!r}, {isolation.proc!r})
        print("starting", flush=True)
        grade_program("while True: pass", {{"s": ""}}, limits=Limits(wall_seconds=60.0), isolation=isolation)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE) as grading:
        assert grading.stdout is not None
        grading.stdout.readline()
        deadline = time.monotonic() + 30
        # The first process and the one that grades, of both sandboxes.
        while sum("bwrap" not in command for command in processes_of(isolation)) < 4:
            assert time.monotonic() < deadline, processes_of(isolation)
            time.sleep(0.05)
        grading.kill()
    while processes_of(isolation):
        assert time.monotonic() < deadline, processes_of(isolation)
        time.sleep(0.05)


AS_A_USER = """
import os, sys, threading
from pathlib import Path
from bai_pipeline.evals.code import Limits, find_isolation, grade_program
from tests.evals.code.hostile_programs import ADD, RESOURCES, whole

isolation, counts, ended = find_isolation(), [], threading.Event()
assert os.getuid() != 0 and isolation.user is None

def mine(entry):
    try:
        return entry.stat().st_uid == os.getuid()
    except FileNotFoundError:
        return False

def count():
    while not ended.wait(0.02):
        counts.append(sum(map(mine, Path("/proc").glob("[0-9]*"))))

right = grade_program("def add(a, b): return a + b", {"add": ADD, "numpy": "import numpy"}, isolation=isolation)
assert all(verdict.passed for verdict in right.values()), right
watcher = threading.Thread(target=count)
watcher.start()
bomb = grade_program(
    whole(RESOURCES["a fork bomb"]), {"add": ADD}, limits=Limits(wall_seconds=1.5, processes=8), isolation=isolation
)
ended.set()
watcher.join()
assert bomb["add"].reason == "timeout", bomb
# This one, 8, the tests' 2, and a bubblewrap outside each sandbox.
assert 8 < max(counts) <= 1 + 8 + 2 + 2, max(counts)
"""

WITHIN_REACH = """
if [ -n "$HIDDEN" ]; then
    mount --bind "$PREFIX" "$HOLD"
    mount -t tmpfs -o mode=755 none "$HIDDEN"
    mkdir -p "$PREFIX"
    mount --bind "$HOLD" "$PREFIX"
fi
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups "$PYTHON" -B -c "$PROGRAM"
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_who_is_not_root_has_sandboxes_too(isolation: Bubblewrap, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("setpriv") is None:
        pytest.skip("util-linux (unshare, setpriv) is not installed")
    # In mounts of its own, where everybody may reach Python: it is often below root's home directory.
    prefix = Path(sys.base_prefix)
    hidden = [place for place in reversed(prefix.parents) if not place.stat().st_mode & 0o001]
    variables = {
        "HIDDEN": str(hidden[0]) if hidden else "",
        "HOLD": str(tmp_path),
        "PREFIX": str(prefix),
        "PROGRAM": AS_A_USER,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(REPOSITORY),
        "USER_ID": str((isolation.user or 0) + 100),
    }
    command = [unshare, "--mount", "sh", "-ec", WITHIN_REACH]
    done = subprocess.run(
        command, env=os.environ | variables, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
