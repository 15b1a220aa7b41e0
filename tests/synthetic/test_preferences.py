import json
import random
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bai_pipeline.errors import DataError
from bai_pipeline.progress import SilentReporter
from bai_pipeline.settings import PreferenceSettings, WorldSettings
from bai_pipeline.sft.training import pretrain
from bai_pipeline.synthetic.preferences import Sample, pairs, write_preferences
from bai_pipeline.synthetic.tasks import parse_prompt, solve, verify
from bai_pipeline.synthetic.world_tables import write_pretraining_data, write_prompts
from bai_pipeline.tables import Row, read_table, write_table
from tests.tiny import MODEL, TRAINING

SETTINGS = PreferenceSettings(
    sampled_from=("guesser",),
    prompts=40,
    samples_per_prompt=4,
    max_new_tokens=12,
    temperature=1.0,
    length_tolerance=None,
)


@pytest.fixture(scope="module")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers "ans DIGIT", seldom rightly: trained for a moment on chats with direct answers."""
    root = tmp_path_factory.mktemp("guesser")
    world = WorldSettings(
        task_weights={"sum": 1.0},
        operands_min=2,
        operands_max=4,
        held_out_modulus=8,
        document_mix={"chat": 1.0},
        chat_mix={"direct": 1.0},
        direct_share=1.0,
        verification_passes={1: 1.0},
        pretraining_documents=2000,
        sft_examples=1,
        prompts=1,
        benchmark_problems=1,
    )
    model = MODEL.model_copy(update={"num_hidden_layers": 1})
    training = TRAINING.model_copy(
        update={"steps": 60, "batch_size": 8, "learning_rate": 2e-2, "warmup_steps": 5, "max_length": 32}
    )
    write_pretraining_data(root, world, 0)
    (root / "model").mkdir()
    pretrain(root / "pretraining.parquet", root / "model", model, training, 0, SilentReporter())
    return root / "model"


@pytest.fixture
def prompts(tmp_path: Path, world: WorldSettings) -> Path:
    write_prompts(tmp_path, world, 0)
    return tmp_path / "prompts.parquet"


def test_chosen_responses_are_right_and_rejected_ones_wrong(tmp_path: Path, guesser: Path, prompts: Path) -> None:
    metadata = write_preferences(tmp_path, {"guesser": guesser}, prompts, SETTINGS, 0, SilentReporter())
    rows = read_table("preferences", tmp_path / "preferences.parquet")
    assert len(rows) == metadata["pairs"]
    assert len(rows) > 3
    assert metadata["samples"] == 40 * 4
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        problem = parse_prompt(row["prompt"][0]["content"])
        assert problem is not None
        assert verify(row["chosen"], str(solve(problem)))
        assert not verify(row["rejected"], str(solve(problem)))
        assert "<eos>" not in row["chosen"] + row["rejected"]


def test_markers_that_a_tokenizer_declares_special_stay_in_the_text(
    tmp_path: Path, guesser: Path, prompts: Path
) -> None:
    texts = []
    for number, special in enumerate(([], ["ans"])):
        model, out = tmp_path / f"model {number}", tmp_path / str(number)
        shutil.copytree(guesser, model)
        out.mkdir()
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.add_special_tokens({"additional_special_tokens": special})
        tokenizer.save_pretrained(model)
        write_preferences(out, {"guesser": model}, prompts, SETTINGS, 0, SilentReporter())
        texts.append([row["chosen"] for row in read_table("preferences", out / "preferences.parquet")])
    assert texts[0] == texts[1]


def test_a_sample_ends_at_any_stop_token_of_the_model(tmp_path: Path, guesser: Path, prompts: Path) -> None:
    """With "ans" among them every sample ends before it has a right answer."""
    shutil.copytree(guesser, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    ans = AutoTokenizer.from_pretrained(guesser).convert_tokens_to_ids("ans")
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [ans]}))
    with pytest.raises(DataError, match="made no pair"):
        write_preferences(tmp_path, {"guesser": tmp_path / "model"}, prompts, SETTINGS, 0, SilentReporter())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    tmp_path: Path, guesser: Path, prompts: Path
) -> None:
    tables = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(number)
        out.mkdir()
        write_preferences(out, {"guesser": guesser}, prompts, SETTINGS, seed, SilentReporter())
        tables.append((out / "preferences.parquet").read_bytes())
    assert tables[0] == tables[1] != tables[2]


def test_truncated_samples_are_counted_and_make_no_pair(tmp_path: Path, guesser: Path, prompts: Path) -> None:
    one_token = SETTINGS.model_copy(update={"max_new_tokens": 1})
    with pytest.raises(DataError, match="160 samples of guesser made no pair of a right and a wrong response"):
        write_preferences(tmp_path, {"guesser": guesser}, prompts, one_token, 0, SilentReporter())
    assert not (tmp_path / "preferences.parquet").exists()


def test_a_role_without_a_model_is_named(tmp_path: Path, guesser: Path, prompts: Path) -> None:
    both = SETTINGS.model_copy(update={"sampled_from": ("guesser", "reasoning")})
    with pytest.raises(DataError, match="got none for reasoning"):
        write_preferences(tmp_path, {"guesser": guesser}, prompts, both, 0, SilentReporter())


def test_too_few_prompts_are_an_error_that_says_how_many_there_are(
    tmp_path: Path, guesser: Path, prompts: Path
) -> None:
    more = SETTINGS.model_copy(update={"prompts": 51})
    with pytest.raises(DataError, match=r"expected at least 51 prompts, got 50 in .*prompts\.parquet"):
        write_preferences(tmp_path, {"guesser": guesser}, prompts, more, 0, SilentReporter())


def test_a_prompt_without_an_answer_is_named(tmp_path: Path, guesser: Path) -> None:
    turns = [{"role": "user", "content": "sum a 4"}]
    rows: list[Row] = [{"id": "0", "messages": turns, "answer": "4"}, {"id": "1", "messages": turns, "answer": None}]
    write_table(rows, tmp_path / "prompts.parquet")
    two = SETTINGS.model_copy(update={"prompts": 2})
    with pytest.raises(DataError, match=r"row 1 of .*prompts\.parquet has none"):
        write_preferences(tmp_path, {"guesser": guesser}, tmp_path / "prompts.parquet", two, 0, SilentReporter())


def sampled(right: bool, length: int) -> Sample:
    return Sample(f"{'right' if right else 'wrong'} {length}", length, right)


def test_each_sample_is_in_one_pair_at_most() -> None:
    pool = [sampled(True, 1), sampled(True, 2), sampled(False, 9)]
    found = pairs([pool], None, random.Random(0))
    assert len(found) == 1
    assert (found[0][0].right, found[0][1].right) == (True, False)


def test_without_a_tolerance_models_and_lengths_mix() -> None:
    assert len(pairs([[sampled(True, 5)], [sampled(False, 60)]], None, random.Random(0))) == 1


def test_with_a_tolerance_pairs_are_of_one_model_and_of_about_equal_length() -> None:
    assert pairs([[sampled(True, 5)], [sampled(False, 5)]], 0.1, random.Random(0)) == []
    # a tenth of 50 tokens: 55 is near enough, 56 is not; of 5 tokens it would be none, so 3 are allowed: 8 is, 9 is not
    for chosen, rejected, count in ((50, 55, 1), (50, 56, 0), (5, 8, 1), (5, 9, 0)):
        assert len(pairs([[sampled(True, chosen), sampled(False, rejected)]], 0.1, random.Random(0))) == count
