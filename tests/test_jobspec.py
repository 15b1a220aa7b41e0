"""A job's identity: what is hashed and what is not."""

from dataclasses import replace

import pytest

from bai_pipeline.errors import JobError
from bai_pipeline.jobspec import Execution, JobSpec, canonical_json

SPEC = JobSpec(
    "ppo", "1", {"actor": "aa", "prompts": "bb"}, {"lam": 0.95}, 0, Execution(until_step=20, checkpoint_every=5)
)


def test_execution_is_not_part_of_the_identity() -> None:
    other = replace(SPEC, execution=Execution(inputs={"actor": "file:///x"}, until_step=40, ranks=8, zero_stage=3))
    assert other.identity == SPEC.identity


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "merge"},
        {"code_version": "2"},
        {"inputs": {"actor": "ab", "prompts": "bb"}},
        {"settings": {"lam": 1.0}},
        {"seed": 1},
    ],
)
def test_everything_that_determines_the_result_is_part_of_the_identity(change: dict[str, object]) -> None:
    assert replace(SPEC, **change).identity != SPEC.identity  # type: ignore[arg-type]  # one field a case


def test_the_identity_does_not_depend_on_the_order_of_keys() -> None:
    assert replace(SPEC, inputs={"prompts": "bb", "actor": "aa"}).identity == SPEC.identity


def test_a_specification_survives_its_own_json() -> None:
    assert JobSpec.from_json(SPEC.to_json()) == SPEC


@pytest.mark.parametrize("text", ["[]", '{"version":2}', '{"version":1,"kind":"ppo"}'])
def test_what_is_not_a_specification_is_refused(text: str) -> None:
    with pytest.raises(JobError):
        JobSpec.from_json(text)


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": float("nan")})
