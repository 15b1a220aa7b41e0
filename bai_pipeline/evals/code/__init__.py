"""Grading of untrusted programs: sandboxes, and the tests that are run in them."""

from bai_pipeline.evals.code.extraction import extract_code
from bai_pipeline.evals.code.grading import Reason, Submission, Verdict, grade_program, grade_programs
from bai_pipeline.evals.code.isolation import Isolation, find_isolation
from bai_pipeline.evals.code.limits import Limits

__all__ = [
    "Isolation",
    "Limits",
    "Reason",
    "Submission",
    "Verdict",
    "extract_code",
    "find_isolation",
    "grade_program",
    "grade_programs",
]
