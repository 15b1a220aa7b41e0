"""Builds the native kernels into the package, where there is a C++ compiler; without one the merge runs in numpy and
models in torch alone.

They are called through ctypes, so that one build serves every Python version.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-Wall", "-Wextra")
KERNELS = {
    # No flag may change the result of a float operation: -ffp-contract=off forbids fused multiply-adds.
    "bai_pipeline/merging/kernel.cpp": ("bai_pipeline/merging/_kernel.so", ("-ffp-contract=off",)),
    # Sums may be taken in any order; NaN and infinity are what they are.
    "bai_pipeline/native/native.cpp": (
        "bai_pipeline/native/_native.so",
        ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"),
    ),
}
"""Source → library, and the flags that it has beside the common ones."""


class KernelBuildHook(BuildHookInterface[Any]):
    """Compiles the kernels to libraries beside their sources, for wheels and editable installs alike."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root, built = Path(self.root), []
        for source, (library, flags) in KERNELS.items():
            if build_kernel(root / source, root / library, flags):
                built.append(f"/{library}")
            else:
                self.app.display_warning(f"no C++ compiler that works: {library} was not built, its slower twin runs")
        build_data["artifacts"].extend(built)
        if built and version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sys.platform}_{platform.machine()}"


def build_kernel(source: Path, target: Path, flags: Sequence[str] = ()) -> bool:
    """Compile, unless the target is newer than its source; it is replaced at once. False: there is none now."""
    changed = max(source.stat().st_mtime_ns, Path(__file__).stat().st_mtime_ns)
    if target.exists() and target.stat().st_mtime_ns >= changed:
        return True
    target.unlink(missing_ok=True)
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return False
    partial = target.with_suffix(".partial")
    command = [compiler, *FLAGS, *flags, "-o", str(partial), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        partial.replace(target)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{source.name} does not compile: {getattr(error, 'stderr', '') or error}", file=sys.stderr)
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True
