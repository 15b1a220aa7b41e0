import hashlib
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.judging import (
    BudgetExceeded,
    FreeFormItem,
    FreeFormResult,
    JudgeError,
    JudgeSettings,
    judge_free_form,
)
from bai_pipeline.evals.judging.cache import Completion, CompletionCache
from bai_pipeline.progress import SilentReporter
from tests.evals.judging.conftest import judge_at
from tests.evals.judging.judge_server import Asked, Reply, fails, says, serving

KEY = "sk-7fQ-very-secret"
RIGHT = says("It agrees. [[1.0]]")


def items(count: int) -> list[FreeFormItem]:
    return [FreeFormItem(f"q{number}", f"question {number}?", ["yes"], "yes") for number in range(count)]


def grade(settings: JudgeSettings, cache: Path, count: int = 1) -> FreeFormResult:
    return judge_free_form(items(count), settings, cache, SilentReporter())


def first_then_right(first: Reply) -> Callable[[Asked, int], Reply]:
    return lambda asked, number: first if number == 0 else RIGHT


# -- the protocol ------------------------------------------------------------------------------------------------------


def test_a_request_holds_model_messages_temperature_and_max_tokens_and_nothing_else(tmp_path: Path) -> None:
    with serving(lambda asked, number: RIGHT) as server:
        result = grade(judge_at(server.url + "/", temperature=0.5), tmp_path)
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.authorization is None
    assert set(asked.body) == {"model", "messages", "temperature", "max_tokens"}
    assert (asked.body["model"], asked.body["temperature"], asked.body["max_tokens"]) == ("judge", 0.5, 64)
    assert [message["role"] for message in asked.body["messages"]] == ["system", "user"]
    assert [given.score for given in result.grades] == [1.0]


def test_no_more_requests_are_under_way_than_settings_allow(tmp_path: Path) -> None:
    lock = threading.Lock()
    here: list[int] = [0, 0]

    def behaviour(asked: Asked, number: int) -> Reply:
        with lock:
            here[0] += 1
            here[1] = max(here)
        threading.Event().wait(0.03)
        with lock:
            here[0] -= 1
        return RIGHT

    with serving(behaviour) as server:
        grade(judge_at(server.url, parallel=3), tmp_path, 12)
    assert here[1] == 3


@pytest.mark.parametrize(
    "first",
    [
        fails(408, "slow"),
        fails(409, "conflict"),
        fails(429, "too many"),
        fails(500, "broken"),
        fails(503, "loading"),
        Reply(body=b"{"),
        Reply(body=b"[1, 2]"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"error": {"message": "upstream"}}'),
        Reply(body=b'{"choices": [{"message": {"content": 7}}]}'),
        Reply(body=RIGHT.body, dropped=True),
        Reply(body=RIGHT.body, delay=3.0),
    ],
    ids=lambda reply: f"{reply.status}-{reply.body[:24]!r}-{reply.dropped}-{reply.delay}",
)
def test_what_may_pass_is_tried_again(tmp_path: Path, first: Reply) -> None:
    with serving(first_then_right(first)) as server:
        result = grade(judge_at(server.url, timeout=1.0), tmp_path)
    assert [given.score for given in result.grades] == [1.0]
    assert len(server.asked) == 2
    assert (result.cost.requests, result.cost.retries) == (2, 1)
    assert server.asked[0].body == server.asked[1].body


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 422])
def test_what_cannot_pass_is_an_error_at_once_with_address_status_and_message(tmp_path: Path, status: int) -> None:
    with (
        serving(lambda asked, number: fails(status, "we do not like it")) as server,
        pytest.raises(JudgeError) as error,
    ):
        grade(judge_at(server.url), tmp_path)
    assert f"no verdict on question 'q0' from {server.url}/chat/completions: HTTP {status}: we do not like it" in str(
        error.value
    )
    assert len(server.asked) == 1


def test_attempts_end_and_what_the_last_one_met_is_told(tmp_path: Path) -> None:
    with (
        serving(lambda asked, number: fails(503, "loading")) as server,
        pytest.raises(JudgeError, match=r"after 3 attempts: HTTP 503: loading; 0 of 1 verdicts are done and cached"),
    ):
        grade(judge_at(server.url, max_retries=2), tmp_path)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>\n  gateway </html>", "expected JSON, got <html> gateway </html>"),
        (b'{"detail": "no such model"}', r"expected choices\[0\].message.content, a text, got no such model"),
        (b"", "expected JSON, got no message"),
    ],
)
def test_an_answer_that_is_no_completion_is_shown(tmp_path: Path, body: bytes, message: str) -> None:
    with serving(lambda asked, number: Reply(body=body)) as server, pytest.raises(JudgeError, match=message):
        grade(judge_at(server.url, max_retries=0), tmp_path)


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(JudgeError, match=rf"from {url}/chat/completions after 3 attempts: ConnectError"):
            grade(judge_at(url), tmp_path)


def test_waits_double(tmp_path: Path) -> None:
    # nominal waits 0.2 and 0.4 seconds, each shortened by up to half
    with serving(lambda asked, number: fails(500, "broken") if number < 2 else RIGHT) as server:
        grade(judge_at(server.url, retry_wait=0.2), tmp_path)
    first, second, third = (asked.at for asked in server.asked)
    assert 0.1 <= second - first < 0.35
    assert 0.2 <= third - second < 0.7


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(tmp_path: Path, form: str) -> None:
    def behaviour(asked: Asked, number: int) -> Reply:
        # a date has whole seconds: two seconds ahead is more than one
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        return fails(429, "slow down", Retry_After="1" if form == "seconds" else date) if number == 0 else RIGHT

    with serving(behaviour) as server:
        grade(judge_at(server.url), tmp_path)
    assert 0.95 <= server.asked[1].at - server.asked[0].at < 3.0


def test_a_retry_after_that_means_nothing_is_passed_over(tmp_path: Path) -> None:
    with serving(first_then_right(fails(429, "slow down", Retry_After="soon"))) as server:
        assert grade(judge_at(server.url), tmp_path).cost.retries == 1


def test_a_server_that_asks_for_an_hour_is_given_up(tmp_path: Path) -> None:
    with (
        serving(lambda asked, number: fails(429, "quota", Retry_After="3600")) as server,
        pytest.raises(JudgeError, match=r"HTTP 429: quota \(the server asks to wait 3600 seconds\)"),
    ):
        grade(judge_at(server.url), tmp_path)
    assert len(server.asked) == 1


def test_after_a_refusal_no_further_request_starts(tmp_path: Path) -> None:
    with serving(lambda asked, number: fails(401, "who are you")) as server, pytest.raises(JudgeError) as error:
        grade(judge_at(server.url, parallel=2), tmp_path, 20)
    assert len(server.asked) <= 2
    assert "the environment variable BAI_JUDGE_API_KEY is not set" in str(error.value)
    assert "0 of 20 verdicts are done and cached, 20 are missing" in str(error.value)


def test_an_interruption_ends_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    class Interrupted(SilentReporter):
        def progress(self, done: int, total: int, **numbers: float) -> None:
            raise KeyboardInterrupt

    with serving(lambda asked, number: Reply(body=RIGHT.body, delay=0.05)) as server:
        with pytest.raises(KeyboardInterrupt):
            judge_free_form(items(20), judge_at(server.url), tmp_path, Interrupted())
        asked = len(server.asked)
        assert asked <= 5
        grade(judge_at(server.url), tmp_path, 20)
        assert len(server.asked) == 20


# -- the key -----------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_is_in_no_file_message_or_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)

    def behaviour(asked: Asked, number: int) -> Reply:
        return RIGHT if number < 3 else fails(401, f"Incorrect key {KEY} provided")

    with serving(behaviour) as server:
        settings = judge_at(server.url, api_key_variable="MY_JUDGE_KEY", parallel=1)
        result = grade(settings, tmp_path, 2)
        with pytest.raises(JudgeError) as error:
            grade(settings, tmp_path, 4)
    assert {asked.authorization for asked in server.asked} == {f"Bearer {KEY}"}
    assert "Incorrect key (key) provided" in str(error.value)
    assert "the key that was sent is of the environment variable MY_JUDGE_KEY" in str(error.value)
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not [text for text in [*files, str(error.value), caplog.text, repr(settings), repr(result)] if KEY in text]


@pytest.mark.parametrize("value", [f"{KEY}\n{KEY}", f"{KEY}é", f"{KEY} x"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("BAI_JUDGE_API_KEY", value)
    with pytest.raises(EvaluationError, match="the environment variable BAI_JUDGE_API_KEY holds no key") as error:
        grade(judge_at("http://127.0.0.1:9/v1"), tmp_path)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": f"http://me:{KEY}@host/v1"}, "expected an address without user name"),
        ({"url": f"http://host/v1?key={KEY}"}, "expected an address without user name"),
        ({"url": "ftp://host/v1"}, "expected a base address"),
        ({"url": "host:8000"}, "expected a base address"),
        ({"url": "http://host:port/v1"}, "url"),
        ({"api_key_variable": KEY}, "expected the name of an environment variable"),
        ({"api_key": KEY}, "api_key"),
        ({"budget": 5.0}, "a budget of 5.0 dollars caps nothing"),
    ],
)
def test_settings_that_cannot_work_are_refused_and_repeat_no_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as error:
        judge_at(**{"url": "http://host/v1", **changes})  # type: ignore[arg-type]
    assert KEY not in str(error.value)


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_a_second_run_asks_nothing_and_gives_the_same(tmp_path: Path) -> None:
    with serving(lambda asked, number: says(f"[[0.{number}]]")) as server:
        first = grade(judge_at(server.url, parallel=4), tmp_path / "cache", 9)
        assert len(server.asked) == 9
    with serving(lambda asked, number: fails(404, "not to be asked")) as elsewhere:
        second = grade(judge_at(elsewhere.url), tmp_path / "cache", 9)
    assert elsewhere.asked == []
    assert second == first
    assert (first.cost.requests, first.cost.cached, second.cost.requests, second.cost.cached) == (9, 0, 0, 9)


def test_another_model_temperature_or_length_is_another_request(tmp_path: Path) -> None:
    with serving(lambda asked, number: RIGHT) as server:
        for changes in ({}, {"model": "other"}, {"temperature": 0.1}, {"max_tokens": 65}, {"timeout": 9.0}):
            grade(judge_at(server.url, **changes), tmp_path)
    assert len(server.asked) == 4  # the time-out changes no answer


def test_a_file_is_named_by_the_request_and_holds_the_answer(tmp_path: Path) -> None:
    with serving(lambda asked, number: says("é [[1.0]] \ud83d", finish_reason="length")) as server:
        result = grade(judge_at(server.url), tmp_path)
    body = server.asked[0].body
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == [f"{digest}.json"]
    assert result.grades[0].requests == (digest,)
    assert json.loads((tmp_path / f"{digest}.json").read_text()) == {
        "request": digest,
        "text": "é [[1.0]] \ud83d",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 10, "completion_tokens": 2},
    }


def test_half_a_character_in_an_answer_is_judged_too(tmp_path: Path) -> None:
    cut = [FreeFormItem("q", "question?", ["yes"], "yes \ud83d")]
    with serving(lambda asked, number: RIGHT) as server:
        first = judge_free_form(cut, judge_at(server.url), tmp_path, SilentReporter())
        assert judge_free_form(cut, judge_at(server.url), tmp_path, SilentReporter()) == first
    assert ["yes \ud83d" in asked.user for asked in server.asked] == [True]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"text"', '"txet"'),
        lambda text: text.replace('"request": "', '"request": "0'),
    ],
    ids=["empty", "half", "no object", "no text", "of another request"],
)
def test_a_damaged_file_is_asked_for_again(tmp_path: Path, damage: Callable[[str], str]) -> None:
    with serving(lambda asked, number: RIGHT) as server:
        first = grade(judge_at(server.url), tmp_path, 3)
        broken = next(iter(sorted(tmp_path.iterdir())))
        whole = broken.read_text()
        broken.write_text(damage(whole))
        assert grade(judge_at(server.url), tmp_path, 3) == first
        assert len(server.asked) == 4
        assert broken.read_text() == whole


def test_after_the_server_died_the_next_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    def mortal(asked: Asked, number: int) -> Reply:
        return RIGHT if number < 4 else Reply(body=RIGHT.body, dropped=True)

    with serving(mortal) as server, pytest.raises(JudgeError) as error:
        grade(judge_at(server.url), tmp_path, 10)
    assert "4 of 10 verdicts are done and cached, 6 are missing: run again to ask for these only" in str(error.value)
    with serving(lambda asked, number: RIGHT) as other:
        result = grade(judge_at(other.url), tmp_path, 10)
    assert len(other.asked) == 6
    assert (result.cost.cached, result.cost.requests) == (4, 6)
    assert not {asked.user for asked in other.asked} & {asked.user for asked in server.asked[:4]}


def test_equal_requests_at_the_same_time_are_sent_once(tmp_path: Path) -> None:
    same = [FreeFormItem(f"q{number}", "question?", ["yes"], "yes") for number in range(4)]
    with serving(lambda asked, number: Reply(body=says(f"[[0.{number}]]").body, delay=0.1)) as server:
        result = judge_free_form(same, judge_at(server.url, parallel=4), tmp_path, SilentReporter())
    assert len(server.asked) == 1
    assert {given.score for given in result.grades} == {0.0}


def test_the_first_of_two_answers_to_a_request_stands(tmp_path: Path) -> None:
    cache = CompletionCache(tmp_path)
    first, second = Completion("[[1.0]]", "stop", None), Completion("[[0.0]]", "stop", None)
    assert cache.keep("ab", first) == first
    assert cache.keep("ab", second) == first
    assert cache.read("ab") == first


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from bai_pipeline.evals.judging import FreeFormItem, JudgeSettings, judge_free_form\n"
        "from bai_pipeline.progress import SilentReporter\n"
        "items = [FreeFormItem(str(n), str(n), ['yes'], 'yes') for n in range(30)]\n"
        "settings = JudgeSettings(url=sys.argv[1], model='judge', parallel=3)\n"
        "done = judge_free_form(items, settings, Path(sys.argv[2]), SilentReporter())\n"
        "print(done.cost.requests + done.cost.cached, [grade.score for grade in done.grades])\n"
    )
    with serving(lambda asked, number: Reply(body=RIGHT.body, delay=0.02)) as server:
        command = [sys.executable, "-c", code, server.url, str(tmp_path)]
        runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [run.communicate()[0] for run in runs]
    assert said == [f"30 {[1.0] * 30}\n"] * 2
    assert len(list(tmp_path.iterdir())) == 30  # and no temporary file
    assert len(server.asked) <= 60


# -- the cost ----------------------------------------------------------------------------------------------------------


def test_dollars_are_the_tokens_that_the_server_reports(tmp_path: Path) -> None:
    with serving(lambda asked, number: RIGHT) as server:
        cost = grade(judge_at(server.url, price_input=3.0, price_output=15.0), tmp_path, 5).cost
    # 5 answers of 10 and 2 tokens: 50 · 3/10⁶ + 10 · 15/10⁶
    assert (cost.prompt_tokens, cost.completion_tokens, cost.estimated) == (50, 10, 0)
    assert cost.dollars == pytest.approx(0.0003)
    assert 0.0 < cost.seconds < 30.0


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 10}, {"prompt_tokens": -1, "completion_tokens": 2}, 7])
def test_without_usage_the_tokens_are_bounded_from_above(tmp_path: Path, usage: object) -> None:
    with serving(lambda asked, number: says("[[1.0]]", usage)) as server:
        cost = grade(judge_at(server.url), tmp_path).cost
    text = "".join(message["content"] for message in server.asked[0].body["messages"])
    assert cost.prompt_tokens >= len(text.encode())
    assert (cost.completion_tokens, cost.estimated) == (64, 1)


def test_an_answer_that_did_not_arrive_whole_is_counted_as_if_it_were_the_longest(tmp_path: Path) -> None:
    with serving(first_then_right(Reply(body=RIGHT.body, dropped=True))) as server:
        cost = grade(judge_at(server.url), tmp_path).cost
    assert (cost.completion_tokens, cost.estimated) == (64 + 2, 1)


def test_at_its_budget_a_run_stops_and_says_what_is_missing(tmp_path: Path) -> None:
    prices: dict[str, object] = {"price_output": 1_000_000.0, "parallel": 1}  # a dollar a token: two an answer
    with serving(lambda asked, number: RIGHT) as server:
        with pytest.raises(BudgetExceeded) as error:
            grade(judge_at(server.url, budget=5.0, **prices), tmp_path, 10)
        assert len(server.asked) == 3  # 0, 2 and 4 dollars are below 5; 6 are not
        fault = error.value
        assert (fault.spent, fault.budget, fault.done, fault.missing) == (6.0, 5.0, 3, 7)
        assert isinstance(fault, EvaluationError)
        assert "3 of 10 verdicts are done and cached, 7 are missing" in str(fault)
        assert len(list(tmp_path.iterdir())) == 3
        result = grade(judge_at(server.url, budget=100.0, **prices), tmp_path, 10)
        assert len(server.asked) == 10
    assert (result.cost.cached, result.cost.dollars) == (3, 14.0)


def test_a_budget_is_overrun_by_no_more_than_what_is_under_way(tmp_path: Path) -> None:
    settings: dict[str, object] = {"price_output": 1_000_000.0, "parallel": 4, "budget": 5.0}
    with (
        serving(lambda asked, number: Reply(body=RIGHT.body, delay=0.02)) as server,
        pytest.raises(BudgetExceeded) as error,
    ):
        grade(judge_at(server.url, **settings), tmp_path, 40)
    assert len(server.asked) <= 3 + 4
    assert error.value.done == len(server.asked) == len(list(tmp_path.iterdir()))


def test_what_is_cached_counts_as_done_when_the_budget_is_reached_before_it(tmp_path: Path) -> None:
    with serving(lambda asked, number: RIGHT) as server:
        judge_free_form(items(10)[6:], judge_at(server.url), tmp_path, SilentReporter())
        with pytest.raises(BudgetExceeded) as error:
            grade(judge_at(server.url, budget=0.0), tmp_path, 10)
        assert (error.value.done, error.value.missing, len(server.asked)) == (4, 6, 4)


def test_a_budget_of_nothing_is_enough_for_what_is_cached(tmp_path: Path) -> None:
    with serving(lambda asked, number: RIGHT) as server:
        first = grade(judge_at(server.url), tmp_path, 3)
        assert grade(judge_at(server.url, budget=0.0), tmp_path, 3) == first


def test_repeated_attempts_are_under_the_budget_too(tmp_path: Path) -> None:
    # each lost answer counts 64 tokens, a dollar each
    with (
        serving(lambda asked, number: Reply(body=RIGHT.body, dropped=True)) as server,
        pytest.raises(BudgetExceeded),
    ):
        grade(judge_at(server.url, price_output=1_000_000.0, budget=100.0, max_retries=9), tmp_path)
    assert len(server.asked) == 2


def test_importing_the_judge_room_loads_no_http_client_and_no_model_library() -> None:
    code = "import bai_pipeline.evals.judging, sys; print({'httpx', 'torch', 'lm_eval', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
