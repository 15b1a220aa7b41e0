"""Run what is missing of the experiment, then write what it shows: `python -m assets.experiment`.

Everything that is done stays done: an interrupted call goes on from there, and one with nothing to do only writes.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console

from assets.demo.__main__ import DemoFailure, duration, materialize, prepare_instance
from assets.experiment.design import CHAINS, SEEDS, SETTINGS, Part, parts
from assets.experiment.results import gather
from bai_pipeline.errors import BaiPipelineError
from bai_pipeline.plan import Plan
from bai_pipeline.report.experiment import write_experiment
from bai_pipeline.store import Store, open_store
from bai_pipeline.study import PRESETS

OUT = Path("docs/study")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a part failed, which the pages then say."""
    options = _parsed(arguments)
    console = Console(highlight=False)
    store = open_store(os.environ.get("BAI_STORE") or "store")
    os.environ["BAI_STORE"] = store.location
    wanted = list(parts(store.root / "studies", options.settings, options.chains, options.seeds))
    failed = 0
    if not options.only_write:
        prepare_instance()
        for number, part in enumerate(wanted, 1):
            console.print(f"{number}/{len(wanted)}: {part.setting}, chain {part.chain}")
            try:
                failed += not _run(part, store, console)
            except KeyboardInterrupt:
                console.print("Interrupted; every run was ended. The next call goes on from here.")
                return 130
    by_setting = {name: list(group) for name, group in groupby(wanted, key=lambda part: part.setting)}
    options.out.mkdir(parents=True, exist_ok=True)
    write_experiment(options.out, {name: gather(name, _about(name), ps, store) for name, ps in by_setting.items()})
    console.print(f"Written to {options.out / 'README.md'}")
    return 1 if failed else 0


def _run(part: Part, store: Store, console: Console) -> bool:
    """Materialize a part's runs and scores; False if one failed."""
    os.environ["BAI_STUDY"] = str(part.file)
    started = time.monotonic()
    try:
        materialize(Plan(part.load(), store), console, tables=False)
    except DemoFailure as failure:
        console.print(f"{failure} failed; its log: {failure.log}. Going on with the next part.", soft_wrap=True)
        return False
    console.print(f"done in {duration(time.monotonic() - started)}")
    return True


def _about(setting: str) -> str:
    """What a setting is: the comment at the head of its preset."""

    def head() -> Iterator[str]:
        for line in (PRESETS / f"{setting}.yaml").read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                return
            yield line.removeprefix("#").strip()

    return " ".join(head())


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make study", description="The small-scale experiment.")
    parser.add_argument("--settings", type=_words, default=SETTINGS, help=f"default {','.join(SETTINGS)}")
    parser.add_argument("--chains", type=_numbers, default=CHAINS)
    parser.add_argument("--seeds", type=_numbers, default=SEEDS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only-write", action="store_true", help="run nothing, write what is there")
    return parser.parse_args(arguments)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BaiPipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
