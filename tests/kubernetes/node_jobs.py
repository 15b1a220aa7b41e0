"""Jobs on the nodes of a TrainJob, without torch: the first node runs a stand-in job, the others wait with it.

`python -m tests.kubernetes.node_jobs URI` is started on every node. What a real job's ranks do is tested with real
ranks elsewhere.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

from bai_pipeline.errors import BaiPipelineError, TrainingInterrupted
from bai_pipeline.jobs import runner
from bai_pipeline.jobs.context import JobContext, Outcome
from bai_pipeline.store import Store
from tests.resources import stand_in_jobs

COMMAND = ("python", "-m", "tests.kubernetes.node_jobs")


def pretrain(job: JobContext) -> Outcome:
    """The stand-in job that the settings name."""
    function = getattr(stand_in_jobs, "sleep" if job.spec.settings["act"] == "node_crash" else job.spec.settings["act"])
    outcome: Outcome = function(job)
    return outcome


def first(uri: str, store: Store) -> int:
    logger = logging.getLogger("bai_pipeline.jobs")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.setLevel(logging.INFO)
    runner.KINDS["pretrain"] = "tests.kubernetes.node_jobs:pretrain"
    try:
        runner.run_job(runner.read_spec(uri, store), store, logger)
    except TrainingInterrupted:
        return runner.EXIT_INTERRUPTED
    except BaiPipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return runner.EXIT_REFUSED
    return 0


def other(uri: str, store: Store) -> int:
    """Wait for the result; `refuse` and `node_crash` take the connection away."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    spec = runner.read_spec(uri, store)
    print(f"node {os.environ['PET_NODE_RANK']} of {os.environ['PET_NNODES']}", flush=True)
    if spec.settings["act"] in ("refuse", "node_crash"):
        raise ConnectionError("lost its connection")
    while runner.read_result(spec, store) is None:
        if told:
            return runner.EXIT_INTERRUPTED
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    main = first if os.environ["PET_NODE_RANK"] == "0" else other
    sys.exit(main(sys.argv[1], Store(Path(os.environ["BAI_STORE"]))))
