"""Scorers: what gives a response its score.

A scorer works on text, so that a reward model with a tokenizer of its own scores policies of any family.
"""

import importlib
import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bai_pipeline.errors import RewardError
from bai_pipeline.loading import load_tokenizer
from bai_pipeline.loading.unpadded import read_unpadded, unpadded
from bai_pipeline.quiet import quiet_transformers
from bai_pipeline.reward.model import load_reward_model, token_scores
from bai_pipeline.sft.examples import encode_prompt, pad_right
from bai_pipeline.synthetic.tasks import verify

Messages = Sequence[Mapping[str, str]]
ScorerKind = Literal["model", "verifier", "http", "python"]

BATCH = 16
"""Responses that a reward model reads at once."""
HTTP_TIMEOUT = 120.0
"""Seconds until a scoring service that does not answer is an error."""


class Scorer(Protocol):
    """Scores of responses to prompts."""

    def __call__(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[str],
        answers: Sequence[str | None],
        truncated: Sequence[bool] | None = None,
    ) -> list[float]:
        """One finite score a response.

        Args:
            prompts: conversations that end with a user turn.
            responses: text of the assistant's turn, without the end token.
            answers: right final answers, where a prompt has one.
            truncated: which responses were cut before their end token (None: none). A reward model scores them at
                their last token; the other scorers see the text alone.

        Raises:
            RewardError: a score cannot be computed.
        """


class RewardModelScorer:
    """Normalised scores of a reward model at the last token of each response."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = read_unpadded(model)
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path) -> "RewardModelScorer":
        """The scorer of a reward model directory with tokenizer and chat template."""
        with quiet_transformers():
            return cls(load_reward_model(path), load_tokenizer(path))

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[str],
        answers: Sequence[str | None],
        truncated: Sequence[bool] | None = None,
    ) -> list[float]:
        cut = truncated if truncated is not None else [False] * len(responses)
        sequences = [
            self._encode(prompt, response, unfinished)
            for prompt, response, unfinished in zip(prompts, responses, cut, strict=True)
        ]
        scores = [0.0] * len(sequences)
        by_length = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        for start in range(0, len(by_length), BATCH):
            chosen = by_length[start : start + BATCH]
            batch = [sequences[index] for index in chosen]
            lengths = [len(sequence) for sequence in batch]
            ids = pad_right(batch, 0).to(self._model.device)
            values = token_scores(self._model, **unpadded(ids, lengths))[0].cpu()
            for index, end in zip(chosen, accumulate(lengths), strict=True):
                scores[index] = float(values[end - 1])
        return _checked(scores, len(responses), "the reward model")

    def _encode(self, prompt: Messages, response: str, truncated: bool) -> list[int]:
        end = [] if truncated else [self._tokenizer.eos_token_id]
        answer = self._tokenizer(response, add_special_tokens=False)["input_ids"]
        return [*encode_prompt(self._tokenizer, prompt), *answer, *end]


class VerifierScorer:
    """+1 for a right final answer and -1 for any other response (verifiable reward)."""

    def __init__(self, verifier: Callable[[str, str], bool] = verify) -> None:
        self._verifier = verifier

    def __call__(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[str],
        answers: Sequence[str | None],
        truncated: Sequence[bool] | None = None,
    ) -> list[float]:
        scores = []
        for index, (response, answer) in enumerate(zip(responses, answers, strict=True)):
            if answer is None:
                raise RewardError(f"a verifier needs an answer to every prompt, prompt {index} of the batch has none")
            scores.append(1.0 if self._verifier(response, answer) else -1.0)
        return scores


class PythonScorer:
    """A function of the user's: (prompts, responses, answers) -> scores."""

    def __init__(self, target: str) -> None:
        """Import the function.

        Args:
            target: "module:function".

        Raises:
            RewardError: not of this form, or nothing callable there.
        """
        module_name, _, name = target.partition(":")
        if not module_name or not name:
            raise RewardError(f'expected "module:function", got {target!r}')
        try:
            function = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError) as error:
            raise RewardError(f"cannot import the scorer {target!r}: {error}") from error
        if not callable(function):
            raise RewardError(f"expected a function, {target!r} is {type(function).__name__}")
        self._target = target
        self._function = function

    def __call__(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[str],
        answers: Sequence[str | None],
        truncated: Sequence[bool] | None = None,
    ) -> list[float]:
        return _checked(self._function(prompts, responses, answers), len(responses), self._target)


class HttpScorer:
    """A scoring service: POST {"prompts", "responses", "answers"} as JSON, answered by {"scores": [...]}."""

    def __init__(self, url: str, timeout: float = HTTP_TIMEOUT) -> None:
        if not url.startswith(("http://", "https://")):
            raise RewardError(f"expected an http:// or https:// address, got {url!r}")
        self._url = url
        self._timeout = timeout

    def __call__(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[str],
        answers: Sequence[str | None],
        truncated: Sequence[bool] | None = None,
    ) -> list[float]:
        body = {"prompts": list(prompts), "responses": list(responses), "answers": list(answers)}
        request = urllib.request.Request(
            self._url, json.dumps(body).encode("utf-8"), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as reply:
                content = json.loads(reply.read())
        except (OSError, ValueError) as error:
            raise RewardError(f"no scores from {self._url}: {error}") from error
        if not isinstance(content, dict) or "scores" not in content:
            raise RewardError(f'expected {{"scores": [...]}} from {self._url}, got {str(content)[:80]!r}')
        return _checked(content["scores"], len(responses), self._url)


def build_scorer(kind: ScorerKind, target: str | Path | None = None) -> Scorer:
    """The scorer of a study's `reward`.

    Args:
        kind: which one.
        target: a reward model directory, "module:function" or an address; nothing for a verifier.

    Raises:
        RewardError: an unknown kind, or a target that is missing.
    """
    if kind == "verifier":
        return VerifierScorer()
    if kind not in ("model", "http", "python"):
        raise RewardError(f"expected a reward of kind model, verifier, http or python, got {kind!r}")
    if target is None:
        raise RewardError(f"a reward of kind {kind} needs a path, an address or a function")
    if kind == "model":
        return RewardModelScorer.load(Path(target))
    return HttpScorer(str(target)) if kind == "http" else PythonScorer(str(target))


def _checked(scores: object, count: int, source: str) -> list[float]:
    """The scores as floats.

    Raises:
        RewardError: not `count` finite numbers.
    """
    if not isinstance(scores, Sequence) or len(scores) != count:
        found = f"{len(scores)} values" if isinstance(scores, Sequence) else type(scores).__name__
        raise RewardError(f"expected {count} scores from {source}, got {found}")
    for index, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise RewardError(
                f"expected a finite number from {source}, got {score!r} for response {index} of the batch"
            )
    return [float(score) for score in scores]
