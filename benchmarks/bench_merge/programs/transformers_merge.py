"""The script that one writes without a merge tool: load, sum in float32, save. OUT, then WEIGHT=DIR for each model."""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def main() -> None:
    out, *models = sys.argv[1:]
    weights = [float(model.partition("=")[0]) for model in models]
    paths = [model.partition("=")[2] for model in models]
    loaded = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16) for path in paths]
    states = [model.state_dict() for model in loaded]
    for name, tensor in states[0].items():
        merged = torch.zeros(tensor.shape)
        for weight, state in zip(weights, states, strict=True):
            merged += weight * state[name].float()
        tensor.copy_(merged)
    loaded[0].save_pretrained(out)
    AutoTokenizer.from_pretrained(paths[-1]).save_pretrained(out)


if __name__ == "__main__":
    main()
