"""A page as one HTML file that asks a network for nothing.

Every text goes through `tag`, which escapes it. Beyond that the content security policy names the digests of the page's
own two scripts and allows no other, no inline handler and no request: what a model wrote can become neither.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

from plotly.offline import get_plotlyjs

from bai_pipeline.report.blocks import (
    Block,
    Cell,
    Column,
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
from bai_pipeline.report.interactive import interactive, thinning_note


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element; texts and attributes are escaped. `class_` is class, `data_sort` is data-sort; None is left out."""
    parts = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        parts.append(f" {attribute}" if value is True else f' {attribute}="{escape(str(value))}"')
    head = f"<{name}{''.join(parts)}>"
    return Markup(head) if name in ("img", "meta") else Markup(f"{head}{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """Children one after the other, those that are no markup escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def inline(text: str) -> Markup:
    """A text with `**…**` in bold."""
    parts = re.split(r"\*\*(.+?)\*\*", text)
    return join(tag("strong", part) if number % 2 else part for number, part in enumerate(parts))


def page_html(page: Page) -> str:
    """The whole file."""
    writer = _Writer()
    sections = [writer.section(section, 2) for section in page.sections]
    contents = tag("ul", *(tag("li", tag("a", s.title, href=f"#{_identifier(s.title)}")) for s in page.sections))
    style, script, plotly = _own("page.css"), _own("page.js"), get_plotlyjs()
    policy = (
        f"default-src 'none'; script-src {_digest(plotly)} {_digest(script)}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(writer.figures, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", page.title),
        tag("style", Markup(style)),
    ]
    body = [
        tag("a", "Skip to the summary", href=f"#{_identifier(page.sections[0].title)}", class_="skip"),
        tag("header", tag("h1", page.title)),
        tag("nav", tag("h2", "Contents"), contents, aria_label="Contents"),
        tag("main", *sections),
        tag("script", Markup(data), type="application/json", id="figures"),
        tag("script", Markup(plotly)),
        tag("script", Markup(script)),
    ]
    return f"<!doctype html>\n{tag('html', tag('head', *head), tag('body', *body), lang='en')}\n"


class _Writer:
    """Writes blocks and gathers the data of their figures."""

    def __init__(self) -> None:
        self.figures: dict[str, object] = {}

    def section(self, section: Section, level: int) -> Markup:
        name = _identifier(section.title)
        heading = tag(f"h{level}", section.title, id=f"{name}-heading")
        blocks = [self.block(block, level + 1) for block in section.blocks]
        return tag("section", heading, *blocks, id=name, aria_labelledby=f"{name}-heading")

    def block(self, block: Block, level: int) -> Markup:
        match block:
            case Section():
                return self.section(block, level)
            case Details(title, blocks):
                return tag("details", tag("summary", title), *(self.block(inner, level) for inner in blocks))
            case Text(text):
                return tag("p", inline(text))
            case Items(items):
                return tag("ul", *(tag("li", inline(item)) for item in items))
            case Hole():
                return tag("p", tag("strong", block.head), f" {block.sentence}", class_="hole")
            case Verbatim(text):
                return tag("pre", text)
            case Links(links):
                return tag("p", *_links(links), class_="files")
            case Table():
                return _table(block)
            case Figure():
                return self.figure(block, level)

    def figure(self, figure: Figure, level: int) -> Markup:
        picture = figure.picture
        self.figures[picture.name] = interactive(picture)
        data = base64.b64encode(figure.png.read_bytes()).decode("ascii")
        note = thinning_note(picture)
        name = f"figures/{picture.name}"
        caption = tag("figcaption", picture.caption, tag("span", f" {note}", class_="screen") if note else "")
        return tag(
            "figure",
            tag(f"h{level}", picture.title),
            tag("div", class_="legend", role="group", aria_label=f"Lines of {picture.title}", data_of=picture.legend),
            tag("div", class_="plot", role="img", aria_label=picture.alt),
            tag("img", src=f"data:image/png;base64,{data}", alt=picture.alt, class_="static"),
            caption,
            tag("p", *_links([("Numbers (CSV)", f"{name}.csv"), ("Picture (PNG)", f"{name}.png")]), class_="files"),
            id=picture.name,
        )


def _table(table: Table) -> Markup:
    """A table whose column heads are buttons; it scrolls in a box of its own."""
    head = tag("tr", *(_head(column) for column in table.columns))
    rows = [
        tag("tr", *(_cell(cell, column, first=n == 0) for n, (cell, column) in enumerate(_pairs(table, row))))
        for row in table.rows
    ]
    content = tag("table", tag("caption", table.caption), tag("thead", head), tag("tbody", *rows))
    return tag("div", content, class_="scroll", role="region", aria_label=table.caption, tabindex="0")


def _pairs(table: Table, row: Iterable[Cell]) -> Iterator[tuple[Cell, Column]]:
    return zip(row, table.columns, strict=True)


def _head(column: Column) -> Markup:
    return tag("th", tag("button", column.name, type="button"), scope="col", aria_sort="none", class_=_class(column))


def _cell(cell: Cell, column: Column, *, first: bool) -> Markup:
    parts = [_part(part) if n == 0 else tag("div", _part(part)) for n, part in enumerate([cell, *cell.more])]
    scope = "row" if first else None
    return tag("th" if first else "td", *parts, scope=scope, class_=_class(column), data_sort=cell.sort)


def _part(cell: Cell) -> str:
    content = tag("strong", cell.text) if cell.bold else cell.text
    return tag("span", content, class_=cell.kind) if cell.kind else content


def _class(column: Column) -> str | None:
    names = {"number": column.numeric, "prose": column.prose, "wraps": column.wraps}
    return next((name for name, holds in names.items() if holds), None)


def _links(links: Iterable[tuple[str, str]]) -> Iterator[Markup]:
    return (tag("a", name, href=target) for name, target in links)


def _identifier(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"


@cache
def _own(name: str) -> str:
    return (Path(str(files("bai_pipeline.report"))) / name).read_text(encoding="utf-8")
