"""Grades of mathematical answers."""

from bai_pipeline.evals.grades import Grade
from bai_pipeline.mathematics import gold_expressions, last_expressions, same_value


def grade_answer(answer: str, gold: str) -> Grade:
    """Whether the last mathematical expression of an answer equals the reference, by value.

    Args:
        answer: without its thinking part.
        gold: a number or an expression in LaTeX.
    """
    found = last_expressions(answer)
    if not found:
        return Grade(0.0, None)
    return Grade(float(same_value(gold_expressions(gold), found)), str(found[-1]))
