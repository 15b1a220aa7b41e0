"""The filter of system calls of a sandbox, as bubblewrap takes it: a classic BPF program (Linux, seccomp(2)).

Bubblewrap's namespaces leave open what no namespace holds: virtual sockets to the machine's host, keys that outlive
their process, and memory that no limit counts (System V shared memory and queues, memfd). The filter refuses those,
with EPERM, and what only an attempt to break out would call. Of sockets, only those between processes (AF_UNIX) remain.
"""

import platform
import struct

from bai_pipeline.errors import EvaluationError

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in struct seccomp_data; of the argument, the low half on a little-endian machine."""
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001
_AF_UNIX = 1
_X32 = 0x40000000
"""From here on, x86_64 has the same calls again for its 32-bit pointers."""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET = {"x86_64": 41, "aarch64": 198}

_REFUSED = {
    # Not held by a namespace, or not counted by a limit.
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "request_key": (249, 218),
    "semget": (64, 190),
    "shmget": (29, 194),
    # Other processes, other namespaces, and large parts of the kernel that no graded program needs.
    "bpf": (321, 280),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "io_uring_setup": (425, 425),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "setns": (308, 268),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""Numbers on x86_64 and aarch64 (arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h)."""


def system_call_filter(machine: str | None = None) -> bytes:
    """The BPF program for a machine (None: this one).

    Raises:
        EvaluationError: neither x86_64 nor aarch64.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise EvaluationError(
            f"expected a machine of {' or '.join(_ARCHITECTURES)}, got {machine}: there is no filter of system calls "
            "for it, and no program was run"
        )
    column = list(_ARCHITECTURES).index(machine)
    refused = [numbers[column] for numbers in _REFUSED.values()]
    # A true test goes to the last instruction; five follow the tests.
    tests = [(_EQUAL, number) for number in refused]
    if machine == "x86_64":
        tests.insert(0, (_AT_LEAST, _X32))
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), (_RETURN, 0, 0, _EPERM)]
    program.append((_LOAD, 0, 0, _NUMBER))
    for index, (code, operand) in enumerate(tests):
        program.append((code, len(tests) - index + 3, 0, operand))
    program += [
        (_EQUAL, 0, 2, _SOCKET[machine]),  # another call: allowed
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, _AF_UNIX),  # another family: refused
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
