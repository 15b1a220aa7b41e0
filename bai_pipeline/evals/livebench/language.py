"""Language: Connections puzzles, films' plots in the right order, typos.

Source: https://github.com/LiveBench/LiveBench, livebench/process_results/writing.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.livebench.extraction import between, boxed, edit_distance, no_answer, without_latex

GROUP = 4
"""Words of a group in a Connections puzzle."""
LENGTHS = 20
"""A sentence that is so many times longer than another is not compared with it: their ratio is below 0.1."""

_TAGS = (("<solution>", "</solution>"), ("</solution>", "</solution>"))
_PLOT = ("<PLOT_SUMMARY>", "</PLOT_SUMMARY>")
_NO_SENTENCES = frozenset({"", "</PLOT_SUMMARY>", "**End of Plot Summary**"})
_SEPARATOR = " --- "


def connections(row: Row, response: str) -> Grade:
    """Words in groups of four: the share of the true groups that are among the response's.

    The list of words is in <solution> tags (of several, the last so many words as there should be), else in the last
    box; neither the order of the groups nor that within one counts. A group that is repeated counts once.
    """
    truth = row["ground_truth"].split(",")
    lists = next(filter(None, (between(response, *tags, lines=lines) for tags in _TAGS for lines in (False, True))), [])
    if not lists and "\\boxed" in response and (box := boxed(response)) is not None:
        lists = [without_latex(box)]
    if not any(text.strip() for text in lists):
        return no_answer("no list of words")
    words = [word for text in lists for word in text.replace("\n", "").split(",")]
    if len(lists) > 1:
        words = words[-len(truth) :]
    groups = _groups(truth)
    right = len(groups & _groups(words))
    return Grade(right / len(groups), ",".join(words).strip(), detail=f"{right} of {len(groups)} groups right")


def plot_unscrambling(row: Row, response: str) -> Grade:
    """Sentences in order: 1 − d / n, of the edit distance d of the order and the n true sentences.

    The order is that of the response's sentences that are most like the true ones, by difflib's ratio. The plot is what
    <PLOT_SUMMARY> tags hold, or follows the opening one, or the whole response.
    """
    truth = _sentences(row["ground_truth"])
    plot = _plot(response)
    sentences = _sentences(plot)
    if not sentences:
        return no_answer("no sentence")
    places = {sentence: place for place, sentence in reversed(list(enumerate(sentences)))}
    order = [places[_most_like(sentence, list(places))] for sentence in truth]
    distance = edit_distance(range(len(truth)), order)
    return Grade(1 - distance / len(truth), plot.strip(), detail=f"distance {distance} of {len(truth)} sentences")


def typos(row: Row, response: str) -> Grade:
    """The corrected text: 1 if the true one is in it, letter by letter.

    It is in <solution> tags, else between the last two of the separators " --- " on a line, else the whole response.
    """
    if tagged := between(response, *_TAGS[0]):
        text = tagged[-1]
    else:
        untagged = response.replace("<solution>", "").replace("</solution>", "")
        text = next((t for line in untagged.split("\n") if (t := _separated(line)) is not None), untagged)
    text = " ".join(filter(None, text.strip().split("\n")))
    if not text:
        return no_answer("no text")
    return Grade(float(row["ground_truth"] in text), text)


def _groups(words: Sequence[str]) -> set[frozenset[str]]:
    """Consecutive words in groups of four different ones; the last may have fewer."""
    groups: list[set[str]] = [set()]
    for word in words:
        if len(groups[-1]) == GROUP:
            groups.append(set())
        groups[-1].add(word.strip().lower())
    return {frozenset(group) for group in groups}


def _plot(response: str) -> str:
    opening, closing = _PLOT
    start = response.find(opening)
    if start < 0:
        return response
    end = response.rfind(closing)
    inside = start + len(opening)
    return response[inside : end if end >= inside else None]


def _sentences(text: str) -> list[str]:
    return [sentence for part in text.split(".") if (sentence := part.strip()) not in _NO_SENTENCES]


def _most_like(sentence: str, candidates: Sequence[str]) -> str:
    """The candidate with the highest difflib ratio to a sentence, of equals the one that sorts last.

    As difflib.get_close_matches finds it, but a ratio is computed only where its upper bounds leave room.
    """
    if sentence in candidates:
        return sentence
    if len(candidates) == 1:
        return candidates[0]
    matcher = SequenceMatcher(b=sentence)
    best = (-1.0, "")
    for candidate in sorted(candidates, key=lambda text: abs(len(text) - len(sentence))):
        matcher.set_seq1(candidate)
        if len(candidate) > LENGTHS * len(sentence):
            best = max(best, (matcher.real_quick_ratio(), candidate))
        elif matcher.real_quick_ratio() >= best[0] and matcher.quick_ratio() >= best[0]:
            best = max(best, (matcher.ratio(), candidate))
    return best[1]


def _separated(line: str) -> str | None:
    """What stands after the last separator of a line that another follows, up to the next."""
    start = line.rfind(_SEPARATOR, 0, max(line.rfind(_SEPARATOR), 0))
    inside = start + len(_SEPARATOR)
    return line[inside : line.find(_SEPARATOR, inside)] if start >= 0 else None
