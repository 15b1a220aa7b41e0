"""A job process leaves the ranks that it met before Python ends."""

import subprocess
import sys
from unittest.mock import Mock

import pytest

from bai_pipeline.errors import DataError, TrainingInterrupted
from bai_pipeline.jobs import __main__ as process

CODE = """
import sys
from bai_pipeline.jobs.ranks import part
part()
assert "torch" not in sys.modules
from bai_pipeline.ppo.ranks import Ranks
part()
Ranks.join()
part()
from torch import distributed
print(distributed.is_initialized(), Ranks.join().size)
"""


def test_who_has_left_is_in_no_group_and_may_join_again() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]


@pytest.mark.parametrize(
    ("outcome", "code", "parted"),
    [(None, 0, 1), (TrainingInterrupted("told to end"), 75, 1), (DataError("refused"), 3, 0)],
)
def test_a_job_parts_when_it_is_done_or_all_have_saved_but_never_waits_for_others_when_it_fails(
    outcome: Exception | None, code: int, parted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Mock()
    monkeypatch.setenv("BAI_STORE", "anywhere")
    for name in ("open_store", "read_spec", "meeting", "is_launcher", "die_with_parent", "end_when_told"):
        monkeypatch.setattr(process, name, Mock(return_value=False))
    monkeypatch.setattr(process, "logging", Mock())
    monkeypatch.setattr(process, "run_job", Mock(side_effect=outcome))
    monkeypatch.setattr(process, "part", part)
    assert process.main(["store:jobs/0/spec-0.json"]) == code
    assert part.call_count == parted
