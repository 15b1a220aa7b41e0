"""What an object shows inside Dagster's pages: its Markdown table, its figures."""

import base64
from pathlib import Path

import dagster as dg

_LARGEST = 512 * 1024
"""Bytes of a figure that is still put into the event log, which keeps it for ever."""


def inline_table(directory: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """Each Markdown file of an object."""
    return {path.stem: dg.MetadataValue.md(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.md"))}


def inline_figures(directory: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """Each PNG of an object that is not too large."""
    figures = [path for path in sorted(directory.glob("**/*.png")) if path.stat().st_size <= _LARGEST]
    return {
        path.stem: dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{_base64(path)})") for path in figures
    }


def link_page(directory: Path) -> dict[str, dg.UrlMetadataValue]:
    """A link to the page of a report: a browser on this machine opens it."""
    return {"page": dg.MetadataValue.url((directory / "report.html").resolve().as_uri())}


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
