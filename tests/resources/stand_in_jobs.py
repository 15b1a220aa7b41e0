"""Jobs that end in every way a job can end; `python -m tests.resources.stand_in_jobs` runs them as real ones."""

import os
import signal
import sys
import time

from bai_pipeline.errors import DataError, TrainingInterrupted
from bai_pipeline.jobs import runner
from bai_pipeline.jobs.__main__ import main
from bai_pipeline.jobs.context import JobContext, Outcome
from bai_pipeline.jobspec import JobSpec

COMMAND = (sys.executable, "-m", "tests.resources.stand_in_jobs")


def spec(kind: str, **settings: object) -> JobSpec:
    return JobSpec(kind, "1", {}, settings)


def answer(job: JobContext) -> Outcome:
    """Ends well, with what a job can report."""
    (job.out / "answer.txt").write_text(str(job.spec.settings.get("text", "42")))
    job.reporter.log("the answer is coming")
    job.reporter.check("finite", True, tensors=3)
    names = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "BAI_STORE")
    return Outcome({"score": 0.5, **{name: os.environ[name] for name in names if name in os.environ}})


def refuse(job: JobContext) -> Outcome:
    raise DataError("prompts.parquet holds no rows; a prompts table needs at least one")


def crash(job: JobContext) -> Outcome:
    for number in range(100):
        job.reporter.log(f"line {number}")
    raise ZeroDivisionError("a bug")


def killed(job: JobContext) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def sleep(job: JobContext) -> Outcome:
    """Says its process id and sleeps for ever; `stubborn` ignores SIGTERM."""
    if job.spec.settings.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (job.work / "pid").write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def vanish(job: JobContext) -> Outcome:
    """Ends with exit code 0 and no result."""
    os._exit(0)


def late(job: JobContext) -> Outcome:
    """Ends with exit code 0 a second before its result is there, as it looks from behind a network file system."""
    if os.fork():
        os._exit(0)
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    time.sleep(1)
    return answer(job)


def count(job: JobContext) -> Outcome:
    """Counts to `steps`, with a checkpoint after every `every` of them, or when it is told to end.

    `work/computed.txt` has a line for every step that was computed. After step `hold_at` it waits for `work/go`.
    """
    checkpoint = job.work / "checkpoint"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    steps, every = job.spec.settings["steps"], job.spec.settings.get("every", 1)
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    with (job.work / "computed.txt").open("a") as computed:
        while step < steps:
            step += 1
            computed.write(f"{step}\n")
            computed.flush()
            stopping = bool(told)
            if step % every == 0 or stopping:
                checkpoint.write_text(str(step))
            job.reporter.log(f"step {step} of {steps}")
            if stopping:
                raise TrainingInterrupted(f"told to end after step {step}")
            time.sleep(job.spec.settings.get("pause", 0.05))
            while step == job.spec.settings.get("hold_at") and not (job.work / "go").exists() and not told:
                time.sleep(0.02)
    (job.out / "computed.txt").write_text((job.work / "computed.txt").read_text())
    return Outcome({"steps": step})


KINDS = {
    f.__name__: f"tests.resources.stand_in_jobs:{f.__name__}"
    for f in (answer, refuse, crash, killed, sleep, vanish, late, count)
}

if __name__ == "__main__":
    runner.KINDS |= KINDS
    sys.exit(main(sys.argv[1:]))
