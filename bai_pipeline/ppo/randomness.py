"""Counter-based randomness: every random number is a function of (seed, counter, purpose).

No generator lives longer than one use, so a resumed run needs no generator state, and using one purpose more or less
changes no other.
"""

import hashlib

import torch


def derive_seed(seed: int, counter: int, purpose: str) -> int:
    """A 63-bit seed for one use: the head of SHA-256 over the three.

    Args:
        seed: the run's.
        counter: step or epoch.
        purpose: what the numbers are for, such as "sampling".
    """
    digest = hashlib.sha256(f"{seed}/{counter}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, counter: int, purpose: str) -> torch.Generator:
    """A new CPU generator for one use."""
    return torch.Generator().manual_seed(derive_seed(seed, counter, purpose))


def permutation(length: int, seed: int, counter: int, purpose: str) -> list[int]:
    """A random order of range(length)."""
    order: list[int] = torch.randperm(length, generator=generator(seed, counter, purpose)).tolist()
    return order
