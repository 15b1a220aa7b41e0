"""DeepSpeed's JSON as users bring it: see deploy/deepspeed/."""

import json
from pathlib import Path
from typing import Any

from bai_pipeline.errors import StudyError


def read_deepspeed(path: Path) -> dict[str, Any]:
    """What a file says.

    Raises:
        StudyError: it cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"cannot read the DeepSpeed JSON {path}: {error}") from error
    if not isinstance(content, dict):
        raise StudyError(f"expected a JSON object in {path}, got {type(content).__name__}")
    return content
