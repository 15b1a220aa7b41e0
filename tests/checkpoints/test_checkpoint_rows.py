"""Rows of the embedding and the head: which are missing, whose stand in, which are cut off."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bai_pipeline.checkpoints import Checkpoint, FitReport, check_fit, compare
from bai_pipeline.errors import FitError

MakeCheckpoint = Callable[..., Path]
Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def words(count: int, *, without: Iterable[int] = ()) -> dict[str, int]:
    return {f"w{n}": n for n in range(count) if n not in set(without)}


def content(rows: int, *names: str, width: int = 3) -> Tensors:
    """Tensors of so many rows, and a norm."""
    tensors = {name: np.zeros((rows, width), dtype=np.float32) for name in names}
    return {**tensors, "model.norm.weight": np.zeros(3, dtype=np.float32)}


@pytest.fixture
def model(make_checkpoint: MakeCheckpoint) -> Callable[..., Checkpoint]:
    """model(name, rows, vocabulary, *tensors): of a vocab_size that is the number of rows."""

    def make(name: str, rows: int, vocab: Mapping[str, int] | None, *tensors: str, **config: Any) -> Checkpoint:
        found = content(rows, *(tensors or (EMBEDDING, HEAD)))
        return Checkpoint.open(make_checkpoint(name, content=found, config={"vocab_size": rows, **config}, vocab=vocab))

    return make


MakeModel = Callable[..., Checkpoint]


def test_tokens_that_were_added_beyond_the_matrix_come_from_the_donor(model: MakeModel) -> None:
    vocabulary = words(8) | {"<think>": 8, "</think>": 9}
    models = {"base": model("base", 8, words(8)), "sft": model("sft", 10, vocabulary)}
    assert compare(models, missing_rows_from="sft") == FitReport(
        (),
        (
            "tokenizer: 2 tokens of sft are not in base: '<think>', '</think>'",
            "rows 8-9 ('<think>', '</think>') come from sft: base has no such tokens",
        ),
        rows=10,
        vocabulary_tensors=(HEAD, EMBEDDING),
        missing_rows={HEAD: ((8, 10),), EMBEDDING: ((8, 10),)},
        donor="sft",
    )


def test_a_token_in_the_padding_of_another_model_is_a_missing_row(model: MakeModel) -> None:
    models = {"base": model("base", 8, words(5)), "sft": model("sft", 8, words(5) | {"<think>": 6})}
    report = check_fit(models, missing_rows_from="sft")
    assert report.rows is None
    assert report.missing_rows == {HEAD: ((6, 7),), EMBEDDING: ((6, 7),)}
    assert report.notes[-1] == "row 6 ('<think>') comes from sft: base has no such token"


def test_padding_that_is_longer_in_the_donor_comes_from_it(model: MakeModel) -> None:
    models = {"base": model("base", 6, words(5)), "sft": model("sft", 8, words(5))}
    report = check_fit(models, missing_rows_from="sft")
    assert (report.rows, report.missing_rows[EMBEDDING]) == (8, ((6, 8),))
    assert report.notes == ("rows 6-7 come from sft: base has no such rows",)


def test_padding_that_the_donor_has_not_is_cut_off(model: MakeModel) -> None:
    models = {"base": model("base", 8, words(5)), "sft": model("sft", 6, words(6))}
    report = check_fit(models, missing_rows_from="sft")
    assert (report.rows, report.missing_rows[EMBEDDING], report.donor) == (6, ((5, 6),), "sft")
    assert report.notes[1:] == (
        "row 5 ('w5') comes from sft: base has no such token",
        "rows 6-7 of base: cut off, sft has 6; no token is lost",
    )


def test_tokens_that_are_cut_off_are_named_and_no_row_need_be_missing(model: MakeModel) -> None:
    models = {"base": model("base", 6, words(6)), "sft": model("sft", 8, words(7))}
    report = check_fit(models, missing_rows_from="base")
    assert (report.rows, report.missing_rows, report.donor) == (None, {}, None)
    assert report.notes[1:] == ("rows 6-7 of sft: cut off, base has 6; 1 tokens are lost: 'w6'",)


def test_a_row_that_one_of_three_models_lacks_is_the_donor_s(model: MakeModel) -> None:
    vocabulary = words(4) | {"<im>": 4, "<think>": 6}
    models = {
        "base": model("base", 8, words(4)),
        "instruct": model("instruct", 8, words(4) | {"<im>": 4}),
        "reasoning": model("reasoning", 8, vocabulary),
    }
    report = check_fit(models, missing_rows_from="reasoning")
    assert report.missing_rows[EMBEDDING] == ((4, 5), (6, 7))
    assert report.notes[-2:] == (
        "rows 4, 6 ('<im>', '<think>') come from reasoning: base has no such tokens",
        "row 6 ('<think>') comes from reasoning: instruct has no such token",
    )


def test_a_token_that_only_the_donor_lacks_is_noted(model: MakeModel) -> None:
    models = {"base": model("base", 8, words(5)), "sft": model("sft", 8, words(5) | {"<im>": 6})}
    report = check_fit(models, missing_rows_from="base")
    assert report.missing_rows == {}
    assert report.notes[-1] == "row 6 ('<im>') of sft: merged with rows of base, which has no such tokens"


def test_without_a_donor_tokens_in_the_padding_are_a_note(model: MakeModel) -> None:
    models = {"base": model("base", 8, words(5)), "sft": model("sft", 8, words(6))}
    note = "tokenizer: 1 tokens of sft are not in base: 'w5'"
    assert check_fit(models) == FitReport((), (note,), vocabulary_tensors=(HEAD, EMBEDDING))


def test_without_a_donor_rows_that_differ_are_one_difference_that_says_what_to_name(model: MakeModel) -> None:
    models = {"base": model("base", 8, words(8)), "sft": model("sft", 9, words(9))}
    (difference,) = compare(models).differences
    assert difference == (
        f"config.json: vocab_size is 8 in base, 9 in sft, and so are the rows of {HEAD}, {EMBEDDING}: name a model for "
        "missing_rows_from, whose rows then stand in where another has none"
    )


@pytest.mark.parametrize("donor", [None, "base", "sft"])
def test_equal_vocabularies_have_no_missing_rows_whoever_the_donor_is(model: MakeModel, donor: str | None) -> None:
    models = {"base": model("base", 8, words(5)), "sft": model("sft", 8, words(5))}
    report = check_fit(models, missing_rows_from=donor)
    assert report == FitReport((), (), vocabulary_tensors=(HEAD, EMBEDDING))


@pytest.mark.parametrize("unreadable", ["base", "sft"])
def test_where_a_tokenizer_cannot_be_read_the_number_of_rows_decides(model: MakeModel, unreadable: str) -> None:
    vocabularies = {"base": words(5), "sft": words(9)} | {unreadable: None}
    models = {"base": model("base", 8, vocabularies["base"]), "sft": model("sft", 10, vocabularies["sft"])}
    report = check_fit(models, missing_rows_from="sft")
    assert (report.rows, report.missing_rows[EMBEDDING]) == (10, ((8, 10),))
    assert report.notes[-1] == "rows 8-9 come from sft: base has no such rows"
    assert check_fit(models, missing_rows_from="base").notes[-1].startswith("rows 8-9 of sft: cut off, base has 8; ")


def test_a_donor_whose_tokenizer_has_more_tokens_than_it_has_rows_is_refused(model: MakeModel) -> None:
    models = {"base": model("base", 8, words(8)), "sft": model("sft", 8, words(8) | {"<think>": 8})}
    with pytest.raises(FitError, match=r"token '<think>' of sft has id 8, but vocab_size is 8"):
        check_fit(models, missing_rows_from="sft")


def test_a_donor_that_is_not_merged_is_refused(model: MakeModel) -> None:
    models = {name: model(name, 8, words(8)) for name in ("base", "sft", "chat")}
    report = compare(models, merged=("base", "sft"), missing_rows_from="chat")
    assert report.differences == ("missing_rows_from is 'chat', expected a merged model: base, sft",)


def test_a_head_with_a_bias_has_its_missing_elements_too(make_checkpoint: MakeCheckpoint) -> None:
    models = {}
    for name, rows in (("base", 4), ("sft", 6)):
        tensors = content(rows, EMBEDDING, HEAD) | {"lm_head.bias": np.zeros(rows, dtype=np.float32)}
        path = make_checkpoint(name, content=tensors, config={"vocab_size": rows}, vocab=words(rows))
        models[name] = Checkpoint.open(path)
    report = check_fit(models, missing_rows_from="sft")
    assert set(report.missing_rows) == {"lm_head.bias", EMBEDDING, HEAD}


def test_a_width_that_differs_stays_a_difference(make_checkpoint: MakeCheckpoint) -> None:
    models = {}
    for name, rows, width in (("base", 4, 3), ("sft", 6, 5)):
        path = make_checkpoint(
            name, content=content(rows, EMBEDDING, width=width), config={"vocab_size": rows}, vocab=words(4)
        )
        models[name] = Checkpoint.open(path)
    assert compare(models, missing_rows_from="sft").differences == (
        "config.json: vocab_size is 4 in base, 6 in sft",
        f"tensor {EMBEDDING} has shape [4, 3] in base, [6, 5] in sft",
    )


def test_rows_that_are_not_those_of_the_config_stay_a_difference(make_checkpoint: MakeCheckpoint) -> None:
    models = {
        name: Checkpoint.open(
            make_checkpoint(name, content=content(rows, EMBEDDING), config={"vocab_size": 8}, vocab=words(4))
        )
        for name, rows in (("base", 9), ("sft", 8))
    }
    report = compare(models, missing_rows_from="sft")
    assert report.differences == (f"tensor {EMBEDDING} has shape [9, 3] in base, [8, 3] in sft",)


def test_what_follows_the_size_of_the_vocabulary_from_model_to_model_is_a_vocabulary_tensor(model: MakeModel) -> None:
    name = "model.layers.61.shared_head.head.weight"
    models = {"base": model("base", 8, words(8), name), "sft": model("sft", 9, words(9), name)}
    assert check_fit(models, missing_rows_from="sft").missing_rows == {name: ((8, 9),)}


def test_a_size_that_happens_to_be_that_of_the_vocabulary_makes_no_vocabulary_tensor(
    make_checkpoint: MakeCheckpoint,
) -> None:
    square = np.zeros((8, 8), dtype=np.float32)
    names = (EMBEDDING, "model.layers.0.q_proj.weight", "transformer.wpe.weight")
    tensors = dict.fromkeys(names, square) | {"model.norm.weight": np.zeros(8, dtype=np.float32)}
    models = {
        name: Checkpoint.open(make_checkpoint(name, content=tensors, config={"vocab_size": 8}, vocab=words(count)))
        for name, count in (("base", 5), ("sft", 6))
    }
    report = check_fit(models, missing_rows_from="sft")
    assert report.vocabulary_tensors == (EMBEDDING,)
    assert report.missing_rows == {EMBEDDING: ((5, 6),)}


def test_a_model_that_only_gives_its_tokenizer_may_have_other_rows(model: MakeModel) -> None:
    models = {name: model(name, rows, words(5)) for name, rows in (("base", 8), ("sft", 8), ("chat", 16))}
    assert compare(models, merged=("base", "sft")) == FitReport((), (), vocabulary_tensors=(HEAD, EMBEDDING))


def test_a_tokenizer_from_elsewhere_may_use_the_rows_that_were_missing(model: MakeModel) -> None:
    models = {name: model(name, rows, words(rows)) for name, rows in (("base", 8), ("sft", 10))}
    models["chat"] = model("chat", 16, words(10))
    assert compare(models, merged=("base", "sft"), missing_rows_from="sft").differences == ()


def test_a_tokenizer_from_elsewhere_with_a_token_too_many_is_one_difference(model: MakeModel) -> None:
    models = {"base": model("base", 8, words(8)), "chat": model("chat", 8, words(9))}
    report = compare(models, merged=("base",))
    assert report.differences == ("tokenizer: token 'w8' of chat has id 8, but vocab_size is 8",)


@pytest.mark.parametrize("merged", [("base", "sft"), ("base", "sft", "chat")])
def test_a_token_of_the_tokenizer_that_gets_no_row_is_a_difference(model: MakeModel, merged: tuple[str, ...]) -> None:
    models = {"base": model("base", 8, words(5)), "sft": model("sft", 8, words(5))}
    models["chat"] = model("chat", 16, words(5) | {"<im>": 12})
    report = compare(models, merged=merged, missing_rows_from="sft", tokenizer_from="chat")
    assert report.differences == (
        "tokenizer: token '<im>' of chat has id 12, but vocab_size of the merged checkpoint is 8",
    )
