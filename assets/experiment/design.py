"""The design of the experiment: fixed, and committed, before its runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bai_pipeline.store.files import write_atomically
from bai_pipeline.study import Study, load_study

SETTINGS = ("micro", "micro-neutral", "micro-reasoning-only", "micro-kl", "micro-calibrated", "micro-verifiable")
"""In the order of running: should it be cut short, the first are whole."""
CHAINS = (0, 1, 2)
"""Independent chains: seeds of data, base, SFT models and reward model."""
SEEDS = (0, 1, 2)
"""PPO seeds of every chain."""
ALPHAS = tuple(f"0.{tenth}" for tenth in range(10))

_STUDY = """\
# Chain {chain} of the setting {setting}: see `make study`.
extends: {setting}
name: {setting}.chain-{chain}
chain_seed: {chain}
alphas: [{alphas}]
seeds: [{seeds}]
"""


@dataclass(frozen=True)
class Part:
    """One setting with one chain: a study of its own."""

    setting: str
    chain: int
    seeds: tuple[int, ...]
    file: Path

    def load(self) -> Study:
        """The study."""
        return load_study(self.file)


def parts(
    root: Path, settings: tuple[str, ...] = SETTINGS, chains: tuple[int, ...] = CHAINS, seeds: tuple[int, ...] = SEEDS
) -> Iterator[Part]:
    """The parts in the order of running; their study files are written below `root`."""
    for setting in settings:
        for chain in chains:
            text = _STUDY.format(
                setting=setting,
                chain=chain,
                alphas=", ".join(f'"{alpha}"' for alpha in ALPHAS),
                seeds=", ".join(map(str, seeds)),
            )
            file = root / f"{setting}.chain-{chain}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, text)
            yield Part(setting, chain, seeds, file)
