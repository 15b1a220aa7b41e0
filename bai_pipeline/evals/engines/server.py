"""A model behind an OpenAI-compatible server: chats by /chat/completions, plain text by /completions.

Protocol: https://platform.openai.com/docs/api-reference. Likelihoods of given continuations need `echo` with `logprobs`
in /completions, as vLLM and llama.cpp's server have it.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.endpoint import Endpoint, Failure
from bai_pipeline.evals.engines.interface import Likelihood, Options, Pair, Prompt, Response
from bai_pipeline.ppo.randomness import derive_seed

KEY_VARIABLE = "BAI_SERVER_API_KEY"
ATTEMPTS = 6
LONGEST_WAIT = 60.0


class ServerEngine:
    """`Engine` over a server. Its chat template, its stop tokens and its rounding are the server's own."""

    positions: int | None = None
    """The server refuses what is too long."""

    def __init__(
        self, url: str, model: str, *, parallel: int = 8, timeout: float = 3600.0, first_wait: float = 1.0
    ) -> None:
        """Ask nothing yet.

        Args:
            url: base address, such as http://host:8000/v1.
            model: its name there.
            parallel: requests at once.
            timeout: seconds without a byte until a request counts as failed.
            first_wait: seconds before a failed request is sent again; doubled each time, up to a minute.
        """
        self.name = f"server {model}"
        self._model, self._parallel, self._first_wait = model, parallel, first_wait
        base = url.rstrip("/")
        options: dict[str, Any] = {"key_variable": KEY_VARIABLE, "timeout": timeout, "parallel": parallel}
        self._chat = Endpoint(f"{base}/chat/completions", **options)
        self._plain = Endpoint(f"{base}/completions", **options)

    def has_chat_template(self) -> bool:
        """A server is taken to have one; a model without is refused by it."""
        return True

    def render(self, messages: Sequence[Mapping[str, str]], *, continued: bool = False) -> str:
        """The conversation as JSON, which `generate` sends as messages."""
        if continued:
            raise EvaluationError("a server's chat cannot go on with a response that was begun; nothing was asked")
        return json.dumps([dict(message) for message in messages])

    def prompt_tokens(self, text: str, *, chat: bool) -> int:
        """Unknown; not needed where the positions are."""
        return 0

    def generate(
        self, prompts: Sequence[Prompt], options: Options, *, seed: int, total: int, chat: bool
    ) -> Iterator[tuple[int, Response]]:
        """Responses as they arrive."""
        shared: dict[str, Any] = {
            "model": self._model,
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            **({"stop": list(options.until)} if options.until else {}),
        }

        def ask(prompt: Prompt) -> Response:
            asked = {"messages": json.loads(prompt.text)} if chat else {"prompt": prompt.text}
            random_numbers = {} if options.temperature == 0 else {"seed": derive_seed(seed, prompt.row, "response")}
            endpoint = self._chat if chat else self._plain
            return _response(self._post(endpoint, {**shared, **asked, **random_numbers}), chat)

        yield from self._each(prompts, ask)

    def likelihoods(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Likelihood]]:
        """Likelihoods as they arrive."""

        def ask(pair: Pair) -> Likelihood:
            asked = {"prompt": pair.context + pair.continuation, "max_tokens": 1, "echo": True, "logprobs": 1}
            return _likelihood(self._post(self._plain, {"model": self._model, "temperature": 0.0, **asked}), pair)

        yield from self._each(pairs, ask)

    def close(self) -> None:
        """Close the connections."""
        self._chat.close()
        self._plain.close()

    def _each(self, asked: Sequence[Any], ask: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        """Answers as they arrive; after a failure no further request starts, and what was under way still counts."""
        failure: EvaluationError | None = None
        with ThreadPoolExecutor(self._parallel) as pool:
            futures = {pool.submit(ask, item): index for index, item in enumerate(asked)}
            try:
                for future in as_completed(futures):
                    if future.cancelled():
                        continue
                    try:
                        answer = future.result()
                    except EvaluationError as error:
                        failure = failure or error
                        for other in futures:
                            other.cancel()
                        continue
                    yield futures[future], answer
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        if failure is not None:
            raise failure

    def _post(self, endpoint: Endpoint, body: Mapping[str, Any]) -> Mapping[str, Any]:
        wait = self._first_wait
        for attempt in range(1, ATTEMPTS + 1):
            found = endpoint.post(json.dumps(body).encode())
            if isinstance(found, dict):
                return found
            failure = (
                found if isinstance(found, Failure) else Failure(f"expected an object, got {found!r}", repeat=False)
            )
            if not failure.repeat or attempt == ATTEMPTS:
                break
            time.sleep(failure.wait if failure.wait is not None else wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, LONGEST_WAIT)
        raise EvaluationError(
            f"no answer from {endpoint.address} after {attempt} attempts: {failure.reason}; what was answered is kept"
        )


def _response(content: Mapping[str, Any], chat: bool) -> Response:
    try:
        choice = content["choices"][0]
        text = choice["message"]["content"] if chat else choice["text"]
        reason, tokens = choice["finish_reason"], content["usage"]["completion_tokens"]
    except (KeyError, IndexError, TypeError):
        raise EvaluationError(f"expected a completion with its usage, got {str(content)[:300]}") from None
    thinking = choice["message"].get("reasoning_content") if chat else None
    whole = f"<think>{thinking}</think>{text or ''}" if thinking else str(text or "")
    return Response(whole, int(tokens), "length" if reason == "length" else "stop")


def _likelihood(content: Mapping[str, Any], pair: Pair) -> Likelihood:
    """Of the tokens that begin in the continuation: where the server echoes the text with offsets."""
    try:
        found = content["choices"][0]["logprobs"]
        columns = (found["text_offset"], found["token_logprobs"], found["tokens"], found["top_logprobs"])
    except (KeyError, IndexError, TypeError):
        raise EvaluationError(
            f"expected the prompt's log-probabilities, got {str(content)[:300]}; benchmarks whose options are compared "
            "by likelihood need a server that echoes them"
        ) from None
    start, end = len(pair.context), len(pair.context + pair.continuation)
    rows = [row for row in zip(*columns, strict=True) if start <= row[0] < end]
    if not rows or any(row[1] is None for row in rows):
        raise EvaluationError(f"expected log-probabilities of {pair.continuation!r}, got none")
    greedy = all(max(top, key=top.__getitem__) == token for _, _, token, top in rows)
    return Likelihood(float(sum(row[1] for row in rows)), greedy)
