"""Mathematics: competitions, olympiad proofs put in order, hard calculations.

Source: https://github.com/LiveBench/LiveBench, livebench/process_results/math.
"""

import re
from collections.abc import Callable, Iterator

from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.livebench.equivalence import is_equivalent
from bai_pipeline.evals.livebench.extraction import (
    between,
    boxed,
    edit_distance,
    last_line,
    no_answer,
    without_latex,
)
from bai_pipeline.evals.livebench.schema import Fault, fault, question_of

LETTERS = ("A", "B", "C", "D", "E")
AIME_TAIL = 50
"""Characters at the end of a response that the answer to an AIME question must be in."""
FORMULA_LIMIT = 2000
"""Characters of a formula that is still compared."""
VALUE_TAIL = 20
"""Characters that may stand around the value of a right option at the end of a response."""

_OPTION = re.compile(r"\\textbf{\(([A-E])\)\s?}(.*?)(?:\\qquad|\$)")
_DIGITS = re.compile(r"\d+")
_CHOICE_CONTESTS = ("amc", "smc", "updated_amc")
_IDENTIFIER_MARKS = re.compile(r"[${}\\<>]|boxed")

# Lewkowycz et al. 2022, arXiv:2206.14858, appendix D.
_WRAPPERS = tuple(re.compile(rf"\\{command}{{(.*?)}}") for command in ("text", "textbf", "overline"))
_SHORT_FRACTION = re.compile(r"frac([^{])(.)")
_SHORT_ROOT = re.compile(r"sqrt([^{\[])")
_CONSTANT = re.compile(r"\+ ?[cC]")
_SIZES = ("\\left", "\\right", "\\bigl", "\\bigr", "\\Bigl", "\\Bigr", "\\,", "\\;", "\n")


def math_comp(row: Row, response: str) -> Grade:
    """A question of AMC, SMC (a letter) or AIME (three digits): right or wrong."""
    return (_aime if row["subtask"].startswith("aime") else _multiple_choice)(row, response)


def math_comp_faults(row: Row) -> Iterator[Fault]:
    """Faults of a row: the truth is a letter, or three digits by the contest that the subtask names."""
    subtask, truth = row.get("subtask"), row.get("ground_truth")
    if isinstance(subtask, str) and subtask.startswith(_CHOICE_CONTESTS):
        if truth not in LETTERS:
            yield fault(row, "ground_truth", "a letter from A to E")
    elif isinstance(subtask, str) and subtask.startswith("aime"):
        if not isinstance(truth, str) or not re.fullmatch("[0-9]{3}", truth):
            yield fault(row, "ground_truth", "three digits")
    else:
        yield fault(row, "subtask", f"a name that starts with {', '.join(_CHOICE_CONTESTS)} or aime")


def olympiad(row: Row, response: str) -> Grade:
    """Numbers of formulae in the order of a proof's gaps: 1 − d / n, of the edit distance d and the longer length n.

    They follow the last "Answer:" (on its line, else on the next), else are in the last box, else on the last line.
    """
    truth = [int(number) for number in row["ground_truth"].split(",")]
    numbers = _identifiers(response)
    if not numbers:
        return no_answer("no numbers")
    distance = edit_distance(numbers, truth)
    extracted = ", ".join("?" if number is None else str(number) for number in numbers)
    return Grade(1 - distance / max(len(numbers), len(truth)), extracted, detail=f"distance {distance}")


def olympiad_faults(row: Row) -> Iterator[Fault]:
    """Faults of a row: the truth is a list of numbers."""
    truth = row.get("ground_truth")
    if not isinstance(truth, str) or not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", truth):
        yield fault(row, "ground_truth", "numbers with commas between them")


def amps_hard(row: Row, response: str) -> Grade:
    """A formula: right if its difference to the true one simplifies to zero, or to less than 0.001 in size.

    It is what the last box holds, else what the last dollar signs do; a response without either is right if it ends
    with the true formula, letter by letter. LiveBench asks a model about pairs that sympy finds different; here they
    are different.
    """
    text = _CONSTANT.sub("", response)
    for mark, plain in (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), *((size, "") for size in _SIZES)):
        text = text.replace(mark, plain)
    text = text.replace("\\cdot", "*")
    truth = row["ground_truth"].replace("\\left", "").replace("\\right", "")
    truth = truth.replace(" ^", "^").replace("\\ ", "*")
    answer = boxed(text)
    if answer is None and text.count("$") >= 2:
        answer = _last_formula(text)
    if answer is None:
        right = text.removesuffix(".").endswith(truth)
        return Grade(1.0, truth) if right else no_answer("no formula in a box or between dollar signs")
    if len(answer) > FORMULA_LIMIT:
        return no_answer(f"a formula of more than {FORMULA_LIMIT} characters")
    answer = _normalized(answer)
    same = is_equivalent(truth, answer)
    return Grade(float(same is True), answer, detail="" if same is not None else "not to be compared")


def _last_formula(text: str) -> str:
    """What the last dollar signs hold, of equations the right side, of alternatives the last."""
    end = text.rfind("$")
    if text[end - 1] == "$":
        end -= 1
    formula = text[text.rfind("$", 0, end) + 1 : end]
    return formula.rpartition("=")[2].rpartition("\\quad \\text{or} \\quad")[2]


def _multiple_choice(row: Row, response: str) -> Grade:
    """A letter: in <solution> tags, four times in a row, in the last box, on the last line.

    Right is also a response that ends with the value of the right option, as the question writes it.
    """
    truth = row["ground_truth"]
    letters = list(_letters(response))
    if truth in letters:
        return Grade(1.0, truth)
    value = _option(question_of(row), truth)
    if value and value in response[-(VALUE_TAIL + len(value)) :]:
        return Grade(1.0, value)
    return Grade(0.0, letters[0]) if letters else no_answer("no letter")


def _aime(row: Row, response: str) -> Grade:
    tail = response[-AIME_TAIL:]
    if row["ground_truth"] in tail:
        return Grade(1.0, row["ground_truth"])
    numbers = _DIGITS.findall(tail)
    return Grade(0.0, numbers[-1]) if numbers else no_answer(f"no number in the last {AIME_TAIL} characters")


def _letters(response: str) -> Iterator[str]:
    """Every letter that a response can be read to choose."""
    if (tagged := between(response, "<solution>", "</solution>")) and len(set(tagged[-1])) == 1:
        yield tagged[-1][0].upper()
    yield from (letter for letter in LETTERS if 4 * letter in response)
    if (box := boxed(response)) is not None and (letter := without_latex(box).upper()) in LETTERS:
        yield letter
    line = last_line(response).strip()
    in_brackets = line.partition("(")[2].partition(")")[0] if ")" in line else ""
    for text in (line.replace("*", ""), in_brackets):
        if text.upper() in LETTERS:
            yield text.upper()


def _option(question: str, letter: str) -> str:
    """The value of an option in a question; "" if it has none that can be found."""
    values: dict[str, str] = dict(_OPTION.findall(question))
    return values.get(letter, "").strip().strip("$").strip("~")


def _identifiers(response: str) -> list[int | None]:
    """Numbers of formulae; None: what stands between two commas and is no number."""
    readings: tuple[Callable[[str], list[int | None]], ...] = (_after_answer, _in_box, _on_last_line, _anywhere)
    found = (read(response) for read in readings)
    return next((numbers for numbers in found if any(number is not None for number in numbers)), [])


def _after_answer(response: str) -> list[int | None]:
    lines = response.lower().strip().split("\n")
    place = next((place for place in reversed(range(len(lines))) if "answer:" in lines[place]), None)
    if place is None:
        return []
    text = _list_text(lines[place].split("answer:")[1])
    if not text and place + 1 < len(lines):
        text = _list_text(lines[place + 1].replace("answer:", ""))
    return [_integer(_IDENTIFIER_MARKS.sub("", part.strip().split(" ")[-1])) for part in text.split(",")]


def _list_text(text: str) -> str:
    return text.replace("**", "").replace(".", "").strip()


def _in_box(response: str) -> list[int | None]:
    if "\\boxed" not in response:
        return []
    box = boxed(response)
    return [_integer(part) for part in without_latex(response if box is None else box).split(",")]


def _on_last_line(response: str) -> list[int | None]:
    parts = last_line(response).split(",")
    return [_integer(match.group()) for part in parts if (match := _DIGITS.search(part))]


def _anywhere(response: str) -> list[int | None]:
    """The numbers between commas after the last "answer:", up to the first that is not alone."""
    numbers = []
    for place, part in enumerate(response.lower().rpartition("answer:")[2].split(",")):
        match = _DIGITS.search(part)
        if match is not None:
            numbers.append(_integer(match.group()))
        if place > 0 and part.strip() != (match.group() if match is not None else ""):
            break
    return numbers


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _normalized(answer: str) -> str:
    """An answer without wrappers, with braces where LaTeX may leave them out, and digits without commas."""
    answer = answer.rpartition("=")[2]
    if math := between(answer, "$", "$"):
        answer = math[0]
    for wrapper in _WRAPPERS:
        answer = wrapper.sub(r"\1", answer)
    answer = re.sub(r"\\boxed{(.*)}", r"\1", answer)
    answer = _SHORT_ROOT.sub(r"sqrt{\1}", _SHORT_FRACTION.sub(r"frac{\1}{\2}", answer)).replace("$", "")
    digits = answer.replace(",", "")
    return digits if digits.isdigit() else answer
