"""Who merges what: each tensor once, and one thread to a file as long as there are files."""

from pathlib import Path

from bai_pipeline.checkpoints import TensorInfo
from bai_pipeline.merging.agenda import Agenda


def tensor(name: str, size: int) -> TensorInfo:
    return TensorInfo(name, "F32", (size,), Path("unused"), 0)


LAYOUT = {
    "one": [tensor("a", 1), tensor("b", 30), tensor("c", 2)],
    "two": [tensor("d", 20), tensor("e", 10)],
    "none": [],
}


def test_a_thread_stays_with_its_file_and_takes_the_largest_tensor_first() -> None:
    agenda, taken, file = Agenda(LAYOUT), [], None
    while (next_one := agenda.take(file)) is not None:
        file = next_one[0]
        taken.append(next_one)
    assert taken == [("one", "b"), ("one", "c"), ("one", "a"), ("two", "d"), ("two", "e")]


def test_a_second_thread_takes_another_file_and_shares_one_only_at_the_end() -> None:
    agenda = Agenda(LAYOUT)
    assert agenda.take(None) == ("one", "b")
    assert agenda.take(None) == ("two", "d")
    assert agenda.take("two") == ("two", "e")
    assert agenda.take("two") == ("one", "c")
    assert agenda.take("one") == ("one", "a")
    assert agenda.take("one") is None
    assert agenda.take("one") is None


def test_nothing_is_left_of_an_agenda_that_was_cleared() -> None:
    agenda = Agenda(LAYOUT)
    agenda.take(None)
    agenda.clear()
    assert agenda.take("one") is None
