"""A page as Markdown, for terminals and git."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from bai_pipeline.report.blocks import (
    Block,
    Cell,
    Details,
    Figure,
    Hole,
    Items,
    Links,
    Page,
    Section,
    Table,
    Text,
    Verbatim,
)


def page_markdown(page: Page, beside: Path) -> str:
    """The whole page; pictures are linked relative to the directory `beside`."""
    blocks = [f"# {_escaped(page.title)}"]
    for section in page.sections:
        blocks += _blocks(section, 2, beside)
    return "\n\n".join(blocks) + "\n"


def _blocks(block: Block, level: int, beside: Path) -> Iterator[str]:
    match block:
        case Section(title, blocks) | Details(title, blocks):
            yield f"{'#' * level} {_escaped(title)}"
            for inner in blocks:
                yield from _blocks(inner, level + 1, beside)
        case Text(text):
            yield _escaped(text)
        case Items(items):
            yield "\n".join(f"- {_escaped(item)}" for item in items)
        case Hole():
            yield f"*{_escaped(block.head)} {_escaped(block.sentence)}*"
        case Table():
            yield _table(block)
        case Figure(picture, png):
            path = Path(os.path.relpath(png, beside)).as_posix()
            yield f"{'#' * level} {_escaped(picture.title)}"
            yield f"![{_escaped(picture.title)}]({path})"
            yield f"{_escaped(picture.caption)} [Numbers]({path.removesuffix('.png')}.csv)"
        case Verbatim(text):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            yield f"{fence}text\n{text}\n{fence}"
        case Links(links):
            yield ", ".join(f"[{_escaped(name)}]({target})" for name, target in links)


def _table(table: Table) -> str:
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    lines = [[_line(column.name) for column in table.columns], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    text = _line(cell.text)
    return "; ".join([f"**{text}**" if cell.bold else text, *map(_cell, cell.more)])


def _line(text: str) -> str:
    return " ".join(_escaped(text).split()).replace("|", "\\|")


def _escaped(text: str) -> str:
    """No text begins an HTML element; "p < 0.05" stays as it is."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)
