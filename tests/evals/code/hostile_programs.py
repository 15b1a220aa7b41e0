"""Programs that attack the sandbox, the grading or the machine.

Each is to define `add`. A program of `ATTACKS` does so rightly only after its attack succeeded, or cheats, so that it
passes where it should not. Those of `HARMLESS` answer rightly whatever became of their attempt, which must come to
nothing. @NAME@ stands for what the test has prepared, or for one of `PARTS`.
"""

from dataclasses import dataclass

from tests.evals.code.cheating_programs import (
    ENDINGS,
    LIES,
    LIES_TO_CATCHERS,
    LIES_TO_NUMPY,
    PROTOCOL,
    whole,
)

ADD = """
def check(candidate):
    assert candidate(2, 3) == 5
    assert isinstance(candidate(10, -4), int)
    assert candidate(10, -4) == 6
    assert not candidate(0, 0)

check(add)
"""

CLOSE = """
import numpy as np

def assertion(out, exp, atol):
    if isinstance(exp, float) and not atol:
        atol = 1e-6
    if out != exp and atol:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp, f"out: {out}, exp: {exp}"

inputs = [[2, 3], [10.5, -4], [0, 0]]
results = [5, 6.5, 0]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(add(*inp), exp, 0)
assert all(isinstance(add(*inp), (int, float)) for inp in inputs)
"""

SWALLOWING = """
for a, b in [(2, 3), (10, -4)]:
    try:
        result = add(a, b)
    except BaseException:
        continue
    assert result == a + b
"""


@dataclass(frozen=True)
class Attack:
    """A program, and the suite that it tries to pass."""

    program: str
    suite: str = ADD


RESOURCES = {
    "a fork bomb": """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """,
    "a fork bomb whose processes wait": """
        import os, time
        def add(a, b):
            while True:
                try:
                    if os.fork() == 0:
                        time.sleep(3600)
                except OSError:
                    pass
    """,
    "a thread bomb": """
        import threading, time
        while True:
            threading.Thread(target=time.sleep, args=(3600,)).start()
    """,
    "a memory bomb": """
        kept = []
        while True:
            kept.append(bytearray(10 ** 8))
    """,
    "a memory bomb of several processes": """
        import os
        try:
            while True:
                os.fork()
        except OSError:
            pass
        kept = []
        while True:
            kept.append(bytearray(10 ** 8))
    """,
    "a huge string": """
        def add(a, b):
            return 'a' * 10 ** 10
    """,
    "a huge integer": """
        def add(a, b):
            return 10 ** 10 ** 9
    """,
    "a huge answer": """
        def add(a, b):
            return list(range(3 * 10 ** 5))
    """,
    "a deep recursion": """
        def add(a, b):
            return add(a, b) + 1
    """,
    "a recursion that overflows the C stack": """
        import sys
        sys.setrecursionlimit(10 ** 9)
        def add(a, b):
            return sorted([a, b], key=lambda _: add(a, b))
    """,
    "a deeply nested answer": """
        def add(a, b):
            value = ()
            for _ in range(10 ** 5):
                value = (value,)
            return value
    """,
    "an answer that is exponentially large": """
        def add(a, b):
            value = (1,)
            for _ in range(100):
                value = (value, value)
            return {value}
    """,
    "an endless loop that ignores signals": """
        import signal
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
    """,
    "an endless sleep": """
        import time
        def add(a, b):
            time.sleep(3600)
    """,
    "a stop": """
        import os, signal
        def add(a, b):
            os.kill(os.getpid(), signal.SIGSTOP)
    """,
    "endless output": """
        while True:
            print('x' * 4096, flush=True)
    """,
    "endless errors": """
        import sys
        while True:
            sys.stderr.write('x' * 4096)
    """,
    "a full disk": """
        import itertools
        for number in itertools.count():
            with open(f'/tmp/@MARKER@-{number}', 'wb') as stream:
                stream.write(bytes(10 ** 6))
    """,
    "a file that is too long": """
        with open('/tmp/@MARKER@', 'wb') as stream:
            stream.write(bytes(20 << 20))
        @HONEST@
    """,
    "endless files": """
        import itertools
        for number in itertools.count():
            open(f'/tmp/@MARKER@-{number}', 'w').close()
    """,
    "too many open files": """
        import os
        kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(1000)]
        @HONEST@
    """,
    "an endless iterator": """
        import itertools
        def add(a, b):
            return itertools.count()
    """,
    "an endless slow iterator": """
        import time
        def add(a, b):
            while True:
                time.sleep(0.1)
                yield a + b
    """,
    "higher limits": """
        import resource
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        @HONEST@
    """,
    "a higher priority": """
        import os
        os.setpriority(os.PRIO_PROCESS, 0, -5)
        @HONEST@
    """,
    "another process to be ended for memory": """
        with open('/proc/self/oom_score_adj', 'w') as stream:
            stream.write('-1000')
        @HONEST@
    """,
}

FILES = {
    "a file outside": """
        import os
        written = 0
        places = ['/', '/dev', '/dev/shm', '/etc', '/home', '/packages', '/root', '/usr/lib', '/var/tmp']
        for place in [*places, '@REPO@', '@HOME@']:
            if place.startswith('/tmp'):  # there the sandbox has files of its own
                continue
            try:
                os.makedirs(place, exist_ok=True)
                open(place + '/@MARKER@', 'w').close()
                written += 1
            except OSError:
                pass
        if not written:
            raise OSError('nothing was written')
        @HONEST@
    """,
    "a changed library": """
        import os, random
        open(random.__file__, 'a').close()
        @HONEST@
    """,
    "the users' names": """
        open('/etc/passwd').read()
        @HONEST@
    """,
    "a link to the users' names": """
        import os
        os.symlink('/etc/passwd', '/tmp/@MARKER@')
        open('/tmp/@MARKER@').read()
        @HONEST@
    """,
    "a link to the repository": """
        import os
        os.symlink('@REPO@', '/tmp/@MARKER@')
        open('/tmp/@MARKER@/pyproject.toml').read()
        @HONEST@
    """,
    "the repository": """
        open('@REPO@/pyproject.toml').read()
        @HONEST@
    """,
    "a file of the user's": """
        open('@PRIVATE@').read()
        @HONEST@
    """,
    "the file system of the first process": """
        open('/proc/1/root/etc/passwd').read()
        @HONEST@
    """,
    "the file system behind a way up": """
        import os
        os.chdir('/proc/self/cwd/../../../..')
        open('etc/passwd').read()
        @HONEST@
    """,
    "a device": """
        import os, stat
        os.mknod('/tmp/@MARKER@', stat.S_IFBLK | 0o600, os.makedev(8, 0))
        @HONEST@
    """,
    "the machine's memory": """
        open('/dev/mem', 'rb').read(1)
        @HONEST@
    """,
    "a kernel setting": """
        open('/proc/sys/kernel/hostname', 'w').write('@MARKER@')
        @HONEST@
    """,
    "the magic key": """
        open('/proc/sysrq-trigger', 'w').write('h')
        @HONEST@
    """,
}

SECRETS = {
    "its own environment": """
        import os
        raise RuntimeError(os.environ['BAI_TEST_SECRET'])
    """,
    "everybody's environment": """
        import glob
        found = []
        for path in glob.glob('/proc/[0-9]*/environ'):
            try:
                found.append(open(path).read())
            except OSError:
                pass
        raise RuntimeError(' '.join(part for part in ' '.join(found).split(chr(0)) if 'SECRET' in part))
    """,
    "everybody's command line": """
        import glob
        raise RuntimeError(' '.join(open(path).read() for path in glob.glob('/proc/[0-9]*/cmdline'))[-150:])
    """,
    "every open file": """
        import glob, os
        for path in glob.glob('/proc/[0-9]*/fd/*'):
            try:
                if 'SECRET' in open(path).read(1000):
                    raise RuntimeError(open(path).read())
            except (OSError, UnicodeError):
                pass
        raise RuntimeError('none')
    """,
}

NETWORK = {
    "a connection to the machine": """
        import socket
        socket.create_connection(('127.0.0.1', @PORT@), 1).close()
        @HONEST@
    """,
    "a datagram to the machine": """
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @PORT@))
        @HONEST@
    """,
    "an abstract socket of the machine": """
        import socket
        socket.socket(socket.AF_UNIX).connect(chr(0) + '@ABSTRACT@')
        @HONEST@
    """,
    "a socket file of the machine": """
        import socket
        socket.socket(socket.AF_UNIX).connect('@SOCKET@')
        @HONEST@
    """,
    "a name": """
        import socket
        socket.getaddrinfo('example.org', 80)
        @HONEST@
    """,
    "the host of a virtual machine": """
        import socket
        socket.socket(40, socket.SOCK_STREAM)
        @HONEST@
    """,
    "the kernel's cipher": """
        import socket
        socket.socket(38, socket.SOCK_SEQPACKET)
        @HONEST@
    """,
    "packets": """
        import socket
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        @HONEST@
    """,
}

PROCESSES = {
    "the death of all": """
        import os
        def add(a, b):
            os.kill(-1, 9)
            return a + b
    """,
    "its own death": """
        import os
        def add(a, b):
            os.kill(os.getpid(), 9)
    """,
    "the death of who started it": """
        import os
        os.kill(@PID@, 9)
        @HONEST@
    """,
    "tracing": """
        @LIBC@
        call('ptrace', 0, 0, 0, 0)
        @HONEST@
    """,
    "reading another process": """
        @LIBC@
        syscall(310 if os.uname().machine == 'x86_64' else 270, 1, 0, 0, 0, 0, 0)
        @HONEST@
    """,
    "a new root": """
        import os
        os.mkdir('/tmp/@MARKER@')
        os.chroot('/tmp/@MARKER@')
        @HONEST@
    """,
    "a mount": """
        @LIBC@
        os.mkdir('/tmp/m')
        call('mount', b'none', b'/tmp/m', b'tmpfs', 0, None)
        @HONEST@
    """,
    "a namespace of users": """
        @LIBC@
        call('unshare', 0x10000000)
        @HONEST@
    """,
    "a process in a namespace of users": """
        @LIBC@
        number = 56 if os.uname().machine == 'x86_64' else 220
        if syscall(number, 0x10000000 | 17, 0, 0, 0, 0) == 0:
            os._exit(0)
        @HONEST@
    """,
    "root": """
        import os
        os.setuid(0)
        @HONEST@
    """,
    "a shell": """
        import subprocess
        subprocess.run(['/bin/sh', '-c', 'true'], check=True)
        @HONEST@
    """,
    "memory that no limit counts": """
        @LIBC@
        call('memfd_create', b'x', 0)
        @HONEST@
    """,
    "shared memory": """
        @LIBC@
        call('shmget', 0, 1 << 20, 0o1600)
        @HONEST@
    """,
    "a key that stays": """
        @LIBC@
        syscall(248 if os.uname().machine == 'x86_64' else 217, b'user', b'@MARKER@', b'x', 1, -4)
        @HONEST@
    """,
    "a ring of calls": """
        @LIBC@
        parameters = ctypes.create_string_buffer(256)
        syscall(425, 8, parameters)
        @HONEST@
    """,
    "a null pointer": """
        import ctypes
        def add(a, b):
            return ctypes.string_at(0)
    """,
}

ATTEMPTS = {
    "the death of the first process": """
        import os
        os.kill(os.getppid(), 9)
        os.kill(1, 15)
        @HONEST@
    """,
    "a daemon": """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                open('/tmp/@MARKER@', 'w').close()
                while True:
                    time.sleep(60)
            os._exit(0)
        @HONEST@
    """,
    "processes in the background": """
        import subprocess, sys
        command = [sys.executable, '-S', '-c', 'import time; time.sleep(3600)', '@MARKER@']
        kept = [subprocess.Popen(command) for _ in range(3)]
        @HONEST@
    """,
    "threads in the background": """
        import threading, time
        for _ in range(3):
            threading.Thread(target=time.sleep, args=(3600,)).start()
        @HONEST@
    """,
    "files in its directory": """
        for number in range(100):
            open(f'@MARKER@-{number}', 'w').write('x' * 1000)
        @HONEST@
    """,
    "much output": """
        print('x' * 10 ** 7)
        @HONEST@
    """,
    "watched files": """
        @LIBC@
        kept = [libc.inotify_init() for _ in range(10)]
        @HONEST@
    """,
    "a changed module": """
        import math, sys
        math.inf = 0
        sys.modules.clear()
        @HONEST@
    """,
    "an input": """
        try:
            input()
        except EOFError:
            pass
        @HONEST@
    """,
}

ATTACKS: dict[str, Attack] = {
    **{
        name: Attack(whole(program))
        for table in (RESOURCES, FILES, SECRETS, NETWORK, PROCESSES, PROTOCOL, ENDINGS, LIES)
        for name, program in table.items()
    },
    **{name: Attack(whole(program), CLOSE) for name, program in LIES_TO_NUMPY.items()},
    **{name: Attack(whole(program), SWALLOWING) for name, program in LIES_TO_CATCHERS.items()},
}

HARMLESS = {name: whole(program) for name, program in ATTEMPTS.items()}
