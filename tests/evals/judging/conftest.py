"""No key and no proxy of the user's own."""

import pytest

from bai_pipeline.evals.judging import JudgeSettings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("BAI_JUDGE_API_KEY", raising=False)


def judge_at(url: str, **changes: object) -> JudgeSettings:
    """Settings of a judge that is asked by two threads and gives up after three quick attempts."""
    values = {"url": url, "model": "judge", "max_tokens": 64, "timeout": 20.0, "max_retries": 2, "retry_wait": 0.01}
    return JudgeSettings.model_validate({**values, "parallel": 2, **changes})
