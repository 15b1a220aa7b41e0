"""Preference pairs of the embedded world: verified right and wrong samples of SFT models."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from bai_pipeline.errors import DataError
from bai_pipeline.loading import load_model, load_tokenizer
from bai_pipeline.ppo.sampler import response_texts, sample, stop_tokens
from bai_pipeline.progress import Reporter
from bai_pipeline.quiet import quiet_transformers
from bai_pipeline.settings import PreferenceSettings
from bai_pipeline.sft.examples import encode_prompt
from bai_pipeline.synthetic.tasks import verify
from bai_pipeline.tables import Row, read_table, write_table

BATCH = 384
"""Prompts that are sampled at once."""
TOLERATED_TOKENS = 3
"""Difference in length that `length_tolerance` always allows."""


@dataclass(frozen=True)
class Sample:
    """A finished response, its length in tokens (end token included) and whether its answer is right."""

    text: str
    length: int
    right: bool


def write_preferences(
    out: Path, models: Mapping[str, Path], prompts: Path, settings: PreferenceSettings, seed: int, report: Reporter
) -> dict[str, float | int | str]:
    """Write out/preferences.parquet {id, prompt, chosen, rejected}: a right and a wrong response to the same prompt.

    Each of the models answers each of `settings.prompts` prompts (drawn from the table) `samples_per_prompt` times.
    Responses that reached `max_new_tokens` make no pairs: their text does not say that they are unfinished.

    Args:
        models: role -> checkpoint directory; those of `settings.sampled_from` are used.
        prompts: prompts table with an answer in every row.

    Raises:
        DataError: a role without a model, a prompt without an answer, too few prompts, or no pair at all.
    """
    missing = [role for role in settings.sampled_from if role not in models]
    if missing:
        raise DataError(
            f"expected a model for each of {', '.join(settings.sampled_from)}, got none for {', '.join(missing)}"
        )
    rows = _drawn_prompts(prompts, settings.prompts, seed)
    pools: list[list[list[Sample]]] = [[] for _ in rows]  # of each prompt, the samples of each model
    total = len(settings.sampled_from) * settings.samples_per_prompt
    truncated = 0
    for number, role in enumerate(settings.sampled_from):
        with quiet_transformers():
            sampler = _ModelSampler(models[role], settings)
        for pool in pools:
            pool.append([])
        for repetition in range(settings.samples_per_prompt):
            generator = torch.Generator().manual_seed(_stream(seed, role, repetition))
            for pool, drawn in zip(pools, sampler(rows, generator), strict=True):
                if drawn is None:
                    truncated += 1
                else:
                    pool[-1].append(drawn)
            report.progress(number * settings.samples_per_prompt + repetition + 1, total)
    rng = random.Random(f"{seed}/pairs")
    paired = [(row, pairs(pool, settings.length_tolerance, rng)) for row, pool in zip(rows, pools, strict=True)]
    table: list[Row] = [
        {
            "id": f"{row['id']}-{index}",
            "prompt": row["messages"],
            "chosen": chosen.text,
            "rejected": rejected.text,
        }
        for row, found in paired
        for index, (chosen, rejected) in enumerate(found)
    ]
    if not table:
        raise DataError(
            f"{total * len(rows)} samples of {', '.join(settings.sampled_from)} made no pair of a right and a wrong "
            "response; raise samples_per_prompt or prompts, or train the SFT models less or more"
        )
    write_table(table, out / "preferences.parquet")
    every = [pair for _, found in paired for pair in found]
    return {
        "pairs": len(every),
        "samples": total * len(rows),
        "truncated_samples": truncated,
        "chosen_length_mean": sum(chosen.length for chosen, _ in every) / len(every),
        "rejected_length_mean": sum(rejected.length for _, rejected in every) / len(every),
    }


def pairs(pools: list[list[Sample]], length_tolerance: float | None, rng: random.Random) -> list[tuple[Sample, Sample]]:
    """Right and wrong samples of one prompt as (chosen, rejected), each sample used once.

    Args:
        pools: the samples of each model.
        length_tolerance: None pairs across models and lengths; otherwise pairs are of one model and of lengths that
            differ by at most this share of the chosen one's, or 3 tokens, so that length tells nothing.
    """
    if length_tolerance is None:
        pools = [[drawn for pool in pools for drawn in pool]]
    found = []
    for pool in pools:
        chosen = [drawn for drawn in pool if drawn.right]
        rejected = [drawn for drawn in pool if not drawn.right]
        rng.shuffle(chosen)
        rng.shuffle(rejected)
        for candidate in chosen:
            allowed = (
                float("inf") if length_tolerance is None else max(TOLERATED_TOKENS, length_tolerance * candidate.length)
            )
            partner = next((other for other in rejected if abs(other.length - candidate.length) <= allowed), None)
            if partner is not None:
                rejected.remove(partner)
                found.append((candidate, partner))
    return found


class _ModelSampler:
    """Samples one response to each of many prompts from a checkpoint."""

    def __init__(self, path: Path, settings: PreferenceSettings) -> None:
        self._tokenizer = load_tokenizer(path)
        self._model = load_model(AutoModelForCausalLM, path)
        self._stop = stop_tokens(self._model, self._tokenizer)
        self._settings = settings

    def __call__(self, rows: list[Row], generator: torch.Generator) -> list[Sample | None]:
        """A sample for each row, None where it was truncated."""
        samples: list[Sample | None] = []
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            rollout = sample(
                self._model,
                [encode_prompt(self._tokenizer, row["messages"]) for row in batch],
                self._settings.max_new_tokens,
                self._settings.temperature,
                eos_token_id=self._stop,
                pad_token_id=self._tokenizer.pad_token_id,
                generator=generator,
            )
            drawn = zip(
                batch,
                response_texts(rollout, self._tokenizer),
                rollout.lengths,
                rollout.finish_reasons,
                strict=True,
            )
            for row, text, length, reason in drawn:
                finished = reason == "stop" and text.strip() != ""
                samples.append(Sample(text, length, verify(text, row["answer"])) if finished else None)
        return samples


def _drawn_prompts(path: Path, count: int, seed: int) -> list[Row]:
    rows = read_table("prompts", path)
    if len(rows) < count:
        raise DataError(f"expected at least {count} prompts, got {len(rows)} in {path}")
    unanswered = [index for index, row in enumerate(rows) if row.get("answer") is None]
    if unanswered:
        raise DataError(f"preference pairs need answers; row {unanswered[0]} of {path} has none")
    return random.Random(f"{seed}/preference prompts").sample(rows, count)


def _stream(seed: int, role: str, repetition: int) -> int:
    return random.Random(f"{seed}/preferences/{role}/{repetition}").getrandbits(63)
