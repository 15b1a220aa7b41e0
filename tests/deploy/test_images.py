"""The images: pinned bases, nobody special, no compiler in what is shipped, only versions that were tested."""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.deploy.manifests import DEPLOY, ROOT

FILES = sorted((DEPLOY / "images").glob("*.Dockerfile"))
COMPILERS = r"(?<!\w)(g\+\+|gcc|build-essential|clang|cmake|make|python3-dev)(?!\w)"
DIGEST = r"@sha256:[0-9a-f]{64}"


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, its continued lines joined."""

    name: str
    arguments: str


def stages(path: Path) -> list[list[Instruction]]:
    """The instructions of each stage, FROM first; what comes before the first is in none."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    found: list[list[Instruction]] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            if name == "FROM":
                found.append([])
            found[-1].append(Instruction(name, re.sub(r"\s+", " ", arguments).strip()))
    return found


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).parent / "hadolint"
    return subprocess.run([hadolint, "--no-color", str(path)], capture_output=True, text=True, check=False)


def test_there_is_an_image_for_dagster_and_one_for_jobs() -> None:
    assert [path.name for path in FILES] == ["code-location.Dockerfile", "job.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dockerfile_passes_hadolint(path: Path) -> None:
    done = lint(path)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(FILES[0].read_text().replace("FROM python:3.11-slim-bookworm", "FRM python", 1))
    assert lint(wrong).returncode != 0
    wrong.write_text("FROM python\nRUN cd /tmp && pip install torch\n")
    assert {"DL3006", "DL3042"} <= set(re.findall(r"DL\d+", lint(wrong).stdout))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_base_is_pinned_by_tag_and_digest_and_the_same_in_both_stages(path: Path) -> None:
    bases = [stage[0].arguments.split(" ")[0] for stage in stages(path)]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(rf"python:3\.11-slim-bookworm{DIGEST}", bases[0])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_shipped_has_no_compiler_and_runs_as_an_ordinary_user(path: Path) -> None:
    build, shipped = stages(path)
    assert any(re.search(COMPILERS, i.arguments) for i in build if i.name == "RUN")
    assert not [i for i in shipped if i.name == "RUN" and re.search(rf"{COMPILERS}|pip install", i.arguments)]
    assert [i.arguments for i in shipped if i.name == "USER"] == ["10001:10001"]
    last_user = max(n for n, i in enumerate(shipped) if i.name == "USER")
    assert not [i for i in shipped[last_user:] if i.name in ("RUN", "COPY", "ADD")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_is_installed_under_the_constraints(path: Path) -> None:
    installs = [i.arguments for stage in stages(path) for i in stage if "pip install" in i.arguments]
    assert installs
    assert all("--constraint constraints.txt" in command for command in installs)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_copied_exists_and_is_sent_to_the_builder(path: Path) -> None:
    sent = {line[1:] for line in path.with_name(f"{path.name}.dockerignore").read_text().split() if line[0] == "!"}
    copied = [i.arguments for stage in stages(path) for i in stage if i.name == "COPY" and "--from" not in i.arguments]
    sources = {source for arguments in copied for source in arguments.split(" ")[:-1]}
    assert sources <= sent
    assert all((ROOT / source).exists() for source in sent)


def test_the_extras_that_are_installed_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r'"\.\[(\w+)\]"', "".join(path.read_text() for path in FILES)):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_every_image_that_a_manifest_names_has_a_version() -> None:
    text = "".join(path.read_text() for path in DEPLOY.rglob("*.yaml"))
    images = re.findall(r"image: (\S+:\S+|\S+/\S+)$", text, re.MULTILINE)
    assert images
    assert all(re.search(r":\d+\.\d+\.\d+$", image) for image in images), images
    values = yaml.safe_load((DEPLOY / "helm" / "values.yaml").read_text())
    chart = [values["dagsterWebserver"]["image"], values["dagsterDaemon"]["image"]]
    chart += [one["image"] for one in values["dagster-user-deployments"]["deployments"]]
    assert {(image["repository"], image["tag"]) for image in chart} == {("registry.example/bai-code", "0.1.0")}
    assert re.fullmatch(rf"\d+\.\d+\.\d+{DIGEST}", values["busybox"]["image"]["tag"])
