"""What a comparison has found, and how long lists of it are shown."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

LISTED: Final = 5
"""Items that a list names before it is cut, and findings of one kind that are shown one by one."""

_SHOWN = 120
"""Characters of a value."""
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass
class Findings:
    """`differences` forbid combining the checkpoints; `notes` are worth knowing."""

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __iadd__(self, other: Self) -> Self:
        self.differences += other.differences
        self.notes += other.notes
        return self


def numberless(tensor: str) -> str:
    """The name with `*` in place of the numbers of layers and experts."""
    return _NUMBER.sub("*", tensor)


def is_numbered(tensor: str) -> bool:
    """Whether the tensor belongs to a numbered layer or expert."""
    return _NUMBER.search(tensor) is not None


def collapsed(findings: Iterable[tuple[str, str]]) -> list[str]:
    """The lines of (kind, line); of more than LISTED of one kind the first only, and how many are like it."""
    kinds: dict[str, list[str]] = {}
    for kind, line in findings:
        kinds.setdefault(kind, []).append(line)
    shown: list[str] = []
    for kind, lines in kinds.items():
        shown += lines if len(lines) <= LISTED else [f"{lines[0]}; likewise {len(lines) - 1:,} more ({kind})"]
    return shown


def short(value: object) -> str:
    """How a value is shown whose size nobody has checked."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deep to show"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def quoted(items: Iterable[str]) -> str:
    """'a', 'b', …"""
    named = list(items)
    return ", ".join(map(repr, named[:LISTED])) + (", …" if len(named) > LISTED else "")


def as_ranges(rows: Iterable[int]) -> list[tuple[int, int]]:
    """Half-open ranges, ascending, as few as there can be, that hold these rows and no others."""
    ranges: list[tuple[int, int]] = []
    for row in sorted(set(rows)):
        if ranges and ranges[-1][1] == row:
            ranges[-1] = (ranges[-1][0], row + 1)
        else:
            ranges.append((row, row + 1))
    return ranges


def show_rows(ranges: Sequence[tuple[int, int]]) -> str:
    """`row 7`, or `rows 7-9, 12`: the last row included."""
    named = [str(first) if stop == first + 1 else f"{first}-{stop - 1}" for first, stop in ranges[:LISTED]]
    if len(ranges) > LISTED:
        named.append("…")
    one = len(ranges) == 1 and ranges[0][1] == ranges[0][0] + 1
    return f"{'row' if one else 'rows'} {', '.join(named)}"
