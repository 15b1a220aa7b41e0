"""Jobs that make or import tables."""

import json
import shutil
from pathlib import Path

from bai_pipeline.jobs.context import JobContext, Outcome, computing_with_models
from bai_pipeline.settings import PreferenceSettings, WorldSettings


def pretraining_data(job: JobContext) -> Outcome:
    from bai_pipeline.synthetic.world_tables import write_pretraining_data

    return Outcome(write_pretraining_data(job.out, _world(job), _seed(job)))


def sft_data(job: JobContext) -> Outcome:
    """One directory a role, each with one table, so that a role's table is an input of its own."""
    from bai_pipeline.synthetic.world_tables import write_sft_data
    from bai_pipeline.tables import import_table

    metadata: dict[str, float | int | str] = {}
    for role, source in job.spec.settings["sources"].items():
        out = job.out / role
        out.mkdir()
        if "style" in source:
            metadata |= write_sft_data(out, _world(job), {role: source["style"]}, _seed(job))
        else:
            metadata[f"{role}_rows"] = import_table("sft", Path(source["path"]), out / f"{role}.parquet")
    return Outcome(metadata)


def prompts(job: JobContext) -> Outcome:
    from bai_pipeline.synthetic.world_tables import write_prompts
    from bai_pipeline.tables import import_table

    if brought := job.spec.settings.get("brought"):
        return Outcome({"rows": import_table("prompts", Path(brought["path"]), job.out / "prompts.parquet")})
    return Outcome(write_prompts(job.out, _world(job), _seed(job)))


def benchmark_data(job: JobContext) -> Outcome:
    """A directory a benchmark, its rows checked; one whose data is nowhere is left out, and later a hole."""
    from bai_pipeline.evals.data import SOURCE_FILE
    from bai_pipeline.evals.registry import find_benchmark
    from bai_pipeline.evals.splits import read_benchmark, write_benchmark
    from bai_pipeline.synthetic.world_tables import write_benchmark_data

    sources = job.spec.settings["benchmarks"]
    if made := [name for name, source in sources.items() if source is None]:
        write_benchmark_data(job.work, _world(job), made, _seed(job))
    metadata: dict[str, float | int | str] = {}
    for name, source in sources.items():
        if source is not None and "absent" in source:
            job.reporter.log(f"benchmark {name}: no data in {source['absent']}; bai data fetch {name}")
            continue
        benchmark = find_benchmark(name)
        (job.out / name).mkdir()
        directory = job.work / name if source is None else _directory(job, name, source["path"])
        questions = write_benchmark(benchmark, read_benchmark(benchmark, directory), job.out / name)
        metadata[f"{name}_questions"] = len(questions)
        if (record := directory / SOURCE_FILE).is_file():
            shutil.copyfile(record, job.out / name / SOURCE_FILE)
    there = [name for name in sources if (job.out / name).is_dir()]
    absent = [name for name in sources if name not in there]
    listing = json.dumps({"there": there, "absent": absent}, indent=1)
    (job.out / "benchmarks.json").write_text(listing + "\n", encoding="utf-8")
    return Outcome(metadata | {"absent": ", ".join(absent) or "none"})


def _directory(job: JobContext, name: str, path: str) -> Path:
    """What a study brings: a directory of splits, or a file that is the questions."""
    brought = Path(path)
    if brought.is_dir():
        return brought
    directory = job.work / name
    directory.mkdir(exist_ok=True)
    link = directory / f"test{brought.suffix}"
    link.unlink(missing_ok=True)
    link.symlink_to(brought)
    return directory


@computing_with_models
def preferences(job: JobContext) -> Outcome:
    from bai_pipeline.tables import import_table

    destination = job.out / "preferences.parquet"
    if brought := job.spec.settings.get("brought"):
        return Outcome({"rows": import_table("preferences", Path(brought["path"]), destination)})
    from bai_pipeline.synthetic.preferences import write_preferences
    from bai_pipeline.synthetic.world_tables import write_prompts

    settings = PreferenceSettings.model_validate(job.spec.settings["preferences"])
    write_prompts(job.work, _world(job), _seed(job), purpose="preferences", count=settings.prompts)
    prompts = job.work / "prompts.parquet"
    return Outcome(write_preferences(job.out, job.inputs, prompts, settings, _seed(job), job.reporter))


def _world(job: JobContext) -> WorldSettings:
    return WorldSettings.model_validate(job.spec.settings["world"])


def _seed(job: JobContext) -> int:
    return 0 if job.spec.seed is None else job.spec.seed
