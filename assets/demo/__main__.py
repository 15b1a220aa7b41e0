"""Materialize what is not fresh, with one live line of progress; then show the tables.

With nothing to do it ends within seconds: neither Dagster nor torch is imported here.
"""

import os
import shutil
import signal
import sys
import time
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from assets.demo.progress import Progress
from assets.demo.runs import Run, Worker
from assets.demo.tasks import TABLES, WAVES, Task, waves
from bai_pipeline.errors import BaiPipelineError, StoreError
from bai_pipeline.plan import Plan
from bai_pipeline.store import open_store
from bai_pipeline.study import load_study

AT_A_TIME = 2
"""Dagster runs at a time: jobs are single-threaded, and a laptop has two cores at least."""
TAIL_LINES = 30
_REPOSITORY = Path(__file__).parents[2]
_POLL = 0.25
_PLAIN_INTERVAL = 30.0
"""Seconds between two lines of progress where nobody watches a terminal."""


class DemoFailure(Exception):
    """A Dagster run failed."""

    def __init__(self, run: Run, progress: Progress) -> None:
        self.run = run
        key = progress.current(run.task)
        directory = progress.job_directory(key) if key else None
        job_log = directory / "log.txt" if directory else None
        self.log = job_log if job_log and job_log.is_file() else run.log
        super().__init__(f"{run.task.name}" + (f" ({key})" if key else ""))


def main() -> int:
    """Run the demo; returns the exit code."""
    console = Console(highlight=False)
    study = load_study()
    plan = Plan(study, open_store(os.environ.get("BAI_STORE") or "store"))
    os.environ["BAI_STORE"] = plan.store.location
    if not any(waves(plan)):
        show(plan, console)
        console.print(f"Study {study.name}: everything is fresh, nothing to do.")
        return 0
    prepare_instance()
    started = time.monotonic()
    try:
        took = materialize(plan, console)
    except DemoFailure as failure:
        tail = failure.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        console.print("\n".join(tail), markup=False)
        console.print(f"The demo stopped: {failure} failed. Its log: {failure.log}; the Dagster run: {failure.run.log}")
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; every run was ended. The next call goes on from here.")
        return 130
    show(plan, console)
    jobs = Progress(plan).spent()
    console.print("Where the time of the jobs went (two at a time):", *jobs, sep="\n  ", soft_wrap=True)
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items())
    console.print(f"Study {study.name}: done in {duration(time.monotonic() - started)}: {parts}.", soft_wrap=True)
    return 0


def prepare_instance() -> None:
    """A Dagster home, so that `dagster dev` with the same DAGSTER_HOME shows the demo's runs."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster_home").resolve())))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(_REPOSITORY / "deploy" / "dagster.yaml", home / "dagster.yaml")


def materialize(plan: Plan, console: Console, *, tables: bool = True) -> dict[str, float]:
    """Run all waves; without `tables` all but the last.

    Returns:
        Seconds of wall time that each wave took; the start of the workers is in the first.

    Raises:
        DemoFailure: a run failed; the others were ended.
        KeyboardInterrupt: ctrl-C or SIGTERM; every run was ended.
    """
    for which in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored, as `&` does
        signal.signal(which, signal.default_int_handler)
    logs = Path(os.environ["DAGSTER_HOME"]) / "demo"
    names = WAVES if tables else WAVES[:-1]
    took: dict[str, float] = {}
    started = time.monotonic()
    workers = [Worker(logs / f"worker-{number}.log") for number in range(AT_A_TIME)]
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for number, name in enumerate(names):
                due = waves(plan)[number : len(names)]
                run_wave(due[0], [task for wave in due[1:] for task in wave], workers, Progress(plan), live)
                took[name] = time.monotonic() - started - sum(took.values())
    except BaseException:
        for worker in workers:
            worker.interrupt()
        raise
    finally:
        for worker in workers:
            worker.close()
    return took


def run_wave(wave: list[Task], later: list[Task], workers: list[Worker], progress: Progress, live: Live) -> None:
    waiting, running, idle = deque(wave), list[Run](), list(workers)
    last_line = 0.0
    while waiting or running:
        while waiting and idle:
            running.append(Run(waiting.popleft(), idle.pop(0)))
        for run, code in [(run, run.poll()) for run in running]:
            if code:
                raise DemoFailure(run, progress)
            if code == 0:
                running.remove(run)
                idle.append(run.worker)
        tasks = [run.task for run in running]
        left = progress.seconds_left(tasks, [*waiting, *later], AT_A_TIME)
        line = " · ".join([*map(progress.describe, tasks), f"about {duration(left)} left"])
        if live.console.is_terminal:
            live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif time.monotonic() - last_line >= _PLAIN_INTERVAL:
            live.console.print(line, soft_wrap=True)
            last_line = time.monotonic()
        time.sleep(_POLL)


def show(plan: Plan, console: Console) -> None:
    """Print both tables, the advice, and where the figures and the report lie."""
    paths = {}
    for asset in TABLES:
        ref = plan.store.read_ref(plan.keys(asset)[0])
        if ref is None:
            raise StoreError(f"{asset} of study {plan.study.name!r} has not been materialized")
        paths[asset] = plan.store.open(ref.object)
    shown = {name: f"{name}.md" for name in ("paradigm_table", "ratio_table")}
    for asset, file in {**shown, "ratio_recommendation": "recommendation.md"}.items():
        text = (paths[asset] / file).read_text(encoding="utf-8")
        console.print(f"\n{text.strip()}\n", markup=False, soft_wrap=True)
    for name, path in [("Figures", paths["dynamics_figures"]), ("Report", paths["report"] / "report.html")]:
        console.print(f"{name}: {path}", markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """ "45 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BaiPipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
