"""Grades that a judge model gives: pairs of answers (ArenaHard) and free-form answers (MixEval-Hard).

Importing this package opens no connection and loads no HTTP client.
"""

from bai_pipeline.eval_settings import JudgeSettings
from bai_pipeline.evals.judging.arena import ArenaScores, LengthControl, WinRate, arena_scores, length_controlled
from bai_pipeline.evals.judging.costs import CostReport
from bai_pipeline.evals.judging.errors import BudgetExceeded, JudgeError
from bai_pipeline.evals.judging.free_form import FreeFormGrade, FreeFormItem, FreeFormResult, judge_free_form
from bai_pipeline.evals.judging.pairs import PairGrade, PairQuestion, PairwiseResult, judge_pairs

__all__ = [
    "ArenaScores",
    "BudgetExceeded",
    "CostReport",
    "FreeFormGrade",
    "FreeFormItem",
    "FreeFormResult",
    "JudgeError",
    "JudgeSettings",
    "LengthControl",
    "PairGrade",
    "PairQuestion",
    "PairwiseResult",
    "WinRate",
    "arena_scores",
    "judge_free_form",
    "judge_pairs",
    "length_controlled",
]
