"""Vocabularies: read from every kind of file, compared two by two."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bai_pipeline.checkpoints import Checkpoint, FitReport, check_fit, compare
from bai_pipeline.checkpoints.vocabulary import read_vocabulary
from bai_pipeline.errors import CheckpointError

MakeCheckpoint = Callable[..., Path]
VOCAB = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "a": 3, "b": 4}


def compared(make_checkpoint: MakeCheckpoint, **vocabularies: Mapping[str, int] | None) -> FitReport:
    paths = {name: make_checkpoint(name, vocab=vocabulary) for name, vocabulary in vocabularies.items()}
    return compare({name: Checkpoint.open(path) for name, path in paths.items()})


def compared_tokenizers(make_checkpoint: MakeCheckpoint, **tokenizers: Any) -> FitReport:
    models = {}
    for name, tokenizer in tokenizers.items():
        directory = make_checkpoint(name)
        (directory / "tokenizer.json").write_text(json.dumps({"added_tokens": []} | tokenizer))
        models[name] = Checkpoint.open(directory)
    return compare(models)


def test_an_id_that_means_two_things_in_two_models_that_are_not_the_first_is_a_difference(
    make_checkpoint: MakeCheckpoint,
) -> None:
    report = compared(make_checkpoint, base=VOCAB, instruct=VOCAB | {"<im>": 5}, reasoning=VOCAB | {"<think>": 5})
    assert report.differences == ("tokenizer: id 5 is '<im>' in instruct, '<think>' in reasoning",)


def test_a_token_with_two_ids_in_two_models_that_are_not_the_first_is_a_difference(
    make_checkpoint: MakeCheckpoint,
) -> None:
    report = compared(make_checkpoint, base=VOCAB, instruct=VOCAB | {"<im>": 5}, reasoning=VOCAB | {"<im>": 6})
    assert report.differences == ("tokenizer: token '<im>' is 5 in instruct, 6 in reasoning",)


def test_a_foreign_tokenizer_is_a_few_lines(make_checkpoint: MakeCheckpoint) -> None:
    base = {f"a{n}": n for n in range(8)}
    report = compared(make_checkpoint, base=base, sft={f"b{n}": n for n in range(8)})
    assert report.differences == ("tokenizer: id 0 is 'a0' in base, 'b0' in sft; likewise 7 more (ids of base in sft)",)
    report = compared(make_checkpoint, base_again=base, rotated={f"a{(n + 1) % 8}": n for n in range(8)})
    assert report.differences == (
        "tokenizer: token 'a1' is 1 in base_again, 0 in rotated; likewise 7 more (tokens of base_again in rotated)",
    )


def test_a_tokenizer_that_cannot_be_read_leaves_the_others_compared(make_checkpoint: MakeCheckpoint) -> None:
    report = compared(make_checkpoint, base=None, instruct=VOCAB, reasoning=VOCAB | {"b": 5})
    assert report.notes == ("tokenizer: none readable in base; its vocabulary was not compared",)
    assert report.differences == ("tokenizer: token 'b' is 4 in instruct, 5 in reasoning",)


def test_long_lists_of_tokens_are_cut(make_checkpoint: MakeCheckpoint) -> None:
    report = compared(make_checkpoint, base={"t0": 0}, sft={f"t{n}": n for n in range(8)})
    assert report.notes == ("tokenizer: 7 tokens of sft are not in base: 't1', 't2', 't3', 't4', 't5', …",)


def test_merges_that_differ_are_a_note_and_their_old_spelling_is_not(make_checkpoint: MakeCheckpoint) -> None:
    def bpe(merges: list[Any]) -> dict[str, Any]:
        return {"model": {"type": "BPE", "vocab": VOCAB, "merges": merges}}

    report = compared_tokenizers(
        make_checkpoint, base=bpe([["a", "b"]]), instruct=bpe(["a b"]), reasoning=bpe([["b", "a"]])
    )
    note = "tokenizer: model.merges differs between base and reasoning: they split text differently"
    assert report == FitReport((), (note,), vocabulary_tensors=("embed.weight",))


def test_added_tokens_and_unigram_vocabularies_are_read(make_checkpoint: MakeCheckpoint) -> None:
    unigram = {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}
    report = compared_tokenizers(
        make_checkpoint,
        base={"model": unigram, "added_tokens": [{"id": 2, "content": "<x>"}]},
        sft={"model": unigram, "added_tokens": [{"id": 2, "content": "<y>"}]},
    )
    assert report.differences == ("tokenizer: id 2 is '<x>' in base, '<y>' in sft",)


def test_tokens_that_only_the_settings_add_are_read(make_checkpoint: MakeCheckpoint) -> None:
    added = {"5": {"content": "<think>", "special": False}, "6": {"content": "</think>", "special": False}}
    paths = {"base": make_checkpoint("base"), "sft": make_checkpoint("sft", added_tokens_decoder=added)}
    notes = check_fit({name: Checkpoint.open(path) for name, path in paths.items()}).notes
    assert notes == ("tokenizer: 2 tokens of sft are not in base: '<think>', '</think>'",)


@pytest.mark.parametrize("added", [{"five": {"content": "<x>"}}, [{"content": "<x>"}], {"5": {}}])
def test_settings_with_malformed_added_tokens_are_refused(make_checkpoint: MakeCheckpoint, added: object) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: expected"):
        read_vocabulary(make_checkpoint(added_tokens_decoder=added))
