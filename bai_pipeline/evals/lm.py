"""A checkpoint behind lm-eval's model interface, generating with the embedded sampler.

lm-eval's own HFLM gives the same greedy texts through `generate`, at 1.3-1.7x the CPU seconds on the embedded model; it
decodes with `skip_special_tokens=True`, so that thinking markers which a tokenizer declares special vanish.

Importing this module imports lm_eval and torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import LM
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bai_pipeline.errors import CheckpointError, EvaluationError
from bai_pipeline.loading import load_model
from bai_pipeline.ppo.sampler import response_texts, sample, stop_tokens
from bai_pipeline.progress import Reporter
from bai_pipeline.quiet import quiet_transformers


class SamplerLM(LM):  # type: ignore[misc]  # lm_eval is not typed
    """Answers lm-eval's generation requests; log-likelihood requests are an error."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        seed: int,
        report: Reporter,
    ) -> None:
        super().__init__()
        if tokenizer.chat_template is None:
            raise CheckpointError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template; nothing was evaluated"
            )
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._seed = seed
        self._report = report
        self._stop = stop_tokens(model, tokenizer)
        self.responses = 0
        """Responses generated so far."""
        self.truncated = 0
        """Those that `max_gen_toks` cut."""
        self.tokens = 0
        """Response tokens generated so far, end-of-sequence tokens included."""

    @classmethod
    def from_directory(cls, path: Path, *, batch_size: int, seed: int, report: Reporter) -> "SamplerLM":
        """Load a Hugging Face checkpoint in float32 (bfloat16 is 25x slower on CPUs without its instructions)."""
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"expected a checkpoint directory at {path}, got no config.json; nothing was evaluated"
            )
        model = load_model(AutoModelForCausalLM, path, dtype=torch.float32)
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        return cls(model, tokenizer, batch_size=batch_size, seed=seed, report=report)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's caches, which are not used."""
        return str(self._tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template's source, for lm-eval's records."""
        return str(self._tokenizer.chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the text that the model continues."""
        return str(
            self._tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Responses in the order of `requests`, without the end-of-sequence token.

        Requests are answered in batches of similar prompt length. The randomness of a batch depends on the seed and
        its number alone.

        Raises:
            EvaluationError: a request wants stop strings: these tasks end at the end-of-sequence token.
        """
        texts: list[str] = [""] * len(requests)
        prompts = [self._tokenizer.encode(r.args[0], add_special_tokens=False) for r in requests]
        order = sorted(range(len(requests)), key=lambda i: (-len(prompts[i]), i))
        for number, start in enumerate(range(0, len(order), self._batch_size)):
            batch = order[start : start + self._batch_size]
            options = _shared_options([requests[i] for i in batch])
            rollout = sample(
                self._model,
                [prompts[i] for i in batch],
                max_new_tokens=options["max_gen_toks"],
                temperature=options["temperature"],
                eos_token_id=self._stop,
                pad_token_id=self._tokenizer.pad_token_id or 0,
                generator=_generator(self._seed, number),
            )
            for i, text in zip(batch, response_texts(rollout, self._tokenizer), strict=True):
                texts[i] = text
            self.responses += len(batch)
            self.truncated += rollout.finish_reasons.count("length")
            self.tokens += sum(rollout.lengths)
            self._report.progress(min(start + self._batch_size, len(order)), len(order))
        return texts

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Not offered.

        Raises:
            EvaluationError: always.
        """
        raise EvaluationError("expected generation tasks, got log-likelihood requests; nothing was evaluated")

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Not offered.

        Raises:
            EvaluationError: always.
        """
        raise EvaluationError("expected generation tasks, got log-likelihood requests; nothing was evaluated")


def _shared_options(requests: Sequence[Any]) -> dict[str, Any]:
    """Generation options of a batch; all tasks of one evaluation share them."""
    options: dict[str, Any] = requests[0].args[1]
    if options["until"] or any(r.args[1] != options for r in requests):
        raise EvaluationError(f"expected one set of options without stop strings for a batch, got {options}")
    return options


def _generator(seed: int, batch: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, batch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))
