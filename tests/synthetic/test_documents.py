import random

import pytest

from bai_pipeline.settings import WorldSettings
from bai_pipeline.synthetic.documents import chat_answer, facts, noise, sample_document
from bai_pipeline.synthetic.tasks import Problem, is_held_out, parse_prompt, verify
from bai_pipeline.synthetic.tokenizer import VOCABULARY


def test_facts_are_true() -> None:
    rng = random.Random(0)
    for _ in range(50):
        for left, operator, right, _, value in (fact.split() for fact in facts(rng).split(",")[:-1]):
            expected = {
                "+": (int(left) + int(right)) % 10,
                "-": (int(left) - int(right)) % 10,
                "?": max(int(left), int(right)),
            }
            assert int(value) == expected[operator]


def test_noise_is_letters_and_punctuation() -> None:
    assert set(noise(random.Random(0)).split()) <= set("ghijkl.,;")


def test_documents_are_of_all_kinds_and_of_words_of_the_vocabulary(world: WorldSettings) -> None:
    rng = random.Random(0)
    documents = [sample_document(world, rng) for _ in range(500)]
    assert {word for document in documents for word in document.split(" ")} <= set(VOCABULARY)
    chats = [document for document in documents if document.startswith("<user> ")]
    worked = [document for document in documents if " : " in document]
    assert len(chats) > 50
    assert len(worked) > 150
    assert not any("<think>" in document for document in worked)
    assert any("<think>" in chat for chat in chats)


def test_no_document_states_a_held_out_problem(world: WorldSettings) -> None:
    rng = random.Random(1)
    found = 0
    for _ in range(2000):
        document = sample_document(world, rng)
        stated = document.removeprefix("<user> ").split(" : ")[0].split(" <asst> ")[0]
        problem = parse_prompt(stated)
        if problem is not None:
            found += 1
            assert not is_held_out(problem, world)
    assert found > 1000


@pytest.mark.parametrize(
    ("kind", "right"), [("direct", True), ("brief", True), ("long", True), ("think", True), ("noise", False)]
)
def test_every_chat_answer_but_noise_is_right(world: WorldSettings, kind: str, right: bool) -> None:
    only = world.model_copy(update={"chat_mix": {kind: 1.0}})
    assert verify(chat_answer(Problem("sum", (4, 7)), only, random.Random(0)), "1") is right
