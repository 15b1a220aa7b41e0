"""`python -m bai_pipeline.jobs SPEC_URI`: run one job; what a subprocess or a pod is started with.

The store's root is in `BAI_STORE`. Under Dagster, messages also travel over Pipes.
"""

import ctypes
import logging
import os
import signal
import sys
from contextlib import ExitStack
from typing import NoReturn

from bai_pipeline.errors import BaiPipelineError, StoreUnavailable, TrainingInterrupted
from bai_pipeline.jobs.ranks import Node, follow, is_follower, is_launcher, launch, meeting
from bai_pipeline.jobs.runner import EXIT_CRASHED, EXIT_INTERRUPTED, EXIT_REFUSED, read_spec, run_job
from bai_pipeline.store import open_store

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run the job; returns the exit code: 0 done, 1 crashed, 2 not a valid call, 3 refused, 75 interrupted."""
    if len(arguments) != 1 or "BAI_STORE" not in os.environ:
        print(
            "usage: BAI_STORE=LOCATION python -m bai_pipeline.jobs store:jobs/IDENTITY/spec-DIGEST.json; a location is "
            "DIRECTORY, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX",
            file=sys.stderr,
        )
        return 2
    die_with_parent()
    end_when_told()
    if "RANK" not in os.environ:
        try:
            spec = read_spec(arguments[0], open_store(os.environ["BAI_STORE"]))
            node = Node.of(os.environ, spec.execution.ranks) if is_launcher(spec) else None
        except BaiPipelineError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return EXIT_CRASHED if isinstance(error, StoreUnavailable) else EXIT_REFUSED
        if node is not None:
            return launch(arguments[0], node)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logger = logging.getLogger("bai_pipeline.jobs")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with ExitStack() as stack:
        handler: logging.Handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        if "DAGSTER_PIPES_CONTEXT" in os.environ and not is_follower():
            from dagster_pipes import open_dagster_pipes

            pipes = stack.enter_context(open_dagster_pipes())
            logger.addHandler(_Forward(pipes.log))
        try:
            store = open_store(os.environ["BAI_STORE"])
            spec = read_spec(arguments[0], store)
            if is_follower():
                follow(spec, store)
            else:
                run_job(spec, store, logger, meeting(spec))
        except TrainingInterrupted as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return EXIT_INTERRUPTED
        except StoreUnavailable as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return EXIT_CRASHED
        except BaiPipelineError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return EXIT_REFUSED
    return 0


def die_with_parent() -> None:
    """Where BAI_DIE_WITH_PARENT says so: a killed orchestrator must leave no orphan behind.

    On Linux; elsewhere the orchestrator's own clean-up serves.
    """
    if os.environ.get("BAI_DIE_WITH_PARENT") == "1":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_when_told() -> None:
    """Let SIGTERM end this process, where it would not.

    The first process of a container gets no signal that it does not handle. And Dagster ignores SIGTERM where a shell
    started it in the background, with SIGINT ignored (it restores both to what SIGINT was): whom it starts does, too.

    Whoever saves a state first, as PPO does, handles it by itself; so does the launcher of ranks.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    elif signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end(code: int) -> NoReturn:
    """End the process now: what it has said is written, and neither Python nor C++ cleans up.

    For a rank whose work is done: threads of its process group could abort it in the middle of that ("terminate called
    without an active exception"), and the job would count as crashed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Forward(logging.Handler):
    """Passes records on to another logger, with their level."""

    def __init__(self, target: logging.Logger) -> None:
        super().__init__()
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        self._target.log(record.levelno, record.getMessage())


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    if "RANK" in os.environ:
        end(exit_code)
    sys.exit(exit_code)
