"""Parts of sentences, for reasons and pages."""

from collections.abc import Iterable


def listed(parts: Iterable[str]) -> str:
    """Parts as in "a, b and c"."""
    *head, last = parts
    return f"{', '.join(head)} and {last}" if head else last
