"""Reasoning: zebra puzzles, webs of lies, shapes in space.

Source: https://github.com/LiveBench/LiveBench, livebench/process_results/reasoning.
"""

from collections.abc import Iterator
from itertools import product

from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.livebench.extraction import between, bold, boxed, last_line, no_answer, solutions, without_latex

_VERDICTS = ("yes", "no", "unknown")
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_SHAPES = ("tetrahedra", "tetrahedron", "triangle", "square")


def zebra_puzzle(row: Row, response: str) -> Grade:
    """A list of answers: the mean of the share that is right and of 1 if all are, else 0.

    An answer is right if the true one is in it, without regard to case and with hyphens as spaces. The list is in
    <solution> tags (of several, the last so many answers as there should be), else in the last box, else the last line
    if that has the right number of commas.
    """
    truth = row["ground_truth"].split(",")
    lists = solutions(response)
    if not lists and (box := boxed(response)) is not None:
        lists = [without_latex(box)]
    if not lists and (line := last_line(response)).count(",") == len(truth) - 1:
        lists = [line]
    if not any(text.strip() for text in lists):
        return no_answer("no list of answers")
    answers = [answer for text in lists for answer in text.split(",")]
    if len(lists) > 1:
        answers = answers[-len(truth) :]
    right = sum(
        true.strip().lower().replace("-", " ") in answer.strip().lower().replace("-", " ").replace("position", "")
        for true, answer in zip(truth, answers, strict=False)
    )
    score = ((right == len(truth)) + right / len(truth)) / 2
    return Grade(score, ",".join(answers).strip(), detail=f"{right} of {len(truth)} answers right")


def web_of_lies(row: Row, response: str) -> Grade:
    """Three words, yes or no: all right, or nothing.

    They are in <solution> tags, else the last three of these words in bold, else in the last box (or \\textbf{}), else
    the combination as "yes, no, yes" whose first mention comes last.
    """
    truth = row["ground_truth"].lower()
    answer = _verdicts(response)
    if answer is None or not answer.strip():
        return no_answer("no list of yes and no")
    contains = truth in answer and sum(answer.count(word) for word in _VERDICTS) == 3
    return Grade(float(answer == truth or contains), answer)


def spatial(row: Row, response: str) -> Grade:
    """A number or the name of a shape: one of the last three bold passages, the last box, or the whole response.

    In bold, a number may be spelled out, and some shapes may have a word before them: an "equilateral triangle" is a
    triangle, a "circle square triangle" is, by its length, not.
    """
    truth = row["ground_truth"]
    if response == truth:
        return Grade(1.0, response)
    passages = [passage.strip().lower() for passage in bold(response)[-3:]]
    for passage in reversed(passages):
        if _is_shape(truth.strip().lower(), passage):
            return Grade(1.0, passage)
    if (box := boxed(response)) is not None:
        for command in ("\\textbf{", "\\mathbf{", "\\text{", "}"):
            box = box.replace(command, "")
        return Grade(float(box == truth), box)
    return Grade(0.0, passages[-1]) if passages else no_answer("nothing in bold or in a box")


def _verdicts(response: str) -> str | None:
    tagged = solutions(response)
    if tagged and tagged[-1].strip():
        return tagged[-1]
    bold_words = [
        word
        for passage in between(response, "**", "**")
        for part in passage.split()
        if (word := part.lower().replace(",", "").replace(".", "")) in _VERDICTS
    ]
    if bold_words and not tagged:
        return ", ".join(bold_words[-3:])
    if (box := boxed(response.replace("\\textbf{", "\\boxed{"))) is not None:
        return box
    return None if tagged else max(_first_mentions(response.lower()), default=(-1, None))[1]


def _first_mentions(text: str) -> Iterator[tuple[int, str]]:
    for words in product(_VERDICTS, repeat=3):
        combination = ", ".join(words)
        if (place := text.find(combination)) >= 0:
            yield place, combination


def _is_shape(truth: str, passage: str) -> bool:
    if passage == truth or (passage in _NUMBERS and str(_NUMBERS.index(passage)) == truth):
        return True
    return truth in _SHAPES and truth in passage and len(passage) < 2 * len(truth) + 5
