import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bai_pipeline.errors import CheckpointError, DataError, TrainingError
from bai_pipeline.loading import load_tokenizer
from bai_pipeline.progress import SilentReporter
from bai_pipeline.reward.model import at_last_token, load_reward_model, token_scores
from bai_pipeline.reward.pairs import Pair, PairCollator, bradley_terry_loss, hold_back, read_pairs
from bai_pipeline.reward.training import normalisation, train_reward_model
from bai_pipeline.tables import write_table
from tests.reward.conftest import TRAINING, preference


def pair(chosen: list[int], rejected: list[int], prompt: int = 0) -> Pair:
    return {"prompt": [prompt], "chosen": chosen, "rejected": rejected}


def test_the_loss_of_equal_scores_is_log_two() -> None:
    assert bradley_terry_loss(torch.tensor([3.0, -1.0, 3.0, -1.0])).item() == pytest.approx(math.log(2))


def test_the_loss_is_minus_log_of_the_odds_share() -> None:
    # exp(chosen) / (exp(chosen) + exp(rejected)) = 3/4 and 1/2
    scores = torch.tensor([math.log(3), 5.0, 0.0, 5.0])
    assert bradley_terry_loss(scores).item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2)


def test_chosen_conversations_come_first_in_a_batch() -> None:
    batch = PairCollator(0)([pair([1, 2], [3]), pair([4], [5, 6, 7])])
    assert batch["input_ids"].tolist() == [[1, 2, 0], [4, 0, 0], [3, 0, 0], [5, 6, 7]]
    assert batch["attention_mask"].sum(1).tolist() == [2, 1, 1, 3]


def test_pairs_are_whole_conversations(init: Path, preferences: Path) -> None:
    tokenizer = load_tokenizer(init)
    found = read_pairs(preferences, tokenizer, 32)[1]
    assert tokenizer.decode(found["prompt"]) == "<bos> <user> max a 1 b 1 <asst>"
    assert tokenizer.decode(found["chosen"]) == "<bos> <user> max a 1 b 1 <asst> ok ans 7 <eos>"
    assert tokenizer.decode(found["rejected"]) == "<bos> <user> max a 1 b 1 <asst> ok ans 3 <eos>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompt": []},
            r"(?s)preferences\.parquet is not a preferences table.*row 1: prompt must be a non-empty list",
        ),
        ({"chosen": " "}, "row 1: chosen must be non-empty text"),
        (
            {"rejected": "ok ok ok ok ok ok ok ok ok"},
            r"at most max_length = 15 tokens, got 18 in row 1 of .*preferences\.parquet",
        ),
        ({"rejected": "banana"}, r"a word in row 1 of .*preferences\.parquet is not in the tokenizer's vocabulary"),
    ],
)
def test_a_faulty_pair_is_an_error_naming_file_and_row(
    tmp_path: Path, init: Path, changes: dict[str, object], message: str
) -> None:
    write_table([preference(0), {**preference(1), **changes}], tmp_path / "preferences.parquet")
    with pytest.raises(DataError, match=message):
        read_pairs(tmp_path / "preferences.parquet", load_tokenizer(init), 15)


@pytest.mark.parametrize(("pairs", "held_back"), [(8, 2), (40, 10), (128, 32), (200, 32), (800, 100)])
def test_an_eighth_is_held_back_but_thirty_two_where_a_quarter_allows_it(pairs: int, held_back: int) -> None:
    everything = [pair([number], [-number], number) for number in range(pairs)]
    train, test = hold_back(everything, 0)
    assert len(test) == held_back
    assert sorted(found["chosen"][0] for found in train + test) == list(range(pairs))
    assert hold_back(everything, 0) == (train, test) != hold_back(everything, 1)


@pytest.mark.parametrize(("per_prompt", "held_back"), [(2, 32), (4, 32), (5, 30), (50, 50)])
def test_no_prompt_is_on_both_sides(per_prompt: int, held_back: int) -> None:
    everything = [pair([number], [-number], number // per_prompt) for number in range(200)]
    train, test = hold_back(everything, 0)
    assert sorted(found["chosen"][0] for found in train + test) == list(range(200))
    assert not {found["prompt"][0] for found in train} & {found["prompt"][0] for found in test}
    assert len(test) == held_back


def test_too_few_pairs_are_an_error() -> None:
    with pytest.raises(DataError, match="expected at least 8 preference pairs to train on and test with, got 7"):
        hold_back([pair([1], [2])] * 7, 0)
    with pytest.raises(DataError, match=r"expected preference pairs of several prompts .*, got 9 of one"):
        hold_back([pair([1], [2])] * 9, 0)


def test_a_trained_reward_model_prefers_the_chosen_and_is_normalised(
    tmp_path: Path, init: Path, preferences: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    metrics = train_reward_model(init, preferences, out, TRAINING, 0, SilentReporter())
    assert metrics["pairs"] == 40
    assert metrics["held_back_pairs"] == 10
    assert metrics["held_back_accuracy"] == 1.0
    assert float(metrics["first_loss"]) == pytest.approx(math.log(2), abs=0.1)
    assert float(metrics["final_loss"]) < 0.2
    model, tokenizer = load_reward_model(out), load_tokenizer(out)
    _, held_back = hold_back(read_pairs(preferences, tokenizer, 32), 0)
    batch = PairCollator(0)(held_back)
    scores = at_last_token(token_scores(model, batch["input_ids"], batch["attention_mask"]), batch["attention_mask"])
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert not any(path.suffix == ".bin" for path in out.iterdir())


def test_training_is_the_same_to_the_byte_for_the_same_seed_only(tmp_path: Path, init: Path, preferences: Path) -> None:
    results = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(number)
        out.mkdir()
        train_reward_model(init, preferences, out, TRAINING.model_copy(update={"steps": 4}), seed, SilentReporter())
        results.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert results[0] == results[1]
    assert results[0]["model.safetensors"] != results[2]["model.safetensors"]


def test_the_config_of_a_reward_model_keeps_its_start(tmp_path: Path, init: Path, preferences: Path) -> None:
    train_reward_model(init, preferences, tmp_path, TRAINING.model_copy(update={"steps": 1}), 0, SilentReporter())
    before, after = (json.loads((path / "config.json").read_text()) for path in (init, tmp_path))
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"architectures", "id2label", "label2id", "score_shift", "score_scale"}


def test_a_start_that_lacks_a_tensor_is_refused_and_only_the_head_may_be_new(
    tmp_path: Path, init: Path, preferences: Path
) -> None:
    shutil.copytree(init, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.gate.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"damaged, got them without model\.layers\.1\.mlp\.gate\.weight$"):
        train_reward_model(tmp_path / "damaged", preferences, tmp_path, TRAINING, 0, SilentReporter())


def test_a_router_loss_is_refused(tmp_path: Path, init: Path, preferences: Path) -> None:
    with pytest.raises(TrainingError, match=r"without router loss, got aux_loss_coef 0\.1; set it to 0"):
        train_reward_model(
            init, preferences, tmp_path, TRAINING.model_copy(update={"aux_loss_coef": 0.1}), 0, SilentReporter()
        )


@pytest.mark.parametrize("scores", [[1.0, 1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_scores_that_cannot_be_normalised_are_an_error(scores: list[float]) -> None:
    with pytest.raises(TrainingError, match=r"expected finite scores that differ.*no reward model was written"):
        normalisation(torch.tensor(scores))


def test_normalisation_is_mean_and_standard_deviation() -> None:
    assert normalisation(torch.tensor([1.0, 3.0, 5.0, 7.0])) == pytest.approx((4.0, math.sqrt(5)))
