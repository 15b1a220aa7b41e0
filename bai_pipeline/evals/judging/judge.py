"""A judge that asks nothing twice, and the thread pool of a judging run."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

from bai_pipeline.errors import DataError
from bai_pipeline.eval_settings import JudgeSettings
from bai_pipeline.evals.judging.cache import ChatRequest, Completion, CompletionCache, Messages
from bai_pipeline.evals.judging.client import ChatClient
from bai_pipeline.evals.judging.costs import CostReport, Ledger
from bai_pipeline.evals.judging.errors import BudgetExceeded, Halted, JudgeError
from bai_pipeline.evals.judging.verdicts import Reading, spoken
from bai_pipeline.progress import Reporter

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict(Generic[T]):
    """What the judge was understood to say."""

    value: T | None
    """None: unparsable."""
    requests: tuple[str, ...]
    """Digests of what was asked: the names of the cache's files, without .json."""


class Judge:
    """One run's access to the judge; may be used by several threads."""

    def __init__(self, settings: JudgeSettings, cache: Path) -> None:
        """Ask as `settings` say and keep the answers below the directory `cache`."""
        self._settings = settings
        self._cache = CompletionCache(cache)
        self._ledger = Ledger(settings)
        self._halted = threading.Event()
        self._client = ChatClient(settings, self._ledger, self._halted)
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._fault: JudgeError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def dollars(self) -> float:
        """Spent so far in this run."""
        return self._ledger.dollars

    def report(self) -> CostReport:
        """The cost of the run up to now."""
        return self._ledger.report()

    def verdict(self, messages: Messages, what: str, parse: Callable[[str], Reading[T]], reminder: str) -> Verdict[T]:
        """Ask, and where the answer holds no label at all, ask once more to finish with one.

        Args:
            what: is judged, as an error names it.
            parse: reads the label of an answer, see `verdicts`.
            reminder: the user's second turn.

        Raises:
            Halted: the answer is not cached and no further request starts; the run's end says why.
        """
        digest, completion = self._ask(messages, what)
        text = spoken(completion.text)
        reading = parse(text)
        if reading.found or not completion.text.strip():
            return Verdict(reading.value, (digest,))
        turns = ({"role": "assistant", "content": completion.text}, {"role": "user", "content": reminder})
        second, completion = self._ask((*messages, *turns), what)
        return Verdict(parse(spoken(completion.text)).value, (digest, second))

    def halt(self) -> None:
        """Start no further request; those under way end and are cached."""
        self._halted.set()

    def incomplete(self, done: int, missing: int) -> JudgeError | BudgetExceeded:
        """Why verdicts are missing at the end of a run."""
        if self._fault is None:
            budget = self._settings.budget
            return BudgetExceeded(self._ledger.dollars, budget if budget is not None else 0.0, done, missing)
        return JudgeError(
            f"{self._fault}; {done} of {done + missing} verdicts are done and cached, {missing} are missing: run again "
            "to ask for these only; no score was written"
        )

    def _ask(self, messages: Messages, what: str) -> tuple[str, Completion]:
        settings = self._settings
        request = ChatRequest(settings.model, messages, settings.temperature, settings.max_tokens)
        digest = request.digest()
        with self._lock:
            asking = self._asking.setdefault(digest, threading.Lock())
        with asking:  # an equal request of another thread is awaited, not sent twice
            cached = self._cache.read(digest)
            if cached is not None:
                self._ledger.count_cached()
                return digest, cached
            try:
                completion = self._client.complete(request, what)
            except JudgeError as error:
                with self._lock:
                    self._fault = self._fault or error
                self.halt()
                raise Halted("the judge has failed") from error
            return digest, self._cache.keep(digest, completion)


def judge_all(
    tasks: Sequence[Callable[[Judge], T]], settings: JudgeSettings, cache: Path, progress: Reporter
) -> tuple[list[T], CostReport]:
    """Run tasks that each ask the judge for one verdict, `settings.parallel` at a time.

    After a failure, or when the budget is reached, what is cached is still read, so that the error's counts are exact.

    Returns:
        the tasks' results in their order, and the cost.

    Raises:
        BudgetExceeded: the cap was reached before the last verdict; what is done is cached.
        JudgeError: the server refused a request or stayed away; what is done is cached.
    """
    done = 0
    with Judge(settings, cache) as judge:
        with ThreadPoolExecutor(settings.parallel, thread_name_prefix="judge") as pool:
            futures = [pool.submit(task, judge) for task in tasks]
            try:
                for future in as_completed(futures):
                    if isinstance(future.exception(), Halted):
                        continue
                    future.result()
                    done += 1
                    progress.progress(done, len(tasks), dollars=judge.dollars)
            finally:
                judge.halt()  # on an interruption the tasks that have not started end at once
        if done < len(tasks):
            raise judge.incomplete(done, len(tasks) - done)
        return [future.result() for future in futures], judge.report()


def check_ids(ids: Sequence[str], what: str) -> None:
    """Raises DataError where there are none, or one occurs twice."""
    if not ids:
        raise DataError(f"expected {what}, got none; the judge was not asked")
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"expected {what} with different ids, got {twice[0]!r} twice; the judge was not asked")
