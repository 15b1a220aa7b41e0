"""An engine that answers as a test tells it to."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from bai_pipeline.evals.engines.interface import Likelihood, Options, Pair, Prompt, Response


class ScriptedEngine:
    """Says `answer(prompt)`; of options it likes the one that `answer(context)` gives."""

    name = "scripted"

    def __init__(
        self, answer: Callable[[str], str], *, template: bool = True, positions: int | None = None, opening: str = ""
    ) -> None:
        self._answer, self._template, self.positions, self._opening = answer, template, positions, opening
        self.asked: list[str] = []
        self.options: list[Options] = []

    def has_chat_template(self) -> bool:
        return self._template

    def render(self, messages: Sequence[Mapping[str, str]], *, continued: bool = False) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>" + self._opening

    def prompt_tokens(self, text: str, *, chat: bool) -> int:
        return len(text.split())

    def generate(
        self, prompts: Sequence[Prompt], options: Options, *, seed: int, total: int, chat: bool
    ) -> Iterator[tuple[int, Response]]:
        self.options.append(options)
        for index, prompt in reversed(list(enumerate(prompts))):
            self.asked.append(prompt.text)
            text = self._answer(prompt.text)
            yield index, Response(text, len(text.split()) + 1, "stop")

    def likelihoods(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Likelihood]]:
        for index, pair in enumerate(pairs):
            self.asked.append(pair.context)
            liked = pair.continuation.strip() == self._answer(pair.context)
            yield index, Likelihood(-0.1 if liked else -3.0, liked)

    def close(self) -> None:
        return None
