"""The entry point of `bai`: what was expected to go wrong is one message and exit code 1."""

import os
import sys

from bai_pipeline.errors import BaiPipelineError


def main() -> None:
    """Run the command that `sys.argv` names."""
    try:
        if sys.argv[1:2] == ["merge"]:
            from bai_pipeline.cli.merge import merge

            merge(sys.argv[2:])
        else:
            from bai_pipeline.cli.main import app

            app()
    except BaiPipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
