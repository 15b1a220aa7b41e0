"""The same surroundings for every test: offline, one thread, nothing of the user's own, repeatable examples."""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# Before torch or a Hugging Face library is imported: they read these once.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "agg",
}
for name in ("DAGSTER_HOME", "BAI_STUDY", "BAI_STORE", "BAI_COMPUTE"):
    os.environ.pop(name, None)

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile("repeatable")

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

SKIP_IS_FAILURE = os.environ.get("CI", "").lower() in ("1", "true")


@pytest.fixture(autouse=True)
def no_rank() -> Generator[None]:
    """PPO in this process, be it for a fixture of the session, leaves LOCAL_RANK: others would see one rank of many."""
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)
    yield
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that skips itself fails: what is not run there is not known to work."""
    report = yield
    if SKIP_IS_FAILURE and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped in CI: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    if SKIP_IS_FAILURE and report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped in CI: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
