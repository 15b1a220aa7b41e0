"""How the process of a rank ends."""

import subprocess
import sys

CODE = """
import atexit, logging, sys
from bai_pipeline.jobs.__main__ import end
atexit.register(print, "cleaned up")
logging.basicConfig(stream=sys.stderr)
print("said", end="")
print("warned", end="", file=sys.stderr)
end(75)
"""


def test_a_rank_ends_with_its_code_and_all_it_has_said_and_cleans_nothing_up() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (75, "said", "warned")
