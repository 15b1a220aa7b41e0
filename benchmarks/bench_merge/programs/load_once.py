"""Loads a directory (a written checkpoint, or a recipe in its place) once and prints what it took, as JSON.

`loaded` seconds end when the model is there; `touched` when every value of it has been read once, so that nothing that
is only mapped counts as loaded. The digest is of all values, taken afterwards.
"""

import json
import sys
import time
from pathlib import Path

import torch
import xxhash
from transformers import AutoModelForCausalLM

from bai_pipeline.loading import load_model


@torch.no_grad()
def main() -> None:
    start = time.perf_counter()
    model = load_model(AutoModelForCausalLM, Path(sys.argv[1]))
    loaded = time.perf_counter()
    for parameter in model.parameters():
        parameter.max()
    touched = time.perf_counter()
    digest = xxhash.xxh3_128()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.contiguous().view(-1).view(torch.uint8).numpy().data)
    print(json.dumps({"loaded": loaded - start, "touched": touched - start, "digest": digest.hexdigest()}))


if __name__ == "__main__":
    main()
