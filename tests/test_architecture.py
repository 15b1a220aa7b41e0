"""The arrows between the rooms (docs/design/000-index.md), read from the imports in the source.

assets → resources → bai_pipeline;  inside: entry points → rooms → foundation
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

FOUNDATION = frozenset(
    {
        *(
            "deepspeed_file",
            "dynamics_settings",
            "errors",
            "eval_settings",
            "jobspec",
            "mathematics",
            "paper",
            "progress",
            "quiet",
        ),
        *("settings", "study", "tables", "yaml_lines"),
    }
)
"""Modules at the top of bai_pipeline that every room may import, and that import no room."""

ENTRY_POINTS = frozenset({"cli", "jobs"})

ALLOWED: dict[str, set[str]] = {
    "checkpoints": {"store"},
    "cli": {"*"},
    "dynamics": set(),
    "evals": {"checkpoints", "loading", "ppo.randomness", "ppo.rollouts", "ppo.sampler", "store", "synthetic"},
    "jobs": {"*"},
    "loading": {"checkpoints", "merging"},
    "merging": {"checkpoints", "store"},
    "native": set(),
    "plan": {"checkpoints", "merging", "store"},
    "ppo": {"checkpoints", "dynamics", "loading", "merging", "native", "reward", "store", "synthetic"},
    "report": {"dynamics", "evals.comparisons", "evals.seeds", "evals.tables", "evals.writing"},
    "reward": {"checkpoints", "loading", "sft", "store", "synthetic.tasks", "synthetic.world_tables"},
    "sft": {"checkpoints", "loading", "store", "synthetic.olmoe", "synthetic.tokenizer"},
    "sizing": {"checkpoints"},
    "store": set(),
    "synthetic": {"checkpoints", "store"},
    "synthetic.preferences": {"loading", "ppo.sampler", "sft.examples"},
}
"""What a room (or one module of it) may import beside itself and the foundation: rooms, or single modules."""

TABLES_ONLY = (
    "bai_pipeline.dynamics",
    "bai_pipeline.report",
    "bai_pipeline.evals.tables",
    "bai_pipeline.evals.writing",
)
HEAVY = frozenset({"accelerate", "datasets", "deepspeed", "great_expectations", "lm_eval", "torch", "transformers"})


class Import(NamedTuple):
    """`module` is imported by `importer`; `at_import` is False inside functions and under TYPE_CHECKING."""

    importer: str
    module: str
    at_import: bool


def test_the_graph_imports_resources_and_resources_import_the_library_only() -> None:
    allowed = {
        "bai_pipeline": {"bai_pipeline"},
        "resources": {"resources", "bai_pipeline"},
        "assets": {"assets", "resources", "bai_pipeline"},
    }
    own = {"assets", "bai_pipeline", "benchmarks", "resources", "tests"}
    wrong = [i for i in imports() if top(i.module) in own and top(i.module) not in allowed[top(i.importer)]]
    assert listed(wrong) == []


def test_the_library_never_imports_dagster_and_only_jobs_import_its_pipes_client() -> None:
    wrong = [
        i
        for i in library_imports()
        if top(i.module).startswith("dagster")
        and not (top(i.module) == "dagster_pipes" and i.importer.startswith("bai_pipeline.jobs"))
    ]
    assert listed(wrong) == []


def test_a_room_imports_only_what_the_table_allows() -> None:
    wrong = [i for i in library_imports() if i.module.startswith("bai_pipeline.") and not is_allowed(i)]
    assert listed(wrong) == []


def test_the_table_names_exactly_the_rooms_that_exist() -> None:
    there = {m.split(".")[1] for m in modules() if m.startswith("bai_pipeline.")}
    assert there == FOUNDATION | {room for room in ALLOWED if "." not in room}


def test_only_the_command_line_imports_the_jobs_and_nothing_imports_the_command_line() -> None:
    wrong = [
        i
        for i in library_imports()
        if (target := room(i.module)) in ENTRY_POINTS and room(i.importer) not in {target, "cli"}
    ]
    assert listed(wrong) == []


def test_modules_import_each_other_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for i in imports():
        if i.at_import and i.module in modules():
            graph.setdefault(i.importer, set()).add(i.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_reports_and_tables_are_made_from_tables_without_a_model_library() -> None:
    wrong = [i for i in library_imports() if i.importer.startswith(TABLES_ONLY) and top(i.module) in HEAVY]
    assert listed(wrong) == []


def test_loading_the_graph_loads_no_heavy_library() -> None:
    """Each run starts a process that loads the definitions: seconds of import would be paid on every partition."""
    start = {m for m in modules() if top(m) in {"assets", "resources"}}
    chains = {m: chain for m, chain in loaded_with(start).items() if top(m) in HEAVY}
    assert sorted(chains.values()) == []


def test_asset_and_resource_modules_keep_their_annotations_at_run_time() -> None:
    """Dagster reads the annotations of asset functions; `from __future__ import annotations` turns them into text."""
    assert not [i for i in imports() if i.module == "__future__" and top(i.importer) in {"assets", "resources"}]


@pytest.mark.parametrize("module", ["bai_pipeline", "bai_pipeline.study", "bai_pipeline.jobspec"])
def test_importing_the_library_loads_neither_dagster_nor_torch(module: str) -> None:
    code = f"import {module}, sys; print(*{{'dagster', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_no_module_is_named_for_having_no_subject() -> None:
    vague = {"common", "helper", "helpers", "misc", "util", "utils"}
    assert not [m for m in modules() if m.split(".")[-1].strip("_") in vague]


def test_every_third_party_import_is_a_declared_dependency() -> None:
    """A pod installs the wheel without extras: what the library imports must not come along by chance."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {distribution(r) for r in project["dependencies"]}
    extras = {name: {distribution(r) for r in rs} for name, rs in project["optional-dependencies"].items()}
    providers = packages_distributions()
    undeclared = []
    for i in imports():
        name = top(i.module)
        if name in sys.stdlib_module_names or name in {"assets", "bai_pipeline", "resources"}:
            continue
        declared = core | (extras["evals"] if room(i.importer) == "evals" else set())
        if top(i.importer) != "bai_pipeline":
            declared |= extras["dagster"]
        if not declared & {normalized(d) for d in providers.get(name, [])}:
            undeclared.append(i)
    assert listed(undeclared) == []


# -- reading the source ------------------------------------------------------------------------------------------------


@cache
def modules() -> dict[str, Path]:
    """Every module of the product, by its dotted name."""
    found = {}
    for package in ("assets", "bai_pipeline", "resources"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> list[Import]:
    return [i for name, path in modules().items() for i in read_imports(name, path)]


def library_imports() -> list[Import]:
    return [i for i in imports() if top(i.importer) == "bai_pipeline"]


def read_imports(name: str, path: Path) -> Iterator[Import]:
    def visit(node: ast.AST, at_import: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(name, alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield Import(name, submodule if submodule in modules() else base, at_import)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            )
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_import and not later)

    return visit(ast.parse(path.read_text(encoding="utf-8")), True)


def loaded_with(start: set[str]) -> dict[str, str]:
    """Modules that importing `start` loads, each with the chain of imports that leads to it."""
    direct: dict[str, set[str]] = {}
    for i in imports():
        if i.at_import:
            direct.setdefault(i.importer, set()).add(i.module)
    chains = {m: m for m in start}
    waiting = sorted(start)
    while waiting:
        importer = waiting.pop()
        packages = {importer.rsplit(".", n)[0] for n in range(1, importer.count(".") + 1)}
        for module in sorted(direct.get(importer, set()) | (packages & modules().keys())):
            if module not in chains:
                chains[module] = f"{chains[importer]} → {module}"
                waiting.append(module)
    return chains


def is_allowed(i: Import) -> bool:
    importer, module = (m.removeprefix("bai_pipeline.") for m in (i.importer, i.module))
    if room(i.module) in FOUNDATION or room(i.importer) == room(i.module):
        return True
    granted = {g for r, gs in ALLOWED.items() if within(importer, r) for g in gs}
    return any(g == "*" or within(module, g) for g in granted)


def listed(found: list[Import]) -> list[str]:
    return sorted({f"{i.importer} → {i.module}" for i in found})


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


def top(module: str) -> str:
    return module.partition(".")[0]


def room(module: str) -> str:
    """The room of a module of bai_pipeline ("" for others and for the package itself)."""
    parts = module.split(".")
    return parts[1] if parts[0] == "bai_pipeline" and len(parts) > 1 else ""


def distribution(requirement: str) -> str:
    end = next((n for n, c in enumerate(requirement) if c in " <>=!~[;"), len(requirement))
    return normalized(requirement[:end])


def normalized(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
