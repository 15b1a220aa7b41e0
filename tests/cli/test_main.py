"""The `bai` command: what it prints and how it fails."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bai_pipeline.cli import entry
from bai_pipeline.cli import main as cli
from bai_pipeline.errors import StoreError
from bai_pipeline.store import Ref, RefKey, Store

RUNNER = CliRunner()


def test_study_check_accepts_a_preset() -> None:
    result = RUNNER.invoke(cli.app, ["study", "check", "--study", "micro"])
    assert result.exit_code == 0
    assert result.output.startswith("micro: valid; 2 SFT models")


def test_an_expected_error_is_one_message_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bai", "study", "check", "--study", "nowhere"])
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("StudyError: the study 'nowhere' is neither a preset")


def test_status_says_what_is_absent(tmp_path: Path) -> None:
    result = RUNNER.invoke(cli.app, ["status", "--study", "micro", "--store", str(tmp_path), "--json"])
    assert result.exit_code == 0
    assert '"bai_actor[0.5]"' in result.output
    assert "fresh" not in result.output


def test_status_shows_the_rows_of_a_table_by_name(tmp_path: Path) -> None:
    result = RUNNER.invoke(cli.app, ["status", "--study", "micro", "--store", str(tmp_path)])
    assert "paradigm_scores[base_model]" in result.output


def test_verify_refuses_what_is_no_store(tmp_path: Path) -> None:
    result = RUNNER.invoke(cli.app, ["verify", "--store", str(tmp_path / "typo")])
    assert isinstance(result.exception, StoreError)


def test_verify_fails_on_a_damaged_object_and_names_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.staging() as out:
        (out / "table").write_text("1")
        uri = store.publish("table", out)
    assert RUNNER.invoke(cli.app, ["verify", "--store", str(tmp_path)]).exit_code == 0
    (store.path(uri) / "table").write_text("2")
    result = RUNNER.invoke(cli.app, ["verify", "--store", str(tmp_path)])
    assert result.exit_code == 1
    assert "1 objects, 1 damaged" in result.output


def test_gc_lists_before_it_removes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.staging() as out:
        (out / "table").write_text("1")
        uri = store.publish("table", out)
    listed = RUNNER.invoke(cli.app, ["store", "gc", "--store", str(tmp_path), "--older-than", "0", "--dry-run"])
    assert "1 objects would be removed" in listed.output
    assert store.path(uri).exists()
    store.write_ref(RefKey("s", "t"), Ref(uri, "d", "j", {}))
    assert "0 objects removed" in RUNNER.invoke(cli.app, ["store", "gc", "--store", str(tmp_path)]).output
