"""Instruction following: news articles paraphrased, simplified, continued or summarized, under checked instructions.

Source: https://github.com/LiveBench/LiveBench, livebench/process_results/instruction_following.
"""

from collections.abc import Iterator

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.livebench.extraction import no_answer
from bai_pipeline.evals.livebench.instructions import INSTRUCTIONS, RELATIONS, given
from bai_pipeline.evals.livebench.schema import Fault, fault


def instruction_following(row: Row, response: str) -> Grade:
    """The mean of the share of instructions that are followed and of 1 if all are, else 0.

    A response of white space follows none.

    Raises:
        EvaluationError: an instruction of a kind that cannot be checked.
    """
    text = response.strip()
    kinds: list[str] = list(row["instruction_id_list"])
    if unknown := [kind for kind in kinds if kind not in INSTRUCTIONS]:
        raise EvaluationError(
            f"question {row['question_id']}: expected instructions of {', '.join(INSTRUCTIONS)}, got "
            f"{', '.join(unknown)}; the question was not graded"
        )
    if not text:
        return no_answer("an empty response")
    failed = [
        kind
        for kind, arguments in zip(kinds, row["kwargs"], strict=True)
        if not INSTRUCTIONS[kind].follows(text, **given(kind, arguments))
    ]
    share = (len(kinds) - len(failed)) / len(kinds)
    return Grade((share + (not failed)) / 2, text, detail=f"not followed: {', '.join(failed)}" if failed else "")


def instruction_following_faults(row: Row) -> Iterator[Fault]:
    """Faults of a row: each instruction has its arguments, of their types."""
    kinds, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(kinds, list) or not kinds or not all(isinstance(kind, str) for kind in kinds):
        yield fault(row, "instruction_id_list", "a list of names")
        return
    if not isinstance(arguments, list) or not all(isinstance(each, dict) for each in arguments):
        yield fault(row, "kwargs", "a list of dictionaries")
        return
    if len(arguments) != len(kinds):
        yield Fault("kwargs", f"one for each of {len(kinds)} instructions", str(len(arguments)))
        return
    for place, (kind, values) in enumerate(zip(kinds, arguments, strict=True)):
        wanted = INSTRUCTIONS[kind].arguments if kind in INSTRUCTIONS else {}
        for name, type_ in wanted.items():
            value = values.get(name)
            if not isinstance(value, type_) or (name == "relation" and value not in RELATIONS):
                expected = f"one of {', '.join(RELATIONS)}" if name == "relation" else type_.__name__
                yield Fault(f"kwargs[{place}].{name}", f"{expected}, for {kind}", repr(value))
