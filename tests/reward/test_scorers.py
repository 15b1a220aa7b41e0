import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bai_pipeline.errors import RewardError
from bai_pipeline.loading import load_tokenizer
from bai_pipeline.progress import SilentReporter
from bai_pipeline.reward.model import load_reward_model, token_scores
from bai_pipeline.reward.scorers import (
    HttpScorer,
    PythonScorer,
    RewardModelScorer,
    VerifierScorer,
    build_scorer,
)
from bai_pipeline.reward.training import train_reward_model
from bai_pipeline.tables import write_table
from tests.reward.conftest import TRAINING, preference, question

PROMPTS = [question("max a 4 b 7"), question("sum a 1 b 2 c 3")]
RESPONSES = ["ans 7", "ok so ok so ans 5"]
ANSWERS = ["7", "6"]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory, init: Path) -> Path:
    root = tmp_path_factory.mktemp("reward")
    write_table([preference(number) for number in range(16)], root / "preferences.parquet")
    (root / "model").mkdir()
    settings = TRAINING.model_copy(update={"steps": 3})
    train_reward_model(init, root / "preferences.parquet", root / "model", settings, 0, SilentReporter())
    return root / "model"


def score_of(path: Path, text: str) -> float:
    """The score at the last token of a text, alone and unpadded."""
    model, tokenizer = load_reward_model(path), load_tokenizer(path)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return token_scores(model, ids, torch.ones_like(ids))[0, -1].item()


def test_a_reward_model_scores_each_response_at_its_end_token(reward_model: Path) -> None:
    scores = build_scorer("model", reward_model)(PROMPTS, RESPONSES, ANSWERS)
    assert scores == pytest.approx(
        [
            score_of(reward_model, "<bos> <user> max a 4 b 7 <asst> ans 7 <eos>"),
            score_of(reward_model, "<bos> <user> sum a 1 b 2 c 3 <asst> ok so ok so ans 5 <eos>"),
        ],
        abs=1e-5,
    )


def test_a_truncated_response_is_scored_at_its_last_token(reward_model: Path) -> None:
    scorer = RewardModelScorer.load(reward_model)
    (score,) = scorer(PROMPTS[:1], ["ok so"], [None], truncated=[True])
    assert score == pytest.approx(score_of(reward_model, "<bos> <user> max a 4 b 7 <asst> ok so"), abs=1e-5)
    assert score != pytest.approx(scorer(PROMPTS[:1], ["ok so"], [None])[0], abs=1e-5)


def test_scores_keep_the_order_of_many_responses_of_all_lengths(reward_model: Path) -> None:
    responses = ["ok " * (number * 7 % 20) + "ans 7" for number in range(70)]
    scorer = RewardModelScorer.load(reward_model)
    together = scorer([PROMPTS[0]] * 70, responses, [None] * 70)
    alone = [scorer([PROMPTS[0]], [response], [None])[0] for response in responses]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_verifier_gives_plus_and_minus_one() -> None:
    assert build_scorer("verifier")(PROMPTS, RESPONSES, ANSWERS) == [1.0, -1.0]


def test_a_verifier_without_an_answer_is_an_error_naming_the_prompt() -> None:
    with pytest.raises(RewardError, match="prompt 1 of the batch has none"):
        VerifierScorer()(PROMPTS, RESPONSES, ["7", None])


@pytest.fixture
def user_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("user_rewards")
    monkeypatch.setitem(sys.modules, "user_rewards", module)
    return module


def test_a_python_function_gives_scores(user_module: ModuleType) -> None:
    user_module.score = lambda prompts, responses, answers: [len(response) for response in responses]  # type: ignore[attr-defined]
    assert build_scorer("python", "user_rewards:score")(PROMPTS, RESPONSES, ANSWERS) == [5.0, 17.0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], "expected 2 scores from user_rewards:score, got 1 values"),
        (None, "expected 2 scores from user_rewards:score, got NoneType"),
        ([1.0, float("nan")], "expected a finite number from user_rewards:score, got nan for response 1"),
        ([True, 1.0], "got True for response 0"),
    ],
)
def test_scores_that_are_no_numbers_or_too_few_are_errors(
    user_module: ModuleType, result: object, message: str
) -> None:
    user_module.score = lambda *_: result  # type: ignore[attr-defined]
    with pytest.raises(RewardError, match=message):
        PythonScorer("user_rewards:score")(PROMPTS, RESPONSES, ANSWERS)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("user_rewards", 'expected "module:function"'),
        ("user_rewards:", 'expected "module:function"'),
        ("absent_rewards:score", "cannot import the scorer 'absent_rewards:score'"),
        ("user_rewards:absent", "cannot import the scorer 'user_rewards:absent'"),
        ("user_rewards:__name__", "expected a function, 'user_rewards:__name__' is str"),
    ],
)
def test_what_is_no_function_is_refused(user_module: ModuleType, target: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        PythonScorer(target)


class Service(BaseHTTPRequestHandler):
    """Scores responses by length, or answers what `reply` says."""

    reply: tuple[int, bytes] | None = None

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert set(body) == {"prompts", "responses", "answers"}
        status, content = self.reply or (200, json.dumps({"scores": [len(r) for r in body["responses"]]}).encode())
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def service() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/score"
        server.shutdown()
        thread.join()


def test_a_service_gives_scores(service: str) -> None:
    assert build_scorer("http", service)(PROMPTS, RESPONSES, ANSWERS) == [5.0, 17.0]


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (500, b"", "no scores from http://.*/score: HTTP Error 500"),
        (200, b"not json", "no scores from"),
        (200, b"[1, 2]", r'expected {"scores": \[...\]} from'),
        (200, b'{"scores": [1]}', "expected 2 scores from http://.*/score, got 1 values"),
    ],
)
def test_a_service_that_fails_is_an_error_with_its_address(
    service: str, monkeypatch: pytest.MonkeyPatch, status: int, content: bytes, message: str
) -> None:
    monkeypatch.setattr(Service, "reply", (status, content))
    with pytest.raises(RewardError, match=message):
        HttpScorer(service)(PROMPTS, RESPONSES, ANSWERS)


def test_an_address_must_be_http() -> None:
    with pytest.raises(RewardError, match=r"expected an http:// or https:// address, got 'file:///etc/passwd'"):
        HttpScorer("file:///etc/passwd")


def test_an_unknown_kind_and_a_missing_target_are_errors() -> None:
    with pytest.raises(RewardError, match="expected a reward of kind model, verifier, http or python, got 'magic'"):
        build_scorer("magic")  # type: ignore[arg-type]
    with pytest.raises(RewardError, match="a reward of kind http needs a path, an address or a function"):
        build_scorer("http")
