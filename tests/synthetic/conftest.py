"""A small world, and tiny checkpoints of it."""

import pytest

from bai_pipeline.settings import WorldSettings


@pytest.fixture
def world() -> WorldSettings:
    return WorldSettings(
        task_weights={"sum": 0.4, "alt": 0.4, "max": 0.2},
        operands_min=2,
        operands_max=4,
        held_out_modulus=8,
        document_mix={"facts": 0.2, "brief": 0.2, "direct": 0.1, "long": 0.2, "noise": 0.1, "chat": 0.2},
        chat_mix={"noise": 0.2, "direct": 0.2, "brief": 0.2, "long": 0.2, "think": 0.2},
        direct_share=0.5,
        verification_passes={1: 0.5, 2: 0.3, 3: 0.2},
        pretraining_documents=400,
        sft_examples=60,
        prompts=50,
        benchmark_problems=10,
    )
