"""The program in a response."""

import re

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)$")
_PYTHON = ("python", "python3", "py")


def extract_code(response: str) -> str:
    """The last fenced block marked as Python; else the last fenced block; else the whole text.

    Fences are those of CommonMark (https://spec.commonmark.org/0.31.2/#fenced-code-blocks): a block that is not closed
    goes to the end.

    Args:
        response: without its thinking part.
    """
    blocks = _fenced_blocks(response)
    python = [code for language, code in blocks if language in _PYTHON]
    every = python or [code for _, code in blocks]
    return every[-1] if every else response


def _fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Language (lower case, "" for none) and content of each block."""
    blocks: list[tuple[str, list[str]]] = []
    opening, indent = "", 0  # of the open block's fence
    for line in re.split(r"\r\n?|\n", text):
        fence = _FENCE.match(line)
        marks, info = (fence["marks"], fence["info"].strip()) if fence else ("", "")
        if opening and marks.startswith(opening) and not info:
            opening = ""
        elif opening:
            blank = len(line) - len(line.lstrip(" \t"))
            blocks[-1][1].append(line[min(indent, blank) :])
        elif fence:
            opening, indent = marks, len(fence["indent"])
            blocks.append((info.split(maxsplit=1)[0].lower() if info else "", []))
    return [(language, "".join(f"{line}\n" for line in lines)) for language, lines in blocks]
