"""A checkpoint or a recipe that answers in this process, or through vLLM.

Importing this module imports torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bai_pipeline.errors import CheckpointError
from bai_pipeline.evals.engines.interface import Likelihood, Options, Pair, Prompt, Response
from bai_pipeline.evals.engines.likelihood import TokenPair, continuation_likelihoods
from bai_pipeline.loading import load_model
from bai_pipeline.ppo.rollouts.embedded import EmbeddedEngine
from bai_pipeline.ppo.rollouts.interface import RolloutEngine, Sampling
from bai_pipeline.ppo.rollouts.vllm import VllmEngine
from bai_pipeline.ppo.sampler import response_texts, stop_tokens
from bai_pipeline.quiet import quiet_transformers

CHUNK = 4
"""Batches of a call of the rollout engine: freed rows are refilled within a call, what it gave is kept after it."""


class ModelEngine:
    """`Engine` over a Hugging Face model; a `RolloutEngine` draws the responses."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rollouts: RolloutEngine,
        *,
        name: str,
        batch_size: int,
    ) -> None:
        """Take a loaded model.

        Args:
            rollouts: synchronized with the model's weights.
            batch_size: rows at a time.
        """
        self._model, self._tokenizer, self._rollouts = model, tokenizer, rollouts
        self._batch_size = batch_size
        self.name = name

    @property
    def positions(self) -> int | None:
        """The model's, if its config says."""
        found = getattr(self._model.config, "max_position_embeddings", None)
        return int(found) if found is not None else None

    def has_chat_template(self) -> bool:
        """Whether the tokenizer has one."""
        return self._tokenizer.chat_template is not None

    def render(self, messages: Sequence[Mapping[str, str]], *, continued: bool = False) -> str:
        """The conversation through the tokenizer's chat template."""
        return str(
            self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=not continued,
                continue_final_message=continued,
            )
        )

    def prompt_tokens(self, text: str, *, chat: bool) -> int:
        """Tokens of a prompt."""
        return len(self._encode(text, chat=chat))

    def generate(
        self, prompts: Sequence[Prompt], options: Options, *, seed: int, total: int, chat: bool
    ) -> Iterator[tuple[int, Response]]:
        """Responses, those to the longest prompts first."""
        encoded = [self._encode(prompt.text, chat=chat) for prompt in prompts]
        sampling = Sampling(
            options.max_new_tokens,
            options.temperature,
            options.top_p,
            stop_token_ids=tuple(stop_tokens(self._model, self._tokenizer)),
        )
        order = sorted(range(len(prompts)), key=lambda i: (-len(encoded[i]), i))
        size = CHUNK * self._batch_size
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            rollout = self._rollouts.generate(
                [encoded[i] for i in chunk], sampling, seed=seed, rows=[prompts[i].row for i in chunk], total=total
            )
            texts = response_texts(rollout, self._tokenizer)
            ends = zip(texts, rollout.lengths, rollout.finish_reasons, strict=True)
            for i, (text, tokens, reason) in zip(chunk, ends, strict=True):
                kept = _cut(text, options.until)
                yield i, Response(kept, tokens, reason if kept == text else "stop")

    def likelihoods(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Likelihood]]:
        """Likelihoods, in the order in which they are cheap to compute."""
        encoded = [self._encode_pair(pair) for pair in pairs]
        limit = self.positions or max((len(a) + len(b) for a, b in encoded), default=1)
        for batch in continuation_likelihoods(self._model, encoded, batch_size=self._batch_size, positions=limit):
            yield from batch

    def close(self) -> None:
        """End the rollout engine."""
        self._rollouts.close()

    def _encode(self, text: str, *, chat: bool) -> list[int]:
        """Token ids; the tokenizer adds its special tokens to plain text, and only to that."""
        bare = chat or bool((bos := self._tokenizer.bos_token) and text.startswith(str(bos)))
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=not bare)]

    def _encode_pair(self, pair: Pair) -> TokenPair:
        """Context and continuation, split where the context's own tokens end: as lm-eval's HFLM does.

        Spaces at the end of the context go to the continuation, with which tokenizers join them.
        """
        bare = pair.context.rstrip()
        whole = self._encode(pair.context + pair.continuation, chat=False)
        context = self._encode(bare, chat=False)
        return context, whole[len(context) :]


def open_model_engine(path: Path, *, vllm: bool = False, batch_size: int) -> ModelEngine:
    """Load a checkpoint or a recipe, merged while it is loaded.

    In float32 on a CPU (bfloat16 is 25x slower there without its instructions), else in bfloat16 on the first GPU.

    Args:
        vllm: draw the responses by vLLM, see docs/guide/rollouts.md.

    Raises:
        CheckpointError: there is no checkpoint at `path`, or it does not load whole.
        TrainingError: vLLM is not there, or does not take the model.
    """
    if not (path / "config.json").is_file():
        raise CheckpointError(f"expected a checkpoint directory at {path}, got no config.json; nothing was evaluated")
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    options: dict[str, Any] = {"device_map": "cuda:0"} if on_gpu and not vllm else {}
    model = load_model(AutoModelForCausalLM, path, dtype=dtype, **options)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    precision = str(dtype).removeprefix("torch.")
    if not vllm:
        return ModelEngine(
            model,
            tokenizer,
            EmbeddedEngine(model, slots=batch_size),
            name=f"embedded {precision}",
            batch_size=batch_size,
        )
    rollouts = VllmEngine(path, dtype=precision)
    rollouts.synchronize(model.named_parameters())
    return ModelEngine(
        model, tokenizer, rollouts, name=f"vllm {rollouts.vllm_version} {precision}", batch_size=batch_size
    )


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of `until`."""
    return text[: min((place for stop in until if (place := text.find(stop)) >= 0), default=len(text))]
