"""Programs of LiveBench's coding questions, run on their tests in the sandbox."""

from collections.abc import Callable, Sequence
from inspect import getsource

from bai_pipeline.evals.code import Isolation, Limits, Submission, grade_programs
from bai_pipeline.evals.livebench import TIME_LIMIT, TestCase, coding

_SCRIPT = '''
import contextlib, io, sys

def run_script(text):
    """What the script prints when it reads `text`."""
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(SCRIPT, "program", "exec"), {{"__name__": "__main__"}})
        except SystemExit as end:
            if end.code not in (None, 0):
                raise RuntimeError(f"the program exited with {{end.code!r}}")
    return printed.getvalue()

SCRIPT = {source!r}
'''


def runner(isolation: Isolation) -> Callable[[str, Sequence[TestCase]], tuple[bool, str]]:
    """A `RunCode` in sandboxes of this isolation."""

    def run(program: str, tests: Sequence[TestCase]) -> tuple[bool, str]:
        called = {test.function for test in tests} - {None}
        submission = _functions(program, tests) if called else _script(program, tests)
        seconds = TIME_LIMIT * len(tests)
        limits = Limits(wall_seconds=seconds, cpu_seconds=int(seconds) + 1)
        (verdicts,) = grade_programs([submission], workers=1, isolation=isolation, limits=limits)
        verdict = verdicts["tests"]
        return verdict.passed, f"{verdict.reason} {verdict.detail}".strip()

    return run


def _functions(program: str, tests: Sequence[TestCase]) -> Submission:
    names = {str(test.function) for test in tests}
    lines = []
    for test in tests:
        arguments = ", ".join(repr(value) for value in test.arguments())
        lines += [
            f"found = find({test.function!r})({arguments})",
            "found = list(found) if isinstance(found, tuple) else found",
            f"assert found == json.loads({test.output!r}), {test.input[:100]!r}",
        ]
    find = "def find(name):\n    return getattr(Solution(), name) if 'Solution' in globals() else globals()[name]\n"
    return Submission(program, {"tests": "\n".join(["import json", find, *lines])}, names={"Solution", *names})


def _script(program: str, tests: Sequence[TestCase]) -> Submission:
    compared = "\n\n".join(getsource(function) for function in (coding.numbers_of, coding.prints_same))
    lines = [f"assert prints_same(run_script({test.input!r}), {test.output!r}), {test.input[:100]!r}" for test in tests]
    return Submission(
        _SCRIPT.format(source=program),
        {"tests": "\n".join(["from decimal import Decimal, InvalidOperation", compared, *lines])},
        names={"run_script"},
    )
