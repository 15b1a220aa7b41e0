"""The merge engine: one pass over the inputs, in chunks, in float32, rounded once.

Arithmetic is float32 multiplication and addition, both correctly rounded, in the order of the recipe; the result is
rounded to nearest, ties to even. So the same inputs give the same bytes on any machine, for any number of threads, size
of chunks and layout of shards. Memory is threads × chunk × (inputs + outputs), whatever the size of the checkpoints.
"""

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

from bai_pipeline.checkpoints import (
    ITEM_SIZES,
    Manifest,
    ShardFiles,
    TensorInfo,
    TensorRecord,
    check_space,
    emptied_on_failure,
    hash_tensor,
    read_manifest,
    write_manifest,
)
from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.agenda import Agenda
from bai_pipeline.merging.arithmetic import Backend, ready_for_threads
from bai_pipeline.merging.buffers import CHUNK_ELEMENTS, new_buffer
from bai_pipeline.merging.companions import write_companions
from bai_pipeline.merging.elements import merge_elements
from bai_pipeline.merging.inputs import Inputs, threads_for
from bai_pipeline.merging.layout import shard_layout
from bai_pipeline.merging.outputs import FileOutputs
from bai_pipeline.merging.parents import Parent, open_parents
from bai_pipeline.merging.plan import MergePlan, plan_merge
from bai_pipeline.merging.recipe import Recipe
from bai_pipeline.merging.record import check_recorded_recipe
from bai_pipeline.progress import Reporter

_REPORT_EVERY = 16 * 1024 * 1024
"""Bytes of output between two progress reports."""


class MergeOptions(TypedDict, total=False):
    """How a merge is written; only the first two change what."""

    chat_template: str | None
    """A Jinja template in place of the tokenizer's own."""
    max_shard_bytes: int | None
    """Of the tensors of one file; None keeps the first model's shards."""
    digests: Mapping[str, str] | None
    """Content digests that models must turn out to have: those that the merge was ordered with."""
    cache: Path | None
    """Remembers the digests of the inputs (see `checkpoint_digest`)."""
    backend: Backend
    """Default `auto`."""
    threads: int | None
    """None: see `threads_for`."""
    chunk_elements: int
    """Elements that a thread holds of each model at a time."""


def merge(
    recipe: Recipe,
    models: Mapping[str, Path],
    out: Path,
    tokenizer_from: str,
    code_version: str,
    report: Reporter,
    *,
    missing_rows_from: str | None = None,
    **options: Unpack[MergeOptions],
) -> Manifest:
    """Merge checkpoints into the empty directory `out`, which is empty again when anything fails.

    The shards, names and config are those of the recipe's first model (of dtype `recipe.dtype`, when it has one);
    tokenizer, chat template and generation config are copied from `tokenizer_from`; recipe.json and the manifest are
    written last.

    Args:
        models: the directory of every model of the recipe and of `tokenizer_from`.
        missing_rows_from: see `plan_merge`.

    Returns:
        the manifest; its parents are the digests of the bytes that were read.

    Raises:
        RecipeError, FitError, CheckpointError: see `plan_merge`.
        CheckpointError: an input is damaged, changed, or holds NaN or infinity, or the output cannot be written.
    """
    with emptied_on_failure(out):
        plan = plan_merge([recipe], models, tokenizer_from, missing_rows_from)
        (manifest,) = merge_planned(plan, [out], code_version, report, **options)
    return manifest


def merge_planned(
    plan: MergePlan, outs: Sequence[Path], code_version: str, report: Reporter, **options: Unpack[MergeOptions]
) -> list[Manifest]:
    """`merge` for all recipes of a plan in one pass over the inputs: one empty directory and one manifest for each.

    Raises:
        CheckpointError: as `merge`; all directories are empty then.
    """
    with ExitStack() as stack:
        for out in outs:
            stack.enter_context(emptied_on_failure(out))
        for note in plan.fit.notes:
            report.log(note)
        layout = shard_layout(plan, options.get("max_shard_bytes"))
        check_space(outs, plan.nbytes)
        parents = open_parents(plan.checkpoints, plan.models)
        writers = [ShardFiles(out, layout) for out in outs]
        backend, chunk = options.get("backend", "auto"), options.get("chunk_elements", CHUNK_ELEMENTS)
        run = _Run(plan, layout, parents, writers, backend, chunk, report)
        run.work(options.get("threads") or threads_for(plan))
        expected, cache = options.get("digests") or {}, options.get("cache")
        found = {name: parent.digest(expected.get(name), cache) for name, parent in parents.items()}
        return [
            _finish(plan, recipe, out, layout, records, found, code_version, options.get("chat_template"))
            for recipe, out, records in zip(plan.recipes, outs, run.records, strict=True)
        ]


def _finish(
    plan: MergePlan,
    recipe: Recipe,
    out: Path,
    layout: Mapping[str, Sequence[TensorInfo]],
    records: Mapping[str, TensorRecord],
    parents: Mapping[str, str],
    code_version: str,
    chat_template: str | None,
) -> Manifest:
    """Write the companions and, last, the manifest; assert that it says what was asked for."""
    companions = write_companions(plan, recipe, layout, out, chat_template)
    manifest = Manifest(
        code_version=code_version,
        parents=dict(parents),
        recipe=recipe.to_dict(),
        recipe_sha256=companions.recipe_sha256,
        missing_rows=plan.missing_rows,
        missing_rows_from=plan.fit.donor,
        files=companions.files,
        tensors={tensor.name: records[tensor.name] for members in layout.values() for tensor in members},
    )
    write_manifest(out, manifest)
    check_recorded_recipe(read_manifest(out), recipe)
    return manifest


class _Run:
    """The threads of one merge and what they share."""

    def __init__(
        self,
        plan: MergePlan,
        layout: Mapping[str, Sequence[TensorInfo]],
        parents: Mapping[str, Parent],
        writers: Sequence[ShardFiles],
        backend: Backend,
        chunk_elements: int,
        report: Reporter,
    ) -> None:
        if chunk_elements < 1:
            raise RecipeError(f"chunk_elements must be at least 1, got {chunk_elements}; no checkpoint was written")
        self.records: list[dict[str, TensorRecord]] = [{} for _ in writers]
        """Of each output."""
        self._plan, self._parents, self._writers = plan, parents, writers
        self._backend, self._chunk, self._report = backend, chunk_elements, report
        self._total = plan.nbytes * len(writers)
        self._done = self._reported = 0
        self._lock = threading.Lock()
        self._waiting = Agenda(layout)
        self._unmerged = deque((model, name) for model, names in plan.fit.left_out.items() for name in names)

    def work(self, threads: int) -> None:
        """Merge everything; the first failure stops all threads."""
        programs = [self._plan.program(name) for name in self._plan.tensors]
        ready = ready_for_threads(self._backend, programs)
        with ready, ThreadPoolExecutor(max_workers=threads) as pool, self._stopped_on_failure():
            for future in [pool.submit(self._worker) for _ in range(threads)]:
                future.result()

    @contextmanager
    def _stopped_on_failure(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._waiting.clear()
            self._unmerged.clear()

    def _worker(self) -> None:
        inputs = [new_buffer(self._chunk) for _ in self._plan.models]
        outputs = [new_buffer(self._chunk) for _ in self._writers]
        with self._stopped_on_failure():
            file = None
            while (taken := self._waiting.take(file)) is not None:
                file, name = taken
                self._merge(name, inputs, outputs)
            while self._unmerged:
                try:
                    model, name = self._unmerged.popleft()
                except IndexError:  # another thread took the last one
                    break
                self._hash(model, name)

    def _merge(self, name: str, buffers: Sequence[memoryview], memory: Sequence[memoryview]) -> None:
        tensor = self._plan.tensors[name]
        with ExitStack() as files:
            written = [files.enter_context(writer.open(name)) for writer in self._writers]
            outputs = FileOutputs(written, tensor.info.dtype, memory)
            inputs = files.enter_context(Inputs.open(self._plan, name, buffers, self._plan.models))
            item = ITEM_SIZES[tensor.info.dtype] * len(written)
            merge_elements(
                self._plan, tensor, inputs, outputs, self._backend, self._chunk, lambda count: self._count(count * item)
            )
            for info, model, digest in zip(inputs.tensors, inputs.models, inputs.hashes, strict=True):
                if digest is not None:
                    self._parents[model].record(info, TensorRecord.of(info, digest.hexdigest()))
        for records, digest in zip(self.records, outputs.hashes, strict=True):
            records[name] = TensorRecord.of(tensor.info, digest.hexdigest())

    def _hash(self, model: str, name: str) -> None:
        """A tensor that goes into no output is read all the same: it is part of what the model is."""
        tensor = self._plan.checkpoints[model].tensors[name]
        self._parents[model].record(tensor, hash_tensor(tensor))

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            if self._done - self._reported >= _REPORT_EVERY or self._done == self._total:
                self._reported = self._done
                self._report.progress(self._done, self._total)
