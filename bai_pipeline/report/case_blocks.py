"""The Markdown of `evals.case_studies` as folded blocks: headings, paragraphs and fenced texts, nothing else."""

import re

from bai_pipeline.report.blocks import Block, Details, Hole, Text, Verbatim

SHOWN = 1_000_000
"""Characters of case studies on the page, at most."""
_FENCE = re.compile(r"(`{3,})\w*$")


def case_blocks(markdown: str) -> list[Block]:
    """What stands before the first question, then each question folded."""
    lead: list[Block] = []
    questions: list[tuple[str, list[Block]]] = []
    for level, text in _pieces(markdown[:SHOWN]):
        target = questions[-1][1] if questions else lead
        if level == 2:
            questions.append((_plain(text), []))
        elif level == 0:
            target.append(Verbatim(text))
        elif level > 2:
            target.append(Text(f"**{_plain(text)}**"))
        elif level < 0:
            target.append(Text(_plain(text)))
    left_out = len(markdown) - SHOWN
    end = [Hole("The rest", f"{left_out:,} characters are in case_studies.md only")] if left_out > 0 else []
    return [*lead, *(Details(title, blocks) for title, blocks in questions), *end]


def _plain(text: str) -> str:
    """A line without the ticks of its inline code (CommonMark 6.1)."""
    return re.sub(r"(?<!`)(`+)(?!`) ?(.+?) ?(?<!`)\1(?!`)", r"\2", text)


def _pieces(markdown: str) -> list[tuple[int, str]]:
    """(level, text): 1 and more for a heading, 0 for a fenced text, -1 for a paragraph."""
    pieces: list[tuple[int, str]] = []
    paragraph: list[str] = []
    fence, fenced = "", list[str]()
    for line in [*markdown.split("\n"), ""]:
        opening = _FENCE.match(line)
        heading = re.match(r"(#{1,6}) (.+)", line)
        if fence and line != fence:
            fenced.append(line)
        elif fence:
            pieces.append((0, "\n".join(fenced)))
            fence = ""
        elif line and not opening and not heading:
            paragraph.append(line)
        else:
            if paragraph:
                pieces.append((-1, " ".join(paragraph)))
                paragraph = []
            if opening:
                fence, fenced = opening[1], []
            if heading:
                pieces.append((len(heading[1]), heading[2]))
    return [*pieces, (0, "\n".join(fenced))] if fence else pieces
