from typing import Any

import pytest

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.livebench import grade
from tests.evals.livebench.rows import CTA, RIGHT, TABLEJOIN, TABLEREFORMAT

TABLES = {
    "CSV": "name,size\nash,1.5\nelm,\n",
    "TSV": "name\tsize\nash\t1.5\nelm\t\n",
    "JSON": '{"7":{"name":"ash","size":1.5},"3":{"name":"elm","size":null}}',
    "JSONL": '{"name":"ash","size":1.5}\n{"name":"elm","size":null}\n',
    "HTML": "<table><thead><tr><th>name</th><th>size</th></tr></thead><tbody>"
    "<tr><td>ash</td><td>1.5</td></tr><tr><td>elm</td><td></td></tr></tbody></table>",
}


def reformatted(form: str) -> dict[str, Any]:
    question = f"Please convert the Input Table from XML format to {form} format. Please respond only with the table."
    return TABLEREFORMAT | {"turns": [question], "ground_truth": TABLES[form]}


@pytest.mark.parametrize("row", [CTA, TABLEJOIN, TABLEREFORMAT])
def test_a_right_answer_scores_one(row: dict[str, Any]) -> None:
    assert grade(row, RIGHT[row["question_id"]]).score == 1


@pytest.mark.parametrize("row", [CTA, TABLEJOIN, TABLEREFORMAT])
@pytest.mark.parametrize("response", ["", " \n", "```\n```"])
def test_a_response_without_an_answer_scores_zero(row: dict[str, Any], response: str) -> None:
    given = grade(row, response)
    assert (given.score, given.extracted) == (0, None)


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("Case_Number.", 1),
        ("The class is 'case_number'", 1),
        ("$\\boxed{\\text{case\\_number}}$", 1),
        ("case_number is the class", 0),
        ("id", 0),
        ("\\boxed{case_number", 0),
    ],
)
def test_a_class_is_what_the_response_ends_with(response: str, score: int) -> None:
    assert grade(CTA, response).score == score


@pytest.mark.parametrize(
    ("mapping", "score"),
    [
        # tp 1, fp 2 (city, street), fn 2 (city, name): 2 / (2 + 2 + 2)
        ("{'zip': 'a1', 'city': 'c3', 'street': 'b2'}", 0.33),
        ("{'zip': 'a1', 'city': 'b2', 'name': None}", 0.8),  # tp 2, fn 1: 4 / 5
        ("{'zip': 'a1', 'city': 'b2', 'name': 'c3', 'street': 'd4'}", 0.86),  # tp 3, fp 1: 6 / 7
        ("{'street': 'd4'}", 0),
    ],
)
def test_a_mapping_is_scored_by_f1(mapping: str, score: float) -> None:
    assert grade(TABLEJOIN, mapping).score == score


@pytest.mark.parametrize(
    "response",
    [
        "Sure:\n```python\n{'zip': 'a1', 'city': 'b2',\n'name': 'c3'}\n```\nDone.",
        '```json\n{"zip": "a1", "city": "b2", "name": "c3", "street": null}\n```',
        "```\n{'zip': 'a1', 'city': 'b2', 'name': 'c3'}\n```",
        "<solution>\n{'zip': 'a1', 'city': 'b2', 'name': 'c3'}\n</solution>",
        "\\boxed{\\{'zip': 'a1', 'city': 'b2', 'name': 'c3'\\}}",
    ],
)
def test_a_mapping_may_be_written_in_many_ways(response: str) -> None:
    assert grade(TABLEJOIN, response).score == 1


@pytest.mark.parametrize("response", ["['zip']", "{'zip': print('x')}", "{[1]: 2}", "{'zip'", "(" * 50_000])
def test_what_is_no_dictionary_is_no_mapping(response: str) -> None:
    given = grade(TABLEJOIN, response)
    assert (given.score, given.extracted) == (0, None)


@pytest.mark.parametrize("form", list(TABLES))
def test_every_format_is_read(form: str) -> None:
    row = reformatted(form)
    assert grade(row, TABLES[form]).score == 1
    assert grade(row, TABLES[form].replace("1.5", "1.6")).score == 0
    assert grade(row, TABLES[form].replace("ash", "fir")).score == 0
    assert grade(row, TABLES[form].replace("size", "length")).score == 0
    assert grade(row, "There is no table.").score == 0


@pytest.mark.parametrize(
    ("form", "response"),
    [
        ("CSV", "size,name\n1.50, ash \n,elm"),  # other order, white space
        ("CSV", "```csv\nname,size\nash,1.5\nelm,\n```"),
        ("CSV", "Here is the table in CSV format:\nname,size\nash,1.5\nelm,"),
        ("CSV", "As you wish:\n\nname,size\nash,1.5\nelm,\n\nI hope, that, this, helps"),
        ("CSV", "<solution>\nname,size\nash,1.500000001\nelm,\n</solution>"),
        ("JSON", '```json\n[{"name":"ash","size":1.5},{"name":"elm","size":null}]\n```'),
        ("JSONL", 'The lines:\n{"name":"ash","size":1.5}\n{"name":"elm","size":null}\nDone.'),
        ("TSV", "As you wish:\nwith tabs\nname\tsize\nash\t1.5\nelm\t\n"),
    ],
)
def test_a_table_may_be_written_in_many_ways(form: str, response: str) -> None:
    assert grade(reformatted(form), response).score == 1


@pytest.mark.parametrize("response", ["name,size\nash,1.5", "name,size\nelm,\nash,1.5", "name,size,x\nash,1.5,\nelm,,"])
def test_rows_their_order_and_the_columns_count(response: str) -> None:
    assert grade(reformatted("CSV"), response).score == 0


def test_a_truth_that_is_no_table_is_an_error() -> None:
    with pytest.raises(EvaluationError, match=r"question tablereformat: expected a ground truth .* reads as jsonl"):
        grade(reformatted("JSONL") | {"ground_truth": "name: ash"}, "x")
