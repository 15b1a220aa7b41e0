import pytest

from bai_pipeline.evals.livebench.extraction import between, boxed, edit_distance, last_line, solutions


def test_a_tag_is_closed_on_its_line_unless_lines_may_break() -> None:
    text = "<a>1\n<a>2</a> <a>3\n</a>"
    assert between(text, "<a>", "</a>") == ["2"]
    assert between(text, "<a>", "</a>", lines=True) == ["1\n<a>2", "3\n"]


def test_equal_marks_pair_from_left_to_right() -> None:
    assert between("**a** b **c** **d", "**", "**") == ["a", "c"]
    assert between("****", "**", "**") == [""]


def test_a_closing_tag_may_stand_for_an_opening_one() -> None:
    assert solutions("</solution>a</solution>") == ["a"]
    assert solutions("<solution>a</solution> b</solution>") == ["a"]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("$\\boxed{1} and \\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("\\fbox{2} \\boxed{1}", "1"),
        ("\\fbox{$2$}", "2"),
        ("\\boxed 5$ and more", "5"),
        ("\\boxed{1", None),
        ("\\boxed5", None),
        ("1", None),
    ],
)
def test_the_last_box_counts(text: str, content: str | None) -> None:
    assert boxed(text) == content


def test_the_last_line_is_not_blank() -> None:
    assert last_line("a\nb \n\n ") == "b"
    assert last_line("") == ""


def test_the_edit_distance_counts_insertions_deletions_and_replacements() -> None:
    assert edit_distance("kitten", "sitting") == edit_distance("sitting", "kitten") == 3
    assert edit_distance([1, 2, 3], []) == 3
    assert edit_distance([], []) == 0
