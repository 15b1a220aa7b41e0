"""The word-level tokenizer of the embedded world."""

from typing import Final

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from bai_pipeline.synthetic.tasks import LABELS, TASKS

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
CONTROL: Final = (PAD, BOS, EOS, UNKNOWN)
"""Special tokens with the ids 0 to 3; all other words are visible text, the role and <think> markers too."""
MARKERS: Final = ("<user>", "<asst>", "<think>", "</think>")
DIGITS: Final = tuple("0123456789")
SYMBOLS: Final = ("+", "-", "=", ",", ";", ":", ".", "?")
WORDS: Final = ("ans", "wait", "check", "so", "ok", "hmm")
VOCABULARY: Final = (*CONTROL, *MARKERS, *DIGITS, *SYMBOLS, *TASKS, *WORDS, *LABELS)

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ ' <user> ' + message.content }}"
    "{% elif message.role == 'assistant' %}{{ ' <asst> ' + message.content + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('expected messages of user and assistant, got role ' + message.role) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <asst>' }}{% endif %}"
)
"""<bos> <user> QUESTION <asst> ANSWER <eos>; with add_generation_prompt it ends with <asst>."""


def build_tokenizer(model_max_length: int = 512) -> PreTrainedTokenizerFast:
    """The tokenizer: one token a word, words separated by single spaces; decoding gives the same text back."""
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in CONTROL])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
