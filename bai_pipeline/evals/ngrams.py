"""An index of word n-grams, in which texts that stream past are looked up.

Of every n-gram it has a 64-bit hash and where it stands. What has the hash of one is compared word by word.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_WORD = re.compile(r"[^\W_]+")
_BATCH_WORDS: Final = 1 << 16
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_NO_WORD: Final = 0
"""Number of a word that no question has, and of the gap between texts."""


def words_of(text: str) -> list[str]:
    """Words as they are compared: runs of letters and digits, after NFKC and in lower case."""
    return _WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).lower())


@dataclass
class Found:
    """Of every gram of an index, how many texts of a corpus have it and the first row that does."""

    texts: Integers
    rows: dict[int, str] = field(default_factory=dict)
    words: int = 0


@dataclass(frozen=True)
class _Grams:
    """The different grams of one length; those of an index are numbered through, from `first`."""

    length: int
    first: int
    hashes: Hashes
    """(grams,), ascending."""
    starts: Integers
    """(grams,): where in the index' words each stands for the first time."""
    filled: NDArray[np.bool_]
    """(2^k,): whether any hash has these uppermost k bits."""

    def candidates(self, hashes: Hashes) -> tuple[Integers, Integers]:
        """Which of `hashes` are those of grams, and of which."""
        likely = np.flatnonzero(self.filled[hashes >> self.shift])
        slots = np.searchsorted(self.hashes, hashes[likely])
        same = self.hashes[np.minimum(slots, len(self.hashes) - 1)] == hashes[likely]
        return likely[same], slots[same]

    @property
    def shift(self) -> np.uint64:
        return np.uint64(64 - (len(self.filled).bit_length() - 1))


@dataclass(frozen=True)
class NgramIndex:
    """The n-grams of questions, to be looked up in texts.

    A question of fewer than n words is one gram, and is found where it is a whole text: within longer texts it would be
    part of other questions (`sum a 1 b 2` of `sum a 1 b 2 c 3`).
    """

    n: int
    vocabulary: Mapping[str, int]
    """Word → its number, from 1."""
    names: Sequence[str]
    """The words in the order of their numbers."""
    values: Hashes
    """(words + 1,): what each word adds to a hash."""
    words: Integers
    """Numbers of the words of all judged questions, with a gap after each question."""
    lengths: Sequence[_Grams]
    grams: Integers
    """Number of the gram that starts at each of `words`; -1: none does."""
    bounds: Integers
    """(questions + 1,): where in `words` each question starts."""

    @classmethod
    def of(cls, texts: Iterable[str], n: int, min_words: int) -> "NgramIndex":
        vocabulary: dict[str, int] = {}
        numbers: list[int] = []
        bounds = [0]
        for text in texts:
            words = words_of(text)
            if len(words) >= min_words:
                numbers += [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words] + [_NO_WORD]
            bounds.append(len(numbers))
        places = np.array(numbers, np.int64)
        starts_by_length: dict[int, list[range]] = {}
        for start, end in pairwise(bounds):
            if (words_there := end - start - 1) > 0:
                length = min(n, words_there)
                starts_by_length.setdefault(length, []).append(range(start, end - length))
        starts = {length: np.concatenate([np.array(r) for r in there]) for length, there in starts_by_length.items()}
        seed = 0
        while True:
            values = _word_values(len(vocabulary) + 1, seed)
            grams = np.full(len(places), -1, np.int64)
            lengths = _lengths(places, values, starts, grams)
            if lengths is not None:
                return cls(n, vocabulary, list(vocabulary), values, places, lengths, grams, np.array(bounds))
            seed += 1

    def grams_of(self, question: int) -> Integers:
        """Numbers of a question's grams, in its order; none if it is not judged."""
        grams = self.grams[self.bounds[question] : self.bounds[question + 1]]
        return grams[grams >= 0]

    def gram(self, number: int) -> str:
        """The words of a gram."""
        there = next(length for length in reversed(self.lengths) if length.first <= number)
        start = int(there.starts[number - there.first])
        return " ".join(self.names[word - 1] for word in self.words[start : start + there.length])

    def scan(self, texts: Iterable[tuple[str, str]]) -> Found:
        """Look texts up; only a batch of them is in memory at a time."""
        found = Found(np.zeros(sum(len(length.starts) for length in self.lengths), np.int64))
        number = self.vocabulary.get
        rows: list[str] = []
        starts: list[int] = []
        batch: list[int] = []
        for row, text in texts:
            words = words_of(text)
            found.words += len(words)
            rows.append(row)
            starts.append(len(batch))
            batch += [number(word, _NO_WORD) for word in words]
            batch.append(_NO_WORD)
            if len(batch) >= _BATCH_WORDS:
                self._look_up(np.array(batch, np.int64), np.array(starts), rows, found)
                rows, starts, batch = [], [], []
        if batch:
            self._look_up(np.array(batch, np.int64), np.array(starts), rows, found)
        return found

    def _look_up(self, batch: Integers, starts: Integers, rows: Sequence[str], found: Found) -> None:
        for there, hashes in _hashes(batch, self.values, self.lengths):
            places, slots = there.candidates(hashes)
            same = _equal(batch, places, self.words, there.starts[slots], there.length)
            texts = np.searchsorted(starts, places[same], side="right") - 1
            if there.length < self.n:
                ends = np.append(starts[1:], len(batch)) - 1
                whole = (starts[texts] == places[same]) & (ends[texts] == places[same] + there.length)
                same, texts = same[whole], texts[whole]
            # A text counts once for a gram, however often it has it.
            for gram, text in sorted({*zip((there.first + slots[same]).tolist(), texts.tolist(), strict=True)}):
                found.texts[gram] += 1
                found.rows.setdefault(gram, rows[text])


def _word_values(count: int, seed: int) -> Hashes:
    """What each word adds to a hash: 64 random bits, always the same ones."""
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


def _hashes(words: Integers, values: Hashes, lengths: Sequence[_Grams]) -> Iterator[tuple[_Grams, Hashes]]:
    """For each length the hashes of all runs of so many words: Σ_j value(w_j) M^(length − 1 − j) modulo 2^64."""
    added = values[words]
    hashes = np.zeros(len(words), np.uint64)
    done = 0
    for there in lengths:
        for offset in range(done, min(there.length, len(words))):
            hashes = hashes[: len(words) - offset] * _MULTIPLIER + added[offset:]
        done = there.length
        if there.length > len(words):
            return
        yield there, hashes


def _lengths(words: Integers, values: Hashes, starts: Mapping[int, Integers], grams: Integers) -> list[_Grams] | None:
    """The different grams of each length, and in `grams` which of them starts where; None: two have the same hash."""
    lengths: list[_Grams] = []
    first = 0
    bare = [
        _Grams(length, 0, np.empty(0, np.uint64), starts[length], np.empty(0, np.bool_)) for length in sorted(starts)
    ]
    for there, hashes in _hashes(words, values, bare):
        different, firsts, which = np.unique(hashes[there.starts], return_index=True, return_inverse=True)
        standing = there.starts[firsts]
        if len(_equal(words, there.starts, words, standing[which], there.length)) < len(there.starts):
            return None
        bits = max(10, (8 * len(different)).bit_length())
        filled = np.zeros(1 << bits, np.bool_)
        filled[different >> np.uint64(64 - bits)] = True
        lengths.append(_Grams(there.length, first, different, standing, filled))
        grams[there.starts] = first + which
        first += len(different)
    return lengths


def _equal(one: Integers, at: Integers, other: Integers, there: Integers, length: int) -> Integers:
    """For which i the `length` words of `one` from at[i] are those of `other` from there[i]."""
    same = np.arange(len(at))
    for offset in range(length):
        same = same[one[at[same] + offset] == other[there[same] + offset]]
    return same
