"""Responses sampled by vLLM, in a process and, if need be, a Python environment of its own.

vLLM pins its own transformers, and on a CPU it cannot take new weights into a running engine: linear layers are
prepacked, and a reload leaves the log-probabilities wrong without an error. So `synchronize` writes a checkpoint and
the worker builds a new engine from it. docs/guide/rollouts.md says what that costs and where it was run.
"""

import importlib.util
import math
import os
import shutil
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal

from bai_pipeline.errors import DataError, TrainingError
from bai_pipeline.ppo.randomness import derive_seed
from bai_pipeline.ppo.rollouts.interface import Rollout, Sampling, Weights
from bai_pipeline.ppo.rollouts.weights_directory import CheckpointStream, private_directory
from bai_pipeline.ppo.rollouts.worker_process import WorkerProcess

PYTHON_VARIABLE = "BAI_VLLM_PYTHON"
WORKER = Path(__file__).with_name("vllm_worker.py")

ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the worker, which is the process of its own already
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}

WITHOUT_COMPILER: Final = {"TORCHDYNAMO_DISABLE": "1"}
"""Even with enforce_eager vLLM compiles the ranking of tokens, which nobody asks for: half a minute of g++."""

OLMOE: Final = {"norm_topk_prob": False, "clip_qkv": None, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
"""What vLLM 0.32's OLMoE computes, whatever the config says (vllm/model_executor/models/olmoe.py)."""

MIN_TEMPERATURE = 0.01
"""vLLM silently raises lower ones to it."""

LogprobsMode = Literal["raw_logprobs", "processed_logprobs"]


class VllmEngine:
    """`RolloutEngine` over a vLLM worker process.

    A response depends on (seed, row) as far as logits do not depend on the batch: vLLM's kernels may round otherwise
    for another number of rows.
    """

    def __init__(
        self,
        policy: Path,
        *,
        python: Path | None = None,
        dtype: str = "float32",
        enforce_eager: bool = True,
        kv_cache_bytes: int | None = 1 << 30,
        max_model_len: int | None = None,
        options: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = 3600.0,
        worker: Path = WORKER,
    ) -> None:
        """Start the worker; it holds no weights before the first `synchronize`.

        Args:
            policy: directory whose config.json describes the model.
            python: interpreter that has vLLM; default: $BAI_VLLM_PYTHON, else this one if it has.
            dtype: of weights and computation: float32, bfloat16 or float16.
            enforce_eager: neither CUDA graphs nor compilation.
            kv_cache_bytes: of the KV cache; None: what vLLM finds free on the device.
            max_model_len: longest prompt + response; default: the model's positions.
            options: further arguments of vllm.LLM, for example tensor_parallel_size.
            environment: further variables of the worker; CUDA_VISIBLE_DEVICES is this rank's unless given here.
            timeout: seconds that the worker may take to start, to load, or to generate.
            worker: the program, for tests.

        Raises:
            TrainingError: no interpreter with vLLM, a config that vLLM would not follow, or the worker does not start.
        """
        interpreter = find_interpreter(python)
        self._checkpoint = CheckpointStream(policy, dtype)
        config = self._checkpoint.config
        _require_followed(config, policy)
        self._limit: int = max_model_len or config.max_position_embeddings
        self._options = {
            "dtype": dtype,
            "enforce_eager": enforce_eager,
            "max_model_len": self._limit,
            "load_format": "safetensors",
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # not the directory's: `Sampling` says it all
            "enable_prefix_caching": False,  # it would let a response depend on those before it, by rounding
            **({} if kv_cache_bytes is None else {"kv_cache_memory_bytes": kv_cache_bytes}),
            **(options or {}),
        }
        self._mode: LogprobsMode = "processed_logprobs"
        self._has_weights = False
        directory = private_directory(self._checkpoint.nbytes)
        self._weights_directory = directory / "policy"
        with ExitStack() as stack:
            # Not only at `close`: a run that ends by an error may leave that out.
            stack.callback(weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True))
            variables = {
                **ENVIRONMENT,
                **(WITHOUT_COMPILER if enforce_eager else {}),
                **own_device(os.environ),
                **(environment or {}),
            }
            self._worker = WorkerProcess(interpreter, worker, directory, variables, timeout)
            stack.callback(self._worker.close)
            self.vllm_version = str(self._worker.greeting.get("vllm"))
            self._open = stack.pop_all()

    @property
    def worker_pid(self) -> int:
        """Process id of the worker."""
        return self._worker.pid

    def synchronize(self, weights: Weights) -> None:
        """Write the weights to a directory and let vLLM build an engine from it.

        Raises:
            TrainingError: the weights do not fit the policy's config, or the worker fails.
            CheckpointError: they cannot be written.
        """
        self._has_weights = False
        self._worker.require_open("load")
        shutil.rmtree(self._weights_directory, ignore_errors=True)
        self._weights_directory.mkdir()
        self._checkpoint.write(weights, self._weights_directory)
        self._load()
        self._has_weights = True

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int, rows: Sequence[int], total: int
    ) -> Rollout:
        """One response per prompt.

        Raises:
            TrainingError: `synchronize` was not called; vLLM has no such log-probabilities (see `logprobs_mode`); the
                worker fails, or answers with something else than a response per prompt.
            DataError: an empty prompt, or prompt and response exceed the model's positions.
        """
        self._check(prompts, sampling, rows, total)
        mode = logprobs_mode(sampling)
        if not prompts:
            return Rollout([], [], [])
        if mode not in (None, self._mode):
            self._mode = mode
            self._load()
        answer = self._worker.call(
            "generate",
            prompts=[list(prompt) for prompt in prompts],
            seeds=[derive_seed(seed, row, "response") for row in rows],
            sampling={
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "stop_token_ids": list(sampling.stop_token_ids),
                "ignore_eos": True,  # only those end a response
            },
        )
        rollout = Rollout(answer["tokens"], answer["logprobs"], answer["finish_reasons"])
        _require_whole(rollout, len(prompts), sampling)
        return rollout

    def close(self) -> None:
        """End the worker and remove its directory."""
        self._open.close()

    def _load(self) -> None:
        self._worker.call(
            "load", options={**self._options, "model": str(self._weights_directory), "logprobs_mode": self._mode}
        )

    def _check(self, prompts: Sequence[Sequence[int]], sampling: Sampling, rows: Sequence[int], total: int) -> None:
        if not self._has_weights:
            raise TrainingError("the vLLM engine has no weights: synchronize was not called or failed")
        if len(rows) != len(prompts) or not all(0 <= row < total for row in rows):
            raise DataError(
                f"expected a row below {total} for each of {len(prompts)} prompts, got {list(rows)}; nothing was "
                "sampled"
            )
        for row, prompt in zip(rows, prompts, strict=True):
            if not prompt:
                raise DataError(f"prompt {row} has no tokens; nothing was sampled")
            if len(prompt) + sampling.max_new_tokens > self._limit:
                raise DataError(
                    f"prompt {row} has {len(prompt)} tokens and max_new_tokens is {sampling.max_new_tokens}: together "
                    f"more than the engine's {self._limit} positions; nothing was sampled"
                )


def logprobs_mode(sampling: Sampling) -> LogprobsMode | None:
    """Which of vLLM's logprobs_modes gives the log-probabilities that `Rollout` promises; None: both do.

    `raw_logprobs` are those of softmax(logits), `processed_logprobs` those of what was drawn from: tempered and cut.

    Raises:
        TrainingError: temperature and cut, where it has neither; or a temperature that vLLM would change.
    """
    if 0 < sampling.temperature < MIN_TEMPERATURE:
        raise TrainingError(
            f"temperature {sampling.temperature}: vLLM samples at {MIN_TEMPERATURE} instead; use 0 or more than that"
        )
    if sampling.temperature == 0:
        return None
    if sampling.top_p >= 1 and sampling.top_k == 0:
        return "processed_logprobs"
    if sampling.temperature == 1:
        return "raw_logprobs"
    raise TrainingError(
        f"temperature {sampling.temperature} with top_p {sampling.top_p} and top_k {sampling.top_k}: vLLM reports "
        "log-probabilities at temperature 1 or after the cut, PPO needs them at the temperature and before the cut; "
        "use temperature 1, or top_p 1 and top_k 0, or the embedded engine"
    )


def find_interpreter(python: Path | None) -> Path:
    """The given interpreter, that of $BAI_VLLM_PYTHON, or this one if it has vLLM.

    Raises:
        TrainingError: there is none.
    """
    if python is not None:
        return python
    if named := os.environ.get(PYTHON_VARIABLE):
        return Path(named)
    if importlib.util.find_spec("vllm") is not None:
        return Path(sys.executable)
    raise TrainingError(
        f"rollouts with vLLM need a Python that has it: this one ({sys.executable}) has not and {PYTHON_VARIABLE} "
        "names no other; on a CPU, `make .peers/vllm/.installed` makes .peers/vllm/bin/python"
    )


def own_device(environment: Mapping[str, str]) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES for the worker of one of several ranks: all of them would take the first GPU otherwise."""
    rank, visible = environment.get("LOCAL_RANK"), environment.get("CUDA_VISIBLE_DEVICES")
    if rank is None or visible == "":
        return {}
    if visible is None:
        return {"CUDA_VISIBLE_DEVICES": rank}
    devices = visible.split(",")
    return {"CUDA_VISIBLE_DEVICES": devices[int(rank)]} if int(rank) < len(devices) else {}


def _require_followed(config: Any, policy: Path) -> None:
    """Refuse an OLMoE that vLLM would compute otherwise than its config says."""
    if config.model_type != "olmoe":
        return
    found = {name: getattr(config, name) for name in OLMOE}
    if other := [f"{name} is {found[name]}, not {fixed}" for name, fixed in OLMOE.items() if found[name] != fixed]:
        raise TrainingError(
            f"{policy}: vLLM's OLMoE does not follow the config where {'; '.join(other)}; use the embedded engine"
        )


def _require_whole(rollout: Rollout, count: int, sampling: Sampling) -> None:
    """One finite, non-empty response per prompt."""
    sizes = [len(rollout.tokens), len(rollout.logprobs), len(rollout.finish_reasons)]
    if sizes != [count] * 3:
        raise TrainingError(f"expected {count} responses from vLLM, got {sizes} rows; the rollout was discarded")
    for index, tokens in enumerate(rollout.tokens):
        logprobs, reason = rollout.logprobs[index], rollout.finish_reasons[index]
        if not 0 < len(tokens) <= sampling.max_new_tokens or len(logprobs) != len(tokens):
            raise TrainingError(
                f"response {index}: expected 1 to {sampling.max_new_tokens} tokens with a log-probability each, got "
                f"{len(tokens)} with {len(logprobs)}; the rollout was discarded"
            )
        if reason not in ("stop", "length") or not all(map(math.isfinite, logprobs)):
            raise TrainingError(
                f"response {index}: expected finite log-probabilities and the end `stop` or `length`, got "
                f"{min(logprobs)} to {max(logprobs)} and `{reason}`; the rollout was discarded"
            )
