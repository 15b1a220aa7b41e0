"""What is installed, from where, and by which command."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")], key=lambda p: p.as_posix()
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from this tree, offline."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_library_and_nothing_else(wheel: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"bai_pipeline"}


def test_the_wheel_holds_every_module_and_preset(wheel: set[str]) -> None:
    sources = (ROOT / "bai_pipeline").rglob("*")
    wanted = {p.relative_to(ROOT).as_posix() for p in sources if p.suffix in {".py", ".yaml"}}
    assert any(name.startswith("bai_pipeline/presets/") for name in wanted)
    assert wanted <= wheel
    assert {"bai_pipeline/merging/_kernel.so", "bai_pipeline/native/_native.so"} <= wheel


def test_the_constraints_pin_every_direct_dependency_exactly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    direct = {normalized(re.split(r"[<>=\[]", requirement)[0]) for requirement in requirements}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    assert direct <= {normalized(line.partition("==")[0]) for line in lines}


def test_every_make_command_in_the_documentation_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        code = re.findall(r"```(?:bash|sh|console)\n(.*?)```|`([^`\n]+)`", page.read_text(), flags=re.DOTALL)
        commands = "\n".join(block or inline for block, inline in code)
        named = set(re.findall(r"^(?:\$ )?make ([a-z-]+)", commands, flags=re.MULTILINE))
        assert named <= targets, page.name
    assert {"setup", "demo", "test", "soak", "lint", "types", "bench", "bench-merge", "clean"} <= targets


def test_dagster_accepts_the_instance_settings(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(text)
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_retries_enabled
        assert instance.get_settings("concurrency") == yaml.safe_load(text)["concurrency"]


def test_the_workspace_and_dg_load_the_same_module() -> None:
    (location,) = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    project = tomllib.loads((ROOT / "dg.toml").read_text())["project"]
    assert location["python_module"]["module_name"] == project["code_location_target_module"]
    assert location["python_module"]["location_name"] == project["code_location_name"]


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
