import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import OlmoeForCausalLM

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.engines.interface import Likelihood, Options, Pair, Prompt
from bai_pipeline.evals.engines.likelihood import continuation_likelihoods
from bai_pipeline.evals.engines.model import open_model_engine
from bai_pipeline.evals.engines.server import ServerEngine
from bai_pipeline.settings import ModelSettings
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer
from tests.evals.judging.judge_server import Asked, Reply, fails, serving

MODEL = ModelSettings(
    num_hidden_layers=2,
    hidden_size=32,
    num_attention_heads=2,
    num_experts=4,
    num_experts_per_tok=2,
    intermediate_size=16,
    max_position_embeddings=64,
)
PREFIX = list(range(5, 30))
PAIRS: list[tuple[list[int], list[int]]] = [
    ([*PREFIX, 7, 8], [9]),
    ([*PREFIX, 7, 8], [10]),
    ([*PREFIX, 7], [8, 9, 10]),
    ([*PREFIX, 3, 4, 5, 6], [2, 2]),
    ([11], [12]),
    ([20, 21, 22], [23]),
    (PREFIX, [7]),
]


@pytest.fixture(scope="module")
def model() -> OlmoeForCausalLM:
    built = build_olmoe(MODEL, build_tokenizer(), seed=1)
    built.train(False)
    return built


def one_by_one(model: OlmoeForCausalLM, context: list[int], continuation: list[int]) -> Likelihood:
    """From the definition: a forward pass over the whole text."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context + continuation])).logits[0].double()
    logprobs = torch.log_softmax(logits, dim=-1)
    places = range(len(context) - 1, len(context) + len(continuation) - 1)
    total = sum(float(logprobs[place, token]) for place, token in zip(places, continuation, strict=True))
    greedy = all(int(logits[place].argmax()) == token for place, token in zip(places, continuation, strict=True))
    return Likelihood(total, greedy)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_likelihoods_are_those_of_each_text_by_itself(model: OlmoeForCausalLM, batch_size: int) -> None:
    found: dict[int, Likelihood] = {}
    for batch in continuation_likelihoods(model, PAIRS, batch_size=batch_size, positions=64):
        found |= dict(batch)
    assert sorted(found) == list(range(len(PAIRS)))
    for number, pair in enumerate(PAIRS):
        expected = one_by_one(model, *pair)
        assert found[number].logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert found[number].greedy == expected.greedy


def test_what_texts_share_is_computed_once(model: OlmoeForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = type(model.model).forward

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(options["input_ids"].numel())
        return forward(self, *args, **options)

    monkeypatch.setattr(type(model.model), "forward", counted)
    pairs = [([*PREFIX, 30 + n, 31], [n]) for n in range(4)]
    list(continuation_likelihoods(model, pairs, batch_size=8, positions=64))
    assert sum(seen) == len(PREFIX) + 4 * 2


def test_a_text_longer_than_the_model_loses_tokens_on_the_left(model: OlmoeForCausalLM) -> None:
    long = [5 + n % 30 for n in range(90)]
    ((_, found),) = next(iter(continuation_likelihoods(model, [(long, [9])], batch_size=1, positions=64)))
    assert found.logprob == pytest.approx(one_by_one(model, long[-64:], [9]).logprob, abs=1e-4)


def test_a_response_ends_before_a_stop_text(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    built = build_olmoe(MODEL, tokenizer, seed=3)
    built.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = open_model_engine(tmp_path, batch_size=2)
    prompts = [Prompt("sum a 3 b 4", 0), Prompt("max a 1 b 2 c 3", 1)]
    plain = dict(engine.generate(prompts, Options(12, 0.0, 1.0), seed=0, total=2, chat=False))
    stop = plain[0].text.split()[3]
    cut = dict(engine.generate(prompts, Options(12, 0.0, 1.0, (stop,)), seed=0, total=2, chat=False))
    assert cut[0].text == plain[0].text[: plain[0].text.index(stop)]
    assert cut[0].finish_reason == "stop"
    engine.close()


def completion(text: str, **choice: Any) -> Reply:
    content = {
        "choices": [
            {"index": 0, "finish_reason": "stop", **choice, "text": text, "message": {"content": text, **choice}}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    return Reply(body=json.dumps(content).encode())


def test_a_server_is_asked_in_chat_or_in_plain_text() -> None:
    with serving(lambda asked, number: completion("seven", reasoning_content="3 + 4")) as server:
        engine = ServerEngine(server.url, "mine", parallel=1)
        chat = engine.render([{"role": "user", "content": "3 + 4?"}])
        ((_, response),) = engine.generate([Prompt(chat, 0)], Options(64, 0.0, 1.0), seed=0, total=1, chat=True)
        list(engine.generate([Prompt("3 + 4 =", 0)], Options(8, 0.6, 0.9, ("\n",)), seed=5, total=1, chat=False))
        first, second = server.asked
        engine.close()
    assert (response.text, response.tokens, response.finish_reason) == ("<think>3 + 4</think>seven", 2, "stop")
    assert first.path == "/v1/chat/completions"
    assert first.body["messages"] == [{"role": "user", "content": "3 + 4?"}]
    assert "seed" not in first.body
    assert second.path == "/v1/completions"
    assert (second.body["prompt"], second.body["stop"], second.body["top_p"]) == ("3 + 4 =", ["\n"], 0.9)
    assert isinstance(second.body["seed"], int)


def test_a_server_s_echo_gives_the_likelihood_of_the_continuation_alone() -> None:
    echo = {
        "tokens": ["Is", " it", " B", "!"],
        "text_offset": [0, 2, 5, 7],
        "token_logprobs": [None, -1.0, -0.25, -3.0],
        "top_logprobs": [None, {" it": -1.0}, {" B": -0.25}, {"?": -0.1}],
    }
    with serving(lambda asked, number: completion("Is it B!", logprobs=echo)) as server:
        engine = ServerEngine(server.url, "mine", parallel=1)
        ((_, found),) = engine.likelihoods([Pair("Is it", " B")])
        engine.close()
    assert found == Likelihood(-0.25, True)


def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not() -> None:
    def busy(asked: Asked, number: int) -> Reply:
        return fails(503, "busy") if number < 2 else completion("at last")

    with serving(busy) as server:
        engine = ServerEngine(server.url, "mine", parallel=1, first_wait=0.01)
        ((_, response),) = engine.generate([Prompt("x", 0)], Options(8, 0.0, 1.0), seed=0, total=1, chat=False)
        assert (response.text, len(server.asked)) == ("at last", 3)
        engine.close()
    with serving(lambda asked, number: fails(404, "no model 'mine'")) as server:
        engine = ServerEngine(server.url, "mine", parallel=1, first_wait=0.01)
        with pytest.raises(EvaluationError, match="no model 'mine'"):
            list(engine.generate([Prompt("x", 0)], Options(8, 0.0, 1.0), seed=0, total=1, chat=False))
        assert len(server.asked) == 1
        engine.close()
