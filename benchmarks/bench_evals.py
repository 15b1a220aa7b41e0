"""CPU seconds of 1,000 of MMLU's real questions: `bai evals` against lm-eval's HFLM, same tiny OLMoE, same tasks.

Both are driven by lm-eval; only the model behind it differs. HFLM runs at several batch sizes and counts with its best.
A process each, in turns; counted from the loaded model to the scores; one thread; medians. Writes
benchmarks/results/evals-DATE.json and .md.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench_merge.__main__ import commit

ROOT = Path(__file__).parents[1]
SIZES = {
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
}
VOCABULARY = 16384
BATCH_SIZES = (1, 4, 16)
"""Of HFLM; larger ones were slower still, and took gigabytes."""
OURS = 16


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-evals", description=__doc__)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument(
        "--repeats", type=int, default=3, help="processes of each contestant, a third of it with shots; default 3"
    )
    parser.add_argument("--shots", type=int, nargs="*", default=[0, 5], help="worked examples; default both 0 and 5")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-evals-") as directory:
        work = Path(directory)
        prepare(work, options.questions)
        runs = [
            {"shots": shots, **run(work, shots, who, batch_size)}
            for shots in options.shots
            for _ in range(options.repeats if shots == 0 else max(1, options.repeats // 3))
            for who, batch_size in [("bai", OURS), *(("HFLM", size) for size in BATCH_SIZES)]
        ]
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "questions": options.questions,
        "model": {**SIZES, "vocab_size": VOCABULARY},
        "runs": runs,
    }
    path = options.results / f"evals-{record['date'][:10]}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = markdown(record)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


def prepare(work: Path, count: int) -> None:
    from benchmarks.real_mmlu import real_questions, with_examples, write_checkpoint

    rows = real_questions()
    write_checkpoint(work / "model", rows, vocabulary=VOCABULARY, **SIZES)
    test, dev = with_examples(rows, count)
    for name, split in (("test", test), ("dev", dev)):
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in split), encoding="utf-8")


def run(work: Path, shots: int, who: str, batch_size: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.bench_evals",
        "contestant",
        str(work),
        str(shots),
        who,
        str(batch_size),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench-evals: {who} at batch size {batch_size} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{shots} shots, {who}, batch size {batch_size}: {found['cpu']:.1f} CPU s, accuracy {found['accuracy']}",
        flush=True,
    )
    return {"contestant": who, "batch_size": batch_size, **found}


def contestant(work: Path, shots: int, who: str, batch_size: int) -> None:
    """One process: load, evaluate, say what it took."""
    from dataclasses import replace

    import datasets
    import lm_eval.evaluator
    import torch
    from lm_eval.tasks import TaskManager

    from bai_pipeline.evals.registry.mmlu import MMLU
    from bai_pipeline.evals.splits import read_benchmark

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = our_lm(work, batch_size) if who == "bai" else hflm(work, batch_size)
    splits = read_benchmark(MMLU, work)
    questions = MMLU.questions(splits)
    tasks = MMLU.tasks(questions, splits, replace(MMLU.asking, shots=shots))
    loaded = TaskManager(include_defaults=False).load([task.config for task in tasks])
    start, clock = time.process_time(), time.perf_counter()
    results = lm_eval.evaluator.evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)
    cpu, wall = time.process_time() - start, time.perf_counter() - clock
    right = [sample["acc"] for task in tasks for sample in results["samples"][task.config["task"]]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": cpu, "wall": wall, "accuracy": sum(right) / len(right), "n": len(right), "rss_mb": peak}))


def our_lm(work: Path, batch_size: int) -> Any:
    from bai_pipeline.evals.engines.model import open_model_engine
    from bai_pipeline.evals.journal import Journal
    from bai_pipeline.evals.lm import EngineLM

    engine = open_model_engine(work / "model", batch_size=batch_size)
    return EngineLM(engine, Journal(work / f"journal-{os.getpid()}.jsonl"), chat=False, seed=0)


def hflm(work: Path, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(work / "model")
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device="cpu")


def markdown(record: dict[str, Any]) -> str:
    lines = [
        f"# {record['questions']} questions of MMLU",
        f"{record['date']}, commit {record['commit']}; {__doc__.split('.')[0].strip()}.",
        "| shots | contestant | batch size | CPU, s | wall, s | peak RSS, MB | accuracy | HFLM's best / this, CPU |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    groups: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    for found in record["runs"]:
        groups.setdefault((found["shots"], found["contestant"], found["batch_size"]), []).append(found)
    cpu = {key: median(f["cpu"] for f in found) for key, found in groups.items()}
    for (shots, who, size), found in groups.items():
        best = min(value for key, value in cpu.items() if key[0] == shots and key[1] == "HFLM")
        numbers = [median(f[name] for f in found) for name in ("cpu", "wall", "rss_mb")]
        accuracy = ", ".join(sorted({f"{f['accuracy']:.3f}" for f in found}))
        ratio = best / cpu[shots, who, size]
        cells = (
            shots,
            who,
            size,
            f"{numbers[0]:.1f}",
            f"{numbers[1]:.1f}",
            f"{numbers[2]:.0f}",
            accuracy,
            f"{ratio:.2f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n\n".join([*lines[:2], "\n".join(lines[2:])]) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["contestant"]:
        place, number, name, size = sys.argv[2:]
        contestant(Path(place), int(number), name, int(size))
    else:
        main()
