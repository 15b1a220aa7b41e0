"""An engine behind lm-eval's model interface; what was answered before is taken from a journal.

Importing this module imports lm_eval.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from lm_eval.api.model import LM

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.engines.interface import Engine, Likelihood, Options, Pair, Prompt, Response
from bai_pipeline.evals.journal import Journal, key_of
from bai_pipeline.evals.registry.benchmark import NotRunError
from bai_pipeline.evals.thinking import whole_response

BATCH = 64
"""Answers that are kept at a time."""

Progress = Callable[[int, int], None]


class EngineLM(LM):  # type: ignore[misc]  # lm_eval is not typed
    """Answers the requests of one benchmark."""

    def __init__(
        self, engine: Engine, journal: Journal, *, chat: bool, seed: int, progress: Progress = lambda done, total: None
    ) -> None:
        super().__init__()
        self._engine, self._journal, self._progress = engine, journal, progress
        self._chat, self._seed = chat, seed
        self.responses: dict[tuple[str, int, int], Response] = {}
        """By task, document and repeat."""
        self.max_new_tokens: int | None = None
        """What a response could have at most: what was asked for, or what the model's positions leave."""

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's caches, which are not used."""
        return self._engine.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        """For lm-eval's records, which are not used."""
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the text that the model continues.

        A system message goes to the head of the first user message: not every template knows the role.
        """
        system = "".join(message["content"] for message in chat_history if message["role"] == "system")
        messages = [dict(message) for message in chat_history if message["role"] != "system"]
        if system and messages:
            messages[0]["content"] = system + messages[0]["content"]
        return self._engine.render(messages, continued=not add_generation_prompt)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Responses in the order of `requests`, in which a request stands as often as it is sampled.

        Raises:
            NotRunError: the longest prompt leaves no room for a response.
        """
        options = self._options(requests)
        prompts = [Prompt(request.args[0], row) for row, request in enumerate(requests)]
        sampled = {} if options.temperature == 0 else {"seed": self._seed, "total": len(prompts)}

        def key(prompt: Prompt) -> str:
            row = {} if options.temperature == 0 else {"row": prompt.row}
            asked = {"prompt": prompt.text, "chat": self._chat, "options": asdict(options)}
            return key_of(engine=self._engine.name, kind="response", **asked, **sampled, **row)

        def ask(missing: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
            return self._engine.generate(missing, options, seed=self._seed, total=len(prompts), chat=self._chat)

        found = [Response(**entry) for entry in self._answers(prompts, key, ask)]
        seen: dict[tuple[str, int], int] = {}
        for request, response in zip(requests, found, strict=True):
            document = (request.task_name, request.doc_id)
            self.responses[(*document, seen.get(document, 0))] = response
            seen[document] = seen.get(document, 0) + 1
        return [whole_response(prompt.text, response.text) for prompt, response in zip(prompts, found, strict=True)]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability, greedy) in the order of `requests`."""
        pairs = [Pair(*request.args) for request in requests]

        def key(pair: Pair) -> str:
            return key_of(engine=self._engine.name, kind="likelihood", **asdict(pair))

        found = [Likelihood(**entry) for entry in self._answers(pairs, key, self._engine.likelihoods)]
        return [(likelihood.logprob, likelihood.greedy) for likelihood in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Not offered.

        Raises:
            EvaluationError: always.
        """
        raise EvaluationError("no benchmark of the registry asks for the likelihood of whole texts; none was computed")

    def _options(self, requests: Sequence[Any]) -> Options:
        """The generation options that all requests share, cut to the model's positions."""
        asked: dict[str, Any] = requests[0].args[1]
        if any(request.args[1] != asked for request in requests):
            raise EvaluationError(f"expected one set of options for a benchmark, got {asked} and others")
        self.max_new_tokens = int(asked["max_gen_toks"])
        if self._engine.positions is not None:
            longest = max(self._engine.prompt_tokens(text, chat=self._chat) for text in {r.args[0] for r in requests})
            self.max_new_tokens = min(self.max_new_tokens, self._engine.positions - longest)
            if self.max_new_tokens < 1:
                raise NotRunError(
                    f"its longest prompt has {longest} tokens, the model has {self._engine.positions} positions"
                )
        return Options(self.max_new_tokens, asked["temperature"], asked["top_p"], tuple(asked["until"]))

    def _answers(
        self,
        asked: Sequence[Any],
        key: Callable[[Any], str],
        ask: Callable[[Sequence[Any]], Iterator[tuple[int, Any]]],
    ) -> list[dict[str, Any]]:
        """Answers from the journal, and the missing ones from the engine, kept as they come."""
        keys = [key(item) for item in asked]
        missing = {key: item for key, item in zip(keys, asked, strict=True) if self._journal.get(key) is None}
        names, waiting = list(missing), list(missing.values())
        known = len(asked) - len(waiting)
        self._progress(known, len(asked))
        fresh: dict[str, dict[str, Any]] = {}
        try:
            for number, (index, answer) in enumerate(ask(waiting) if waiting else (), start=1):
                fresh[names[index]] = asdict(answer)
                if len(fresh) == BATCH:
                    self._journal.add(fresh)
                    fresh = {}
                    self._progress(known + number, len(asked))
        finally:
            self._journal.add(fresh)  # also where the next answer failed
        self._progress(len(asked), len(asked))
        return [self._journal.get(key) or {} for key in keys]
