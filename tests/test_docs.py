"""The documentation is true: its study and compute files load, its commands exist, its links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from bai_pipeline.cli.main import app
from bai_pipeline.study import Study, load_study
from resources.compute_file import load_compute

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(language: str) -> list[tuple[str, str]]:
    """Fenced blocks of a language, each with the page and the number that name it."""
    return [
        (f"{page.relative_to(ROOT)}#{number}", block)
        for page in PAGES
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL))
    ]


YAML = blocks("yaml")
STUDIES = [block for block in YAML if "extends" in yaml.safe_load(block[1])]
COMPUTE_FILES = [block for block in YAML if "kind" in yaml.safe_load(block[1])]


def test_every_yaml_block_is_a_study_or_a_compute_file() -> None:
    assert STUDIES
    assert COMPUTE_FILES
    assert len(STUDIES) + len(COMPUTE_FILES) == len(YAML)


@pytest.mark.parametrize("text", [text for _, text in STUDIES], ids=[name for name, _ in STUDIES])
def test_a_study_file_in_the_documentation_loads(text: str, tmp_path: Path) -> None:
    for path in paths_in(yaml.safe_load(text)):
        (tmp_path / path).mkdir(parents=True)
    file = tmp_path / "study.yaml"
    file.write_text(text)
    assert load_study(file).name == yaml.safe_load(text)["name"]


@pytest.mark.parametrize("text", [text for _, text in COMPUTE_FILES], ids=[name for name, _ in COMPUTE_FILES])
def test_a_compute_file_in_the_documentation_loads(text: str, tmp_path: Path) -> None:
    file = tmp_path / "compute.yaml"
    file.write_text(text)
    assert load_compute(file).kind == yaml.safe_load(text)["kind"]


def test_the_guide_describes_every_key_of_a_study() -> None:
    guide = (ROOT / "docs" / "guide" / "study-file.md").read_text()
    described = {
        key for row in re.findall(r"^\| (`.*?) \|", guide, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)
    }
    assert set(Study.model_fields) <= described


def test_every_bai_command_in_the_documentation_exists() -> None:
    shown = [
        match
        for page in PAGES
        for match in re.findall(r"(?:^|[/ ])bai ([a-z]+(?: [a-z]+)*)", code_in(page), re.MULTILINE)
    ]
    assert shown
    for words in shown:
        command: object = typer.main.get_command(app)
        for word in words.split():
            children = getattr(command, "commands", {})
            assert word in children or not children, f"bai {words}"
            command = children.get(word, command)


def test_every_link_within_the_documentation_leads_to_a_file() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_design_note_is_in_the_index() -> None:
    index = (ROOT / "docs" / "design" / "000-index.md").read_text()
    notes = {note.name for note in (ROOT / "docs" / "design").glob("[0-9]*.md")} - {"000-index.md"}
    assert {note for note in notes if f"]({note})" not in index} == set()


def paths_in(study: dict[str, Any]) -> Iterator[str]:
    """The relative paths that a study file names."""
    sources = [study.get("base"), study.get("reward"), study.get("critic_init"), *(study.get("sft") or {}).values()]
    yield from (source["path"] for source in sources if isinstance(source, dict) and "path" in source)
    yield from (study.get("data") or {}).values()


def code_in(page: Path) -> str:
    """Everything that a page shows as code: fenced shell blocks without their comments, and inline code."""
    text = page.read_text()
    shell = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL))
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([re.sub(r"\s#.*", "", shell), *inline])
