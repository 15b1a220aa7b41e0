"""The vLLM engine against a stand-in for its worker: the checkpoint it is given, the calls, and every way to fail.

vLLM itself: test_rollouts_vllm_soak.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, OlmoeForCausalLM

from bai_pipeline.errors import DataError, TrainingError
from bai_pipeline.ppo.randomness import derive_seed
from bai_pipeline.ppo.rollouts import vllm_worker, weights_directory, worker_process
from bai_pipeline.ppo.rollouts.interface import RolloutEngine, Sampling
from bai_pipeline.ppo.rollouts.vllm import VllmEngine, find_interpreter, logprobs_mode, own_device
from tests.merging.models import TIED_LLAMA, save_models

STAND_IN = Path(__file__).with_name("rollout_worker.py")
ROOT = Path(__file__).parents[2]

Build = Callable[..., VllmEngine]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Where the stand-in writes what it was asked."""
    directory = tmp_path / "record"
    directory.mkdir()
    return directory


@pytest.fixture
def build(world: Path, record: Path) -> Iterator[Build]:
    """An engine over the stand-in, closed at the end."""
    engines = []

    def make(*, fault: str = "", policy: Path = world / "actor", **options: Any) -> VllmEngine:
        environment = {"FAKE_RECORD": str(record), "FAKE_FAULT": fault}
        made = VllmEngine(
            policy, python=Path(sys.executable), worker=STAND_IN, environment=environment, **{"timeout": 60, **options}
        )
        engines.append(made)
        return made

    yield make
    for engine in engines:
        engine.close()


def calls(record: Path, kind: str) -> list[dict[str, Any]]:
    lines = (record / "calls.jsonl").read_text().splitlines()
    return [call for call in map(json.loads, lines) if call["call"] == kind]


def workers_of(directory: Path) -> list[int]:
    """Processes that were started with this directory as an argument."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(directory).encode() in command.split(b"\0"):
                found.append(int(entry.name))
    return found


def is_gone(group: int) -> bool:
    """No process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- weights -----------------------------------------------------------------------------------------------------------


def test_the_worker_loads_the_checkpoint_that_transformers_would_save(
    build: Build, world: Path, record: Path, policy: OlmoeForCausalLM
) -> None:
    build().synchronize(policy.named_parameters())
    ours = load_file(record / "policy-0" / "model.safetensors")
    theirs = load_file(world / "actor" / "model.safetensors")
    assert "model.layers.1.mlp.experts.3.gate_proj.weight" in ours
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert json.loads((record / "policy-0" / "config.json").read_text())["architectures"] == ["OlmoeForCausalLM"]


def test_each_synchronization_replaces_the_weights(build: Build, record: Path, policy: OlmoeForCausalLM) -> None:
    engine = build()
    engine.synchronize(policy.named_parameters())
    engine.synchronize((name, value + 1) for name, value in policy.named_parameters())
    loaded = AutoModelForCausalLM.from_pretrained(record / "policy-1")
    for name, value in policy.named_parameters():
        assert torch.equal(loaded.get_parameter(name), value + 1)
    assert len(calls(record, "load")) == 2


def test_weights_may_have_the_names_of_a_checkpoint(build: Build, world: Path, record: Path) -> None:
    saved = load_file(world / "actor" / "model.safetensors")
    build().synchronize(saved.items())
    assert (record / "policy-0" / "model.safetensors").read_bytes()
    loaded = load_file(record / "policy-0" / "model.safetensors")
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_weights_are_rounded_once_to_the_dtype_of_the_engine(
    build: Build, record: Path, policy: OlmoeForCausalLM
) -> None:
    build(dtype="bfloat16").synchronize(policy.named_parameters())
    written = load_file(record / "policy-0" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(written, policy.lm_head.weight.to(torch.bfloat16))
    assert calls(record, "load")[0]["options"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_parameter_may_come_under_either_of_its_names(
    build: Build, tmp_path: Path, record: Path, name: str
) -> None:
    path = save_models(tmp_path, TIED_LLAMA, torch.float32)["base_model"]
    weights = load_file(path / "model.safetensors")
    tied = weights.pop("model.embed_tokens.weight")
    build(policy=path).synchronize({**weights, name: tied}.items())
    written = load_file(record / "policy-0" / "model.safetensors")
    assert torch.equal(written["model.embed_tokens.weight"], tied)
    assert written.keys() == load_file(path / "model.safetensors").keys()


def test_weights_that_do_not_fit_are_gone_through_and_refused_by_name(build: Build, policy: OlmoeForCausalLM) -> None:
    engine, seen = build(), []

    def wrong() -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in [*policy.named_parameters(), ("model.extra", torch.zeros(1))]:
            seen.append(name)
            if name == "lm_head.weight":
                yield name, value[1:]
            elif "layers.1.mlp.experts.down_proj" not in name:
                yield name, value

    with pytest.raises(TrainingError, match="do not fit a OlmoeForCausalLM") as caught:
        engine.synchronize(wrong())
    rows, width = policy.lm_head.weight.shape
    message = str(caught.value)
    assert "missing: model.layers.1.mlp.experts.0.down_proj.weight, " in message
    assert "unknown: model.extra;" in message
    assert f"of another shape: lm_head.weight {[rows - 1, width]} instead of {[rows, width]};" in message
    assert seen[-1] == "model.extra"
    with pytest.raises(TrainingError, match="has no weights"):
        engine.generate([[1]], Sampling(2), seed=0, rows=[0], total=1)


def test_weights_go_to_disk_where_memory_has_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights_directory, "IN_MEMORY", tmp_path)
    small, large = weights_directory.private_directory(1000), weights_directory.private_directory(1 << 60)
    assert small.parent == tmp_path
    assert large.parent != tmp_path
    assert small.stat().st_mode & 0o777 == 0o700
    large.rmdir()


def test_an_unknown_dtype_is_refused(world: Path) -> None:
    with pytest.raises(TrainingError, match="expected one of float32, bfloat16, float16"):
        VllmEngine(world / "actor", python=Path(sys.executable), dtype="auto")


def test_an_olmoe_is_refused_whose_config_vllm_does_not_follow(tmp_path: Path, policy: OlmoeForCausalLM) -> None:
    config = type(policy.config)(**{**policy.config.to_dict(), "norm_topk_prob": True, "clip_qkv": 8.0})
    config.save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match=r"norm_topk_prob is True, not False; clip_qkv is 8\.0, not None"):
        VllmEngine(tmp_path, python=Path(sys.executable))


# -- responses ---------------------------------------------------------------------------------------------------------


def test_a_response_is_drawn_with_a_seed_of_step_and_row_alone(
    build: Build, record: Path, policy: OlmoeForCausalLM
) -> None:
    engine: RolloutEngine = build()
    engine.synchronize(policy.named_parameters())
    sampling = Sampling(3, stop_token_ids=(2, 5))
    all_rows = engine.generate([[1], [1, 4], [7]], sampling, seed=11, rows=[0, 1, 2], total=3)
    some_rows = engine.generate([[7], [1]], sampling, seed=11, rows=[2, 0], total=3)
    engine.generate([[1]], sampling, seed=12, rows=[0], total=3)
    assert some_rows.tokens == [all_rows.tokens[2], all_rows.tokens[0]]
    first, second, third = calls(record, "generate")
    assert first["seeds"] == [derive_seed(11, row, "response") for row in range(3)]
    assert second["seeds"] == [first["seeds"][2], first["seeds"][0]]
    assert third["seeds"] != first["seeds"][:1]
    assert first["prompts"] == [[1], [1, 4], [7]]
    assert first["sampling"] == {
        "max_tokens": 3,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "stop_token_ids": [2, 5],
        "ignore_eos": True,
    }
    assert all_rows.logprobs == [[-1.5] * 3] * 3
    assert all_rows.finish_reasons == ["length"] * 3


@pytest.mark.parametrize(
    ("sampling", "mode"),
    [
        (Sampling(1), "processed_logprobs"),
        (Sampling(1, temperature=0.7), "processed_logprobs"),
        (Sampling(1, top_p=0.9), "raw_logprobs"),
        (Sampling(1, top_k=5), "raw_logprobs"),
        (Sampling(1, temperature=0.0), None),
        (Sampling(1, temperature=0.0, top_p=0.9), None),
    ],
)
def test_log_probabilities_are_asked_for_at_the_temperature_and_before_the_cut(
    sampling: Sampling, mode: str | None
) -> None:
    assert logprobs_mode(sampling) == mode


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1, temperature=0.7, top_p=0.9),
        Sampling(1, temperature=1.3, top_k=5),
        Sampling(1, temperature=0.005),
    ],
)
def test_a_distribution_that_vllm_reports_no_log_probabilities_of_is_refused(
    build: Build, policy: OlmoeForCausalLM, sampling: Sampling
) -> None:
    engine = build()
    engine.synchronize(policy.named_parameters())
    with pytest.raises(TrainingError, match=f"temperature {sampling.temperature}"):
        engine.generate([[1]], sampling, seed=0, rows=[0], total=1)


def test_the_engine_is_built_again_when_it_has_to_report_otherwise(
    build: Build, record: Path, policy: OlmoeForCausalLM
) -> None:
    engine = build()
    engine.synchronize(policy.named_parameters())
    for sampling in (Sampling(1, top_p=0.9), Sampling(1, temperature=0.0), Sampling(1, top_k=3), Sampling(1)):
        engine.generate([[1]], sampling, seed=0, rows=[0], total=1)
    modes = [call["options"]["logprobs_mode"] for call in calls(record, "load")]
    assert modes == ["processed_logprobs", "raw_logprobs", "processed_logprobs"]


@pytest.mark.parametrize(
    ("prompts", "rows", "message"),
    [
        ([[1], []], [0, 1], "prompt 1 has no tokens"),
        ([[1] * 63], [4], "prompt 4 has 63 tokens and max_new_tokens is 2: together more than the engine's 64 pos"),
        ([[1], [2]], [0], "expected a row below 8 for each of 2 prompts"),
        ([[1]], [8], "expected a row below 8"),
    ],
)
def test_prompts_that_cannot_be_answered_are_refused(
    build: Build, policy: OlmoeForCausalLM, prompts: list[list[int]], rows: list[int], message: str
) -> None:
    engine = build()
    engine.synchronize(policy.named_parameters())
    with pytest.raises(DataError, match=message):
        engine.generate(prompts, Sampling(2), seed=0, rows=rows, total=8)


def test_a_rank_without_prompts_gets_an_empty_rollout(build: Build, policy: OlmoeForCausalLM) -> None:
    engine = build()
    engine.synchronize(policy.named_parameters())
    assert engine.generate([], Sampling(2), seed=0, rows=[], total=8).lengths == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("bad-rows", r"expected 2 responses from vLLM, got \[1, 2, 2\] rows"),
        ("bad-length", "response 0: expected 1 to 3 tokens with a log-probability each, got 3 with 2"),
        ("bad-count", "response 0: expected 1 to 3 tokens with a log-probability each, got 6 with 6"),
        ("bad-emptiness", "got 0 with 0"),
        ("bad-logprob", "response 0: expected finite log-probabilities"),
        ("bad-reason", "the end `stop` or `length`, got .* and `abort`"),
    ],
)
def test_an_answer_that_is_no_response_per_prompt_is_discarded(
    build: Build, policy: OlmoeForCausalLM, fault: str, message: str
) -> None:
    engine = build(fault=fault)
    engine.synchronize(policy.named_parameters())
    with pytest.raises(TrainingError, match=message):
        engine.generate([[1], [2]], Sampling(3), seed=0, rows=[0, 1], total=2)


# -- the process -------------------------------------------------------------------------------------------------------


def test_the_worker_sees_nothing_of_the_trainers_process_group(
    build: Build, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "PYTHONPATH"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    build()
    seen = json.loads((record / "environment.json").read_text())
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "PYTHONPATH"} & seen.keys()
    assert seen["CUDA_VISIBLE_DEVICES"] == "3"
    assert seen["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


@pytest.mark.parametrize(
    ("environment", "device"),
    [
        ({"LOCAL_RANK": "2"}, "2"),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,5,6"}, "5"),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4"}, None),  # the launcher gave each rank its own
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, None),
    ],
)
def test_the_worker_of_a_rank_gets_the_gpu_of_that_rank(environment: dict[str, str], device: str | None) -> None:
    assert own_device(environment).get("CUDA_VISIBLE_DEVICES") == device


def test_close_ends_the_worker_and_leaves_no_file(build: Build, record: Path, policy: OlmoeForCausalLM) -> None:
    engine = build()
    engine.synchronize(policy.named_parameters())
    directory = Path(calls(record, "load")[0]["options"]["model"]).parent
    assert workers_of(directory) == [engine.worker_pid]
    engine.close()
    engine.close()
    assert workers_of(directory) == []
    assert not directory.exists()
    with pytest.raises(TrainingError, match="is closed; it cannot load"):
        engine.synchronize(policy.named_parameters())
    assert not directory.exists()


def test_an_engine_that_failed_and_was_not_closed_leaves_no_file(
    world: Path, record: Path, policy: OlmoeForCausalLM
) -> None:
    environment = {"FAKE_RECORD": str(record), "FAKE_FAULT": "exit-at-generate"}
    engine = VllmEngine(world / "actor", python=Path(sys.executable), worker=STAND_IN, environment=environment)
    engine.synchronize(policy.named_parameters())
    directory = Path(calls(record, "load")[0]["options"]["model"]).parent
    with pytest.raises(TrainingError):
        engine.generate([[1]], Sampling(2), seed=0, rows=[0], total=1)
    assert directory.exists()
    del engine
    gc.collect()
    assert not directory.exists()


def test_close_ends_a_worker_that_does_not_listen_and_what_it_started(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_CLOSING_SECONDS", 0.2)
    engine = build(fault="deaf")
    engine.close()
    wait_until(lambda: is_gone(engine.worker_pid))


@pytest.mark.parametrize("what", ["start", "load", "generate"])
def test_a_worker_that_ends_is_told_with_its_last_lines(build: Build, policy: OlmoeForCausalLM, what: str) -> None:
    with pytest.raises(TrainingError, match=rf"was to {what}, but ended with code 3; nothing was sampled.*\nno luck"):
        sample_once(build(fault=f"exit-at-{what}"), policy)


@pytest.mark.parametrize("what", ["start", "load", "generate"])
def test_a_worker_that_hangs_is_stopped(build: Build, policy: OlmoeForCausalLM, what: str) -> None:
    with pytest.raises(TrainingError, match=rf"was to {what}, but gave no answer within 1.5 s and was stopped"):
        sample_once(build(fault=f"hang-at-{what}", timeout=1.5), policy)


@pytest.mark.parametrize("fault", ["", "deaf"])
def test_a_killed_worker_is_told_from_one_that_ended(build: Build, policy: OlmoeForCausalLM, fault: str) -> None:
    """Also where a child of it, which nobody killed, still holds the socket."""
    engine = build(fault=fault)
    engine.synchronize(policy.named_parameters())
    os.kill(engine.worker_pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"was to generate, but ended with SIGKILL(.*\n)+\(nothing\)"):
        engine.generate([[1]], Sampling(2), seed=0, rows=[0], total=1)
    with pytest.raises(TrainingError, match="is closed; it cannot generate"):
        engine.generate([[1]], Sampling(2), seed=0, rows=[0], total=1)


def test_a_worker_ends_with_the_process_that_started_it_and_leaves_no_file(record: Path) -> None:
    """Even one that is too busy to see that its socket was closed; what it started ends too."""
    program = (
        "import sys, time, types\n"
        "from pathlib import Path\n"
        "package = sys.modules['bai_pipeline.ppo'] = types.ModuleType('bai_pipeline.ppo')\n"
        "package.__path__ = ['bai_pipeline/ppo']  # without importing torch, which takes seconds\n"
        "from bai_pipeline.ppo.rollouts.worker_process import WorkerProcess\n"
        "python, stand_in, directory, record = map(Path, sys.argv[1:])\n"
        "environment = {'FAKE_RECORD': str(record), 'FAKE_FAULT': 'deaf'}\n"
        "print(WorkerProcess(python, stand_in, directory, environment, 60).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    directory = record / "private"
    directory.mkdir()
    arguments = [sys.executable, str(STAND_IN), str(directory), str(record)]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert worker in workers_of(directory)
        parent.kill()
    wait_until(lambda: is_gone(worker))
    assert not directory.exists()


def test_the_interpreter_is_given_named_or_this_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BAI_VLLM_PYTHON", "/opt/vllm/bin/python")
    assert find_interpreter(tmp_path) == tmp_path
    assert find_interpreter(None) == Path("/opt/vllm/bin/python")
    monkeypatch.delenv("BAI_VLLM_PYTHON")
    with pytest.raises(TrainingError, match="BAI_VLLM_PYTHON names no other"):
        find_interpreter(None)
    (tmp_path / "vllm.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_interpreter(None) == Path(sys.executable)


def test_an_interpreter_that_is_not_there_is_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"no-python: expected a Python interpreter to run vllm_worker\.py with: No "
    ):
        VllmEngine(world / "actor", python=tmp_path / "no-python")


def test_an_interpreter_without_vllm_is_told_from_the_module_beside_the_worker(world: Path) -> None:
    with pytest.raises(TrainingError, match=r"was to start, but ended with code 1(.*\n)+.*No module named 'vllm'"):
        VllmEngine(world / "actor", python=Path(sys.executable), timeout=60)


# -- the worker's program, over a package that looks like vLLM ---------------------------------------------------------


class Engine:
    """What vllm.LLM and its answers look like; its token is the length of the prompt."""

    alive = 0

    def __init__(self, **options: Any) -> None:
        assert Engine.alive == 0
        Engine.alive += 1
        weakref.finalize(self, self._end)
        self.options = options

    @staticmethod
    def _end() -> None:
        Engine.alive -= 1

    def generate(self, prompts: list[dict[str, list[int]]], parameters: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        return [
            SimpleNamespace(outputs=[self._respond(prompt["prompt_token_ids"], parameter)])
            for prompt, parameter in zip(prompts, parameters, strict=True)
        ]

    @staticmethod
    def _respond(prompt: list[int], parameter: Any) -> Any:
        token = len(prompt)
        logprobs = [{token: SimpleNamespace(logprob=-0.125 * parameter.seed), 99: SimpleNamespace(logprob=0.0)}]
        return SimpleNamespace(token_ids=(token,), logprobs=logprobs, finish_reason="stop")


def package(cleanups: list[str]) -> Any:
    return SimpleNamespace(
        __version__="9.9",
        LLM=Engine,
        SamplingParams=SimpleNamespace,
        distributed=SimpleNamespace(cleanup_dist_env_and_memory=lambda: cleanups.append("cleaned")),
    )


def test_the_worker_answers_calls_until_the_connection_is_closed() -> None:
    ours, theirs = socket.socketpair()
    cleanups: list[str] = []
    with theirs:
        thread = threading.Thread(target=vllm_worker.serve, args=(theirs, package(cleanups)))
        thread.start()
        with ours:
            assert vllm_worker.receive(ours) == {"vllm": "9.9"}
            for _ in range(2):
                vllm_worker.send(ours, {"call": "load", "options": {"model": "somewhere"}})
                assert vllm_worker.receive(ours) == {"loaded": True}
            prompts = [[5] * 70_000, [5]]
            vllm_worker.send(ours, {"call": "generate", "prompts": prompts, "seeds": [1, 2], "sampling": {"top_k": 3}})
            assert vllm_worker.receive(ours) == {
                "tokens": [[70_000], [1]],
                "logprobs": [[-0.125], [-0.25]],
                "finish_reasons": ["stop", "stop"],
            }
        thread.join(10)
        assert not thread.is_alive()
    assert cleanups == ["cleaned"]


def test_the_worker_refuses_a_call_that_it_does_not_know() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        vllm_worker.send(ours, {"call": "sing"})
        with pytest.raises(ValueError, match="expected the call load or generate"):
            vllm_worker.serve(theirs, package([]))


def test_a_message_that_is_cut_is_told_from_the_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(vllm_worker.pack({"call": "load"})[:-3])
        with pytest.raises(EOFError, match="with 3 bytes of a message to come"):
            vllm_worker.receive(theirs)


def sample_once(engine: VllmEngine, policy: OlmoeForCausalLM) -> None:
    engine.synchronize(policy.named_parameters())
    engine.generate([[1]], Sampling(2), seed=0, rows=[0], total=1)
