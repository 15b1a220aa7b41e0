"""`bai export`: a study's actor as a checkpoint on disk."""

from pathlib import Path
from typing import Annotated

import typer

from bai_pipeline.cli.progress import progress_to_stderr
from bai_pipeline.errors import StoreError
from bai_pipeline.merging import MERGE_VERSION


def export(
    alpha: Annotated[str, typer.Option("--alpha", help="Of the study's actors, the one with this weight of the base.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; must not exist yet.")],
    study: Annotated[str | None, typer.Option("--study", help="Preset or YAML file; default BAI_STUDY.")] = None,
    store: Annotated[
        str, typer.Option("--store", envvar="BAI_STORE", help="Directory, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.")
    ] = "store",
) -> None:
    """Write the actor of a study as a Hugging Face directory: the very weights that PPO merges while it loads."""
    from bai_pipeline.checkpoints import MANIFEST_FILE
    from bai_pipeline.merging.destination import merge_to
    from bai_pipeline.merging.recipe_directory import read_recipe
    from bai_pipeline.plan import Plan
    from bai_pipeline.store import RefKey, open_store
    from bai_pipeline.study import alpha_key, load_study

    plan = Plan(load_study(study), open_store(store))
    try:
        key = RefKey(plan.study.name, "bai_actor", alpha_key(alpha))
    except ValueError as error:
        raise StoreError(f"{error}; nothing was written") from None
    spec = plan.spec(key)
    if not plan.satisfied(key, spec):
        raise StoreError(f"{key} of study {key.study!r} is not what the study asks for now; materialize it first")
    models = {name: plan.store.open_tensors(uri, MANIFEST_FILE) for name, uri in spec.execution.inputs.items()}
    settings = spec.settings
    with progress_to_stderr() as report:
        merge_to(
            read_recipe(plan.store.open(plan.resolve(key).object)),
            models,
            out,
            settings["tokenizer_from"],
            MERGE_VERSION,
            report,
            missing_rows_from=settings["missing_rows_from"],
            chat_template=settings["chat_template"],
        )
    typer.echo(out)
