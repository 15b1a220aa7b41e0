"""The vocabulary of a tokenizer, read from its files without building the tokenizer."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bai_pipeline.checkpoints.directory import read_json_object, read_text, tokenizer_files
from bai_pipeline.checkpoints.listing import Findings, collapsed, quoted, short
from bai_pipeline.errors import CheckpointError


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
    ids |= _added_in_settings(directory / "tokenizer_config.json", settings)
    return Vocabulary(ids, rules, _chat_template(directory, files, settings), _content(settings.get("eos_token")))


def compare_vocabularies(vocabularies: Mapping[str, Vocabulary | None]) -> Findings:
    """Every tokenizer with all before it, the notes with the first: None stands for one that cannot be read."""
    found = Findings(
        notes=[
            f"tokenizer: none readable in {name}; its vocabulary was not compared"
            for name, vocabulary in vocabularies.items()
            if vocabulary is None
        ]
    )
    readable = {name: vocabulary for name, vocabulary in vocabularies.items() if vocabulary is not None}
    found.differences += collapsed(_conflicts(readable))
    first, *others = readable or ("",)
    for other in others:
        found.notes += _notes(first, readable[first], other, readable[other])
    return found


def lacking_tokens(one: Vocabulary, other: Vocabulary) -> list[str]:
    """Tokens of `one` that `other` has not, by their ids."""
    return sorted(one.ids.keys() - other.ids.keys(), key=lambda token: one.ids[token])


def _conflicts(vocabularies: Mapping[str, Vocabulary]) -> Iterator[tuple[str, str]]:
    """Tokens with two ids and ids with two tokens: what makes a merged embedding row meaningless."""
    ids: dict[str, tuple[int, str]] = {}
    tokens: dict[int, tuple[str, str]] = {}
    for name, vocabulary in vocabularies.items():
        for token, number in vocabulary.ids.items():
            known, where = ids.get(token, (number, name))
            if known != number:
                yield (
                    f"tokens of {where} in {name}",
                    f"tokenizer: token {token!r} is {known} in {where}, {number} in {name}",
                )
        for token, number in vocabulary.ids.items():
            another, where = tokens.get(number, (token, name))
            if another != token and token not in ids:
                yield (
                    f"ids of {where} in {name}",
                    f"tokenizer: id {number} is {another!r} in {where}, {token!r} in {name}",
                )
        for token, number in vocabulary.ids.items():
            ids.setdefault(token, (number, name))
            tokens.setdefault(number, (token, name))


def _notes(left: str, one: Vocabulary, right: str, other: Vocabulary) -> Iterator[str]:
    """Differences that leave the embedding rows their meaning."""
    for name, mine, another, theirs in ((left, one, right, other), (right, other, left, one)):
        extra = lacking_tokens(mine, theirs)
        if extra:
            yield f"tokenizer: {len(extra)} tokens of {name} are not in {another}: {quoted(extra)}"
    for section in sorted(one.rules.keys() | other.rules.keys()):
        if one.rules.get(section) != other.rules.get(section):
            yield f"tokenizer: {section} differs between {left} and {right}: they split text differently"
    if one.eos_token != other.eos_token:
        yield f"tokenizer: eos_token is {one.eos_token!r} in {left}, {other.eos_token!r} in {right}"
    if one.chat_template != other.chat_template:
        yield f"tokenizer: the chat templates of {left} and {right} differ"


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
    sections |= {"model.type": model.get("type"), "model.merges": _spelled_alike(model.get("merges"))}
    return ids, {name: _hash(value) for name, value in sections.items()}


def _spelled_alike(merges: object) -> object:
    """Since version 0.20 of tokenizers a merge is a pair; before it was a string with a space."""
    if not isinstance(merges, list):
        return merges
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _added_in_settings(file: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that transformers adds when it builds the tokenizer: added_tokens_decoder, by their ids."""
    added = settings.get("added_tokens_decoder") or {}
    if not isinstance(added, dict) or not all(re.fullmatch("[0-9]{1,18}", number) for number in added):
        raise CheckpointError(f"{file}: expected added_tokens_decoder to be an object of tokens by their ids")
    return _checked(file, ((_content(token), int(number)) for number, token in added.items()))


def _checked(file: Path, pairs: Iterable[tuple[Any, Any]]) -> dict[str, int]:
    ids: dict[str, int] = {}
    tokens: dict[int, str] = {}
    for token, number in pairs:
        if not isinstance(token, str) or not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise CheckpointError(f"{file}: expected a token and its id, got {short(token)}: {short(number)}")
        if tokens.setdefault(number, token) != token:
            raise CheckpointError(f"{file}: tokens {short(tokens[number])} and {short(token)} have one id, {number}")
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
