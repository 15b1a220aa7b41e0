"""The sandbox of these tests."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bai_pipeline.evals.code.bubblewrap import UNPRIVILEGED, Bubblewrap, find_bubblewrap


@pytest.fixture(scope="session")
def isolation() -> Bubblewrap:
    """Bubblewrap; where root starts it, as a user of this process's own, so that what is left can be told."""
    found = find_bubblewrap()
    return found if found.user is None else dataclasses.replace(found, user=UNPRIVILEGED + 1 + os.getpid() % 100)


def processes_of(isolation: Bubblewrap) -> list[str]:
    """Command lines of the processes in sandboxes of this isolation; of a user's sandboxes when root is not here."""
    return list(_commands(isolation))


def _commands(isolation: Bubblewrap) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            owner = entry.stat().st_uid
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if owner == isolation.user or (isolation.user is None and "bai_pipeline.evals.code.inside" in command):
            yield command
