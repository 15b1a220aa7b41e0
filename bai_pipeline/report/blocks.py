"""A page as a tree of blocks, which `markdown` and `html` each write in their own way.

Texts are plain, except that `**…**` is bold. Nothing in them is ever markup: both writers escape them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bai_pipeline.report.pictures import Picture

Kind = Literal["", "good", "bad", "unknown"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Hole:
    """Something that belongs here and is not there, and why."""

    what: str
    reason: str

    @property
    def head(self) -> str:
        """What is not there, as a sentence."""
        return f"Not here: {self.what.removesuffix('.')}."

    @property
    def sentence(self) -> str:
        """Why, as a sentence."""
        return f"{self.reason[:1].upper()}{self.reason[1:].removesuffix('.')}."


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    sort: float | str | None = None
    """By which the column is sorted; None: last."""
    bold: bool = False
    kind: Kind = ""
    more: Sequence["Cell"] = ()
    """Further lines of the cell."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    numeric: bool = False
    prose: bool = False
    """Sentences: they wrap, and are given room."""
    wraps: bool = False
    """Words: they wrap."""


@dataclass(frozen=True)
class Table:
    """A table whose columns can be sorted on the page."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Figure:
    """A picture, its PNG, and the CSV beside that."""

    picture: Picture
    png: Path


@dataclass(frozen=True)
class Verbatim:
    """Text as it was written, line by line."""

    text: str


@dataclass(frozen=True)
class Links:
    """Files beside the page: their names and where they are."""

    links: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded until they are asked for."""

    title: str
    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence["Block"]


Block = Text | Items | Hole | Table | Figure | Verbatim | Links | Details | Section


@dataclass(frozen=True)
class Page:
    """A title and its sections."""

    title: str
    sections: Sequence[Section]
