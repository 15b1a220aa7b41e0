"""An evaluation from a checkpoint to its scores: what jobs and the command line run."""

from collections.abc import Mapping
from pathlib import Path

from bai_pipeline.eval_settings import EvalSettings
from bai_pipeline.evals.engines.interface import Engine
from bai_pipeline.evals.evaluation import Metrics, evaluate
from bai_pipeline.evals.registry import find_benchmark
from bai_pipeline.evals.registry.benchmark import Tools
from bai_pipeline.progress import Reporter


def evaluate_checkpoint(
    model: Path,
    digest: str,
    data: Mapping[str, Path],
    out: Path,
    settings: EvalSettings,
    seed: int,
    report: Reporter,
    *,
    cache: Path,
    server: str | None = None,
) -> Metrics:
    """Score a checkpoint or a recipe; see `evaluate`.

    Args:
        model: its directory; its name there if a server has it.
        digest: of the model's content: names what it answered before.
        data: the directory of each benchmark's rows.
        cache: directory of answers and verdicts that are not asked for again. It may be removed at any time.
        server: base address of an OpenAI-compatible server that answers in the place of a directory.

    Raises:
        EvaluationError: untrusted programs are to be run, and their isolation does not work here; nothing is asked.
        CheckpointError: there is no whole checkpoint at `model`.
        DataError: as `evaluate`.
    """
    needs = {need for name in settings.benchmarks if name in data for need in find_benchmark(name).needs}
    isolation = None
    if "code" in needs:
        from bai_pipeline.evals.code import find_isolation

        isolation = find_isolation(settings.code_isolation)
    tools = Tools(judge=settings.judge, judge_cache=cache / "verdicts", isolation=isolation)

    engine: Engine
    if server is not None:
        from bai_pipeline.evals.engines.server import ServerEngine

        engine = ServerEngine(server, str(model), parallel=settings.batch_size)
    else:
        # torch takes seconds to import: not before what can be refused is refused.
        from bai_pipeline.evals.engines.model import open_model_engine

        engine = open_model_engine(model, vllm=settings.engine == "vllm", batch_size=settings.batch_size)
    try:
        journal = cache / "responses" / f"{digest}.jsonl"
        return evaluate(engine, data, out, settings, seed, report, journal=journal, tools=tools, title=model.name)
    finally:
        engine.close()
