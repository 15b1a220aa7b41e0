import random
from pathlib import Path

import jinja2
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bai_pipeline.settings import WorldSettings
from bai_pipeline.synthetic.documents import sample_document
from bai_pipeline.synthetic.tokenizer import VOCABULARY, build_tokenizer

USER = {"role": "user", "content": "sum a 4 b 7"}
ASSISTANT = {"role": "assistant", "content": "<think> b 4 + 7 = 1 , ok so 1 </think> ans 1"}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_pad_begin_and_end_have_the_first_ids_and_every_word_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == len(VOCABULARY) == len(set(VOCABULARY))
    assert tokenizer.convert_tokens_to_ids(list(VOCABULARY)) == list(range(len(VOCABULARY)))


def test_decoding_gives_back_every_text_of_the_world(tokenizer: PreTrainedTokenizerFast, world: WorldSettings) -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = sample_document(world, rng)
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.split(" "))
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_a_prompt_ends_where_the_answer_starts(tokenizer: PreTrainedTokenizerFast) -> None:
    text = tokenizer.apply_chat_template([USER], add_generation_prompt=True, tokenize=False)
    assert text == "<bos> <user> sum a 4 b 7 <asst>"


def test_an_answer_is_followed_by_the_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    text = tokenizer.apply_chat_template([USER, ASSISTANT], tokenize=False)
    assert text == f"<bos> <user> sum a 4 b 7 <asst> {ASSISTANT['content']} <eos>"


def test_think_and_role_markers_stay_visible_and_control_tokens_do_not(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("<bos> <user> <asst> <think> 1 </think> <eos> <pad>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<user> <asst> <think> 1 </think>"


def test_a_word_outside_the_vocabulary_is_unknown(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("sum of 4")["input_ids"][1] == tokenizer.unk_token_id


def test_a_system_message_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(jinja2.TemplateError, match="got role system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "ok"}], tokenize=False)


def test_a_saved_tokenizer_behaves_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = loaded.apply_chat_template([USER, ASSISTANT], tokenize=False)
    assert text == tokenizer.apply_chat_template([USER, ASSISTANT], tokenize=False)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.padding_side == "left"
