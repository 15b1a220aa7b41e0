"""Builds the native merge kernel into the package, where there is a C++ compiler; without one the merge runs in numpy.

The kernel is called through ctypes, so that one build serves every Python version.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-ffp-contract=off", "-Wall", "-Wextra")
"""No flag may change the result of a float operation: -ffp-contract=off forbids fused multiply-adds."""


class KernelBuildHook(BuildHookInterface[Any]):
    """Compiles bai_pipeline/merging/kernel.cpp to _kernel.so beside it, for wheels and editable installs alike."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root) / "bai_pipeline" / "merging"
        if not build_kernel(folder / "kernel.cpp", folder / "_kernel.so"):
            self.app.display_warning("no C++ compiler that works: the merge kernel was not built, merges run in numpy")
            return
        build_data["artifacts"].append("/bai_pipeline/merging/_kernel.so")
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sys.platform}_{platform.machine()}"


def build_kernel(source: Path, target: Path) -> bool:
    """Compile, unless the target is newer than its source; it is replaced at once. False: there is none now."""
    changed = max(source.stat().st_mtime_ns, Path(__file__).stat().st_mtime_ns)
    if target.exists() and target.stat().st_mtime_ns >= changed:
        return True
    target.unlink(missing_ok=True)
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return False
    partial = target.with_suffix(".partial")
    command = [compiler, *FLAGS, "-o", str(partial), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        partial.replace(target)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{source.name} does not compile: {getattr(error, 'stderr', '') or error}", file=sys.stderr)
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True
