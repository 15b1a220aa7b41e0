"""What a program that is graded may use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of one suite. Each of its two sandboxes, the program's and the tests', has these limits for itself.

    A sandbox can hold no more memory than processes * memory_bytes + scratch_bytes (8.1 GB by default), and the
    kernel's own for the files and pipes it may open.
    """

    wall_seconds: float = 10.0
    """From the loading of the program to the verdict; then everything is killed."""
    cpu_seconds: int = 10
    """Of each process."""
    memory_bytes: int = 1 << 30
    """Of each process: its address space."""
    processes: int = 8
    """At once, threads included; one is the sandbox's own and one runs the program."""
    file_bytes: int = 16 << 20
    """Of the longest file."""
    scratch_bytes: int = 64 << 20
    """Of all files together. They are in memory, and end with the sandbox."""
    answer_bytes: int = 8 << 20
    """Of one answer of the program to one call, as JSON."""
