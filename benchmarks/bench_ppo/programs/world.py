"""Makes what a task names: actor, reward model and prompts. Argument: the task's file.

The models have random weights. What a step costs depends on them in two ways only, which are set here: how long
responses are, and how evenly tokens spread over the experts.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import OlmoeForCausalLM, PreTrainedTokenizerFast

from bai_pipeline.quiet import quiet_transformers
from bai_pipeline.reward.model import OlmoeForSequenceClassification
from bai_pipeline.settings import ModelSettings
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import CHAT_TEMPLATE, CONTROL
from bai_pipeline.tables import write_table
from benchmarks.bench_ppo.task import EOS, Task

MODEL: Final = ModelSettings(
    num_hidden_layers=4,
    hidden_size=128,
    num_attention_heads=4,
    num_experts=8,
    num_experts_per_tok=2,
    intermediate_size=128,
    max_position_embeddings=512,
)
"""1.9 million parameters."""
VOCABULARY: Final = 256
PROMPTS: Final = 1024
TEMPLATE_TOKENS: Final = 3
"""<bos> <user> … <asst>"""
NEVER: Final = -40.0
"""Logit of a token that is not to be drawn, against about 0 for the others."""
EMBEDDING_SCALE: Final = 50.0
"""Times the usual 0.02: so that tokens differ from each other at the first router as they do in a trained model."""


def main() -> None:
    task = Task.read(sys.argv[1])
    root = Path(task.root)
    tokenizer = word_tokenizer()
    with quiet_transformers():
        actor = with_end_token(build_olmoe(MODEL, tokenizer, seed=0), task.eos_probability)
        torch.manual_seed(1)
        config = type(actor.config)(**{**actor.config.to_dict(), "id2label": {0: "score"}})
        reward = OlmoeForSequenceClassification(config)  # type: ignore[no-untyped-call]  # transformers
        for name, model in (("actor", actor), ("reward", reward)):
            model.save_pretrained(root / name)
            tokenizer.save_pretrained(root / name)
    words = torch.randint(len(CONTROL) + 2, VOCABULARY, (PROMPTS, task.prompt_tokens - TEMPLATE_TOKENS)).tolist()
    messages = [[{"role": "user", "content": str(tokenizer.decode(row))}] for row in words]
    rows: list[dict[str, Any]] = [{"id": f"p{index}", "messages": one} for index, one in enumerate(messages)]
    write_table([{**row, "answer": None, "verifier": None} for row in rows], root / "prompts.parquet")
    tokens = [tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False) for one in messages]
    assert {len(row) for row in tokens} == {task.prompt_tokens}
    (root / "prompts.json").write_text(json.dumps(tokens))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """The embedded world's, with more words: one token a word."""
    known = (*CONTROL, "<user>", "<asst>")
    words = (*known, *(f"w{index}" for index in range(VOCABULARY - len(known))))
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=CONTROL[3]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in CONTROL])
    special = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), CONTROL, strict=True))
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **special
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@torch.no_grad()
def with_end_token(model: OlmoeForCausalLM, probability: float) -> OlmoeForCausalLM:
    """The model with about that probability of the end token at every position, and 0 of the other control tokens.

    All embeddings get the same component along a direction that the routers do not see; the head reads it.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(MODEL.hidden_size, generator=generator)
    direction /= direction.norm()
    embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
    embeddings.mul_(EMBEDDING_SCALE).add_(math.sqrt(MODEL.hidden_size) * direction)
    for layer in model.model.layers:
        gate = layer.mlp.gate.weight
        gate.sub_((gate @ direction)[:, None] * direction)
    ids = torch.randint(len(CONTROL), VOCABULARY, (64, 64), generator=generator)
    hidden = model.model(ids).last_hidden_state
    others = (hidden @ head[len(CONTROL) :].T).logsumexp(-1).mean()
    unit = direction / (hidden @ direction).mean()  # a head's row that gives a logit of about 1
    head[: len(CONTROL)] = NEVER * unit
    if probability > 0:
        head[EOS] = (others + math.log(probability / (1 - probability))) * unit
    return model


if __name__ == "__main__":
    main()
