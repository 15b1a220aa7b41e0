"""The vocabulary of a tokenizer, read from its files without building the tokenizer."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bai_pipeline.checkpoints.directory import read_json_object, read_text, tokenizer_files
from bai_pipeline.errors import CheckpointError

_LISTED = 5


@dataclass(frozen=True)
class Vocabulary:
    """Which token has which id, and how the tokenizer treats text."""

    ids: Mapping[str, int]
    rules: Mapping[str, str] = field(default_factory=dict)
    """A hash per section that changes how text is split (normalizer, pre_tokenizer, merges, …)."""
    chat_template: str | None = None
    eos_token: str | None = None


def read_vocabulary(directory: Path) -> Vocabulary | None:
    """The vocabulary from tokenizer.json, vocab.json or vocab.txt; None when there is none of them.

    Raises:
        CheckpointError: a tokenizer file is malformed.
    """
    files = tokenizer_files(directory)
    settings = read_json_object(directory, "tokenizer_config.json") if "tokenizer_config.json" in files else {}
    if "tokenizer.json" in files:
        ids, rules = _read_fast(directory)
    elif "vocab.json" in files:
        ids, rules = _checked(directory / "vocab.json", read_json_object(directory, "vocab.json").items()), {}
    elif "vocab.txt" in files:
        lines = read_text(directory, "vocab.txt").splitlines()
        ids, rules = {token: number for number, token in enumerate(lines)}, {}
    else:
        return None
    if "added_tokens.json" in files:
        ids |= _checked(directory / "added_tokens.json", read_json_object(directory, "added_tokens.json").items())
    return Vocabulary(ids, rules, _chat_template(directory, files, settings), _content(settings.get("eos_token")))


def vocabulary_differences(left: str, one: Vocabulary, right: str, other: Vocabulary) -> list[str]:
    """Tokens with two ids and ids with two tokens: what makes a merged embedding row meaningless."""
    found = [
        f"tokenizer: token {token!r} is {one.ids[token]} in {left}, {number} in {right}"
        for token, number in other.ids.items()
        if token in one.ids and one.ids[token] != number
    ]
    by_id = {number: token for token, number in one.ids.items()}
    found += [
        f"tokenizer: id {number} is {by_id[number]!r} in {left}, {token!r} in {right}"
        for token, number in other.ids.items()
        if number in by_id and token not in one.ids
    ]
    return found


def vocabulary_notes(left: str, one: Vocabulary, right: str, other: Vocabulary) -> list[str]:
    """Differences that leave the embedding rows their meaning."""
    notes = []
    for name, mine, another, theirs in ((left, one, right, other), (right, other, left, one)):
        extra = [token for token in mine.ids if token not in theirs.ids]
        if extra:
            listed = ", ".join(map(repr, extra[:_LISTED]))
            notes.append(f"tokenizer: {len(extra)} tokens of {name} are not in {another}: {listed}")
    for section in sorted(one.rules.keys() | other.rules.keys()):
        if one.rules.get(section) != other.rules.get(section):
            notes.append(f"tokenizer: {section} differs between {left} and {right}: they split text differently")
    if one.eos_token != other.eos_token:
        notes.append(f"tokenizer: eos_token is {one.eos_token!r} in {left}, {other.eos_token!r} in {right}")
    if one.chat_template != other.chat_template:
        notes.append(f"tokenizer: the chat templates of {left} and {right} differ")
    return notes


def _read_fast(directory: Path) -> tuple[dict[str, int], dict[str, str]]:
    """tokenizer.json: the vocabulary is an object, or for Unigram a list of [token, score]."""
    file, content = directory / "tokenizer.json", read_json_object(directory, "tokenizer.json")
    model = content.get("model") or {}
    match model:
        case {"vocab": dict(vocab)}:
            ids = _checked(file, vocab.items())
        case {"vocab": list(pieces)} if all(isinstance(piece, list) and piece for piece in pieces):
            ids = _checked(file, ((piece[0], number) for number, piece in enumerate(pieces)))
        case _:
            raise CheckpointError(f"{file}: expected model.vocab, an object or a list of [token, score]")
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise CheckpointError(f"{file}: expected added_tokens to be a list of objects")
    ids |= _checked(file, ((token.get("content"), token.get("id")) for token in added))
    sections = {name: content.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor")}
    sections |= {f"model.{name}": model.get(name) for name in ("type", "merges")}
    return ids, {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in sections.items()}


def _checked(file: Path, pairs: Iterable[tuple[Any, Any]]) -> dict[str, int]:
    ids = {}
    for token, number in pairs:
        if not isinstance(token, str) or not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise CheckpointError(f"{file}: expected a token and its id, got {token!r}: {number!r}")
        ids[token] = number
    return ids


def _chat_template(directory: Path, files: Mapping[str, Path], settings: Mapping[str, Any]) -> str | None:
    if "chat_template.jinja" in files:
        return read_text(directory, "chat_template.jinja")
    if "chat_template.json" in files:
        return json.dumps(read_json_object(directory, "chat_template.json").get("chat_template"))
    template = settings.get("chat_template")
    return template if template is None or isinstance(template, str) else json.dumps(template)


def _content(token: object) -> str | None:
    """A special token is a string or an object with its content."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None
