"""What evaluation asks of whoever answers: a model in this process, vLLM, or a server."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Options:
    """How responses are drawn."""

    max_new_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float
    until: tuple[str, ...] = ()
    """Texts that end a response and are no part of it."""


@dataclass(frozen=True)
class Prompt:
    """One response that is asked for."""

    text: str
    row: int
    """Its number among all responses that the benchmark asks for: with the seed it fixes the random numbers."""


@dataclass(frozen=True)
class Response:
    """What was generated."""

    text: str
    """Without the token that ended it."""
    tokens: int
    """That token included."""
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Pair:
    """A text whose likelihood after another is asked for."""

    context: str
    continuation: str


@dataclass(frozen=True)
class Likelihood:
    """Of a continuation."""

    logprob: float
    """Sum over its tokens."""
    greedy: bool
    """Whether each of its tokens is the most probable one."""


class Engine(Protocol):
    """Answers in any order, as it gets there: what is yielded can be kept before the rest is known."""

    @property
    def name(self) -> str:
        """What its answers depend on beside the model: kind, version, precision."""

    @property
    def positions(self) -> int | None:
        """Tokens that prompt and response may have together; None: unknown, the server decides."""

    def has_chat_template(self) -> bool:
        """Whether `render` can be called."""

    def render(self, messages: Sequence[Mapping[str, str]], *, continued: bool = False) -> str:
        """A conversation as the text that the model continues.

        Args:
            continued: the last message is the beginning of the response.
        """

    def prompt_tokens(self, text: str, *, chat: bool) -> int:
        """Tokens of a prompt."""

    def generate(
        self, prompts: Sequence[Prompt], options: Options, *, seed: int, total: int, chat: bool
    ) -> Iterator[tuple[int, Response]]:
        """Pairs of an index of `prompts` and its response.

        Args:
            total: number of responses that the benchmark asks for; `prompts` may be some of them.
            chat: the prompts come from `render`, which has put in the special tokens.
        """

    def likelihoods(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Likelihood]]:
        """Pairs of an index of `pairs` and its likelihood."""

    def close(self) -> None:
        """Give back memory and processes."""
