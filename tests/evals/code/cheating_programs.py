"""Programs that would be graded as right without being right.

They attack what carries the verdict, end early, or hand the tests objects that lie. @NAME@ stands for one of `PARTS`.
"""

import textwrap

HONEST = """
def add(a, b):
    return a + b
"""

LIBC = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def syscall(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), number)
    return result
"""

LINK = """
import json, os, socket, stat, struct
sockets = [n for n in range(3, 64) if os.path.exists(f"/proc/self/fd/{n}") and stat.S_ISSOCK(os.fstat(n).st_mode)]
(link,) = sockets
def send(content):
    os.write(link, struct.pack(">Q", len(content)) + content)
"""

PARTS = {"HONEST": HONEST, "LIBC": LIBC, "LINK": LINK}


def whole(program: str) -> str:
    """The program with its parts."""
    program = textwrap.dedent(program).lstrip()
    for name, part in PARTS.items():
        program = program.replace(f"@{name}@\n", part)
    return program


PROTOCOL = {
    "garbage": """
        @LINK@
        def add(a, b):
            os.write(link, b'garbage' * 1000)
            return a + b
    """,
    "an endless message": """
        @LINK@
        def add(a, b):
            os.write(link, struct.pack('>Q', 2 ** 63))
            while True:
                os.write(link, bytes(65536))
    """,
    "a message that never ends": """
        @LINK@
        import time
        def add(a, b):
            os.write(link, struct.pack('>Q', 100))
            time.sleep(3600)
    """,
    "a deeply nested message": """
        @LINK@
        def add(a, b):
            send(b'[' * 10 ** 6)
    """,
    "a message of many parts": """
        @LINK@
        def add(a, b):
            send(b'[' + b'[],' * (2 * 10 ** 6) + b'[]]')
    """,
    "a verdict": """
        @LINK@
        for _ in range(20):
            send(b'{"reason":"passed","detail":""}')
    """,
    "answers ahead": """
        @LINK@
        for value in (1, True, 5, 5, 6, 6, True, 0, None, 5, 6):
            send(json.dumps({'nodes': [], 'changed': [], 'value': value}).encode())
    """,
    "an answer of unknown nodes": """
        @LINK@
        def add(a, b):
            send(json.dumps({'nodes': [['verdict', 1]], 'changed': [], 'value': [0]}).encode())
    """,
    "an answer that refers to itself": """
        @LINK@
        def add(a, b):
            send(json.dumps({'nodes': [['tuple', [[0]]]], 'changed': [], 'value': [0]}).encode())
    """,
    "an answer that changes what was not given": """
        @LINK@
        def add(a, b):
            send(json.dumps({'nodes': [], 'changed': [[99, []]], 'value': 5}).encode())
    """,
    "an answer whose fraction is no number": """
        @LINK@
        def add(a, b):
            send(json.dumps({'nodes': [['Fraction', [1, 0]]], 'changed': [], 'value': [0]}).encode())
    """,
    "an answer that names a function": """
        @LINK@
        def add(a, b):
            send(json.dumps({'nodes': [['type', 'eval']], 'changed': [], 'value': [0]}).encode())
    """,
    "closed descriptors": """
        import os
        os.closerange(0, 64)
        @HONEST@
    """,
    "a socket that is shut down": """
        @LINK@
        socket.socket(fileno=os.dup(link)).shutdown(socket.SHUT_RDWR)
        @HONEST@
    """,
}

ENDINGS = {
    "an exit": """
        import sys
        sys.exit(0)
    """,
    "an exit without ceremony": """
        import os
        os._exit(0)
    """,
    "an exit in the call": """
        import sys
        def add(a, b):
            sys.exit(0)
    """,
    "an exit without ceremony in the call": """
        import os
        def add(a, b):
            os._exit(0)
    """,
    "another program": """
        import os, sys
        def add(a, b):
            os.execv(sys.executable, [sys.executable, '-c', 'pass'])
    """,
    "a printed verdict": """
        import os
        for n in (1, 2):
            os.write(n, b'{"reason": "passed", "detail": ""}\\n')
    """,
    "an interrupt": """
        def add(a, b):
            raise KeyboardInterrupt
    """,
    "an assertion of its own": """
        def add(a, b):
            raise AssertionError
    """,
    "an exception that cannot be told": """
        class Odd(Exception):
            def __str__(self):
                raise SystemExit
        def add(a, b):
            raise Odd
    """,
    "a syntax error": """
        def add(a, b)
            return a + b
    """,
    "nothing": "",
    "zero bytes": "\x00",
}

LIES = {
    "an object equal to everything": """
        class Equal:
            def __eq__(self, other):
                return True
            def __ne__(self, other):
                return False
            def __bool__(self):
                return False
            __class__ = int
            __hash__ = None
        def add(a, b):
            return Equal()
    """,
    "an int equal to everything": """
        class Equal(int):
            def __eq__(self, other):
                return True
            def __ne__(self, other):
                return False
            __hash__ = int.__hash__
        def add(a, b):
            return Equal(0)
    """,
    "a float equal to everything": """
        class Equal(float):
            def __eq__(self, other):
                return True
            def __sub__(self, other):
                return 0.0
            __hash__ = float.__hash__
        def add(a, b):
            return Equal(0)
    """,
    "a changed int": """
        import builtins
        class int(builtins.int):
            def __eq__(self, other):
                return True
        builtins.int = int
        def add(a, b):
            return int(1)
    """,
    "changed built-in functions": """
        import builtins
        builtins.isinstance = lambda *_: True
        builtins.AssertionError = type('Never', (Exception,), {})
        builtins.all = lambda _: True
        def add(a, b):
            return 1
    """,
    "functions with the tests' names": """
        def check(candidate):
            pass
        def isinstance(*_):
            return True
        def assertion(*_):
            pass
        def add(a, b):
            return 1
        add.__eq__ = lambda *_: True
    """,
    "changed modules": """
        import sys
        for name, module in list(sys.modules.items()):
            if 'inside' in name:
                for key, value in list(vars(module).items()):
                    if callable(value) and key[0] != '_':
                        setattr(module, key, lambda *_, **__: 5)
        def add(a, b):
            return 1
    """,
    "a search for the tests": """
        import gc
        def add(a, b):
            for thing in gc.get_objects():
                if isinstance(thing, dict) and 'tests' in thing:
                    return a + b
            return None
    """,
    "a look at who calls": """
        import sys
        def add(a, b):
            frame = sys._getframe()
            while frame:
                if 'check' in frame.f_code.co_names or 'exp' in frame.f_locals:
                    return a + b
                frame = frame.f_back
            return None
    """,
}

LIES_TO_NUMPY = {
    "changed functions of numpy": """
        import numpy
        numpy.allclose = lambda *_, **__: True
        def add(a, b):
            return 0.5
    """,
    "loops that end at once": """
        def zip(*_):
            return []
        def enumerate(*_):
            return []
        def all(_):
            return True
        def add(a, b):
            return 0.5
    """,
    "a module that is not numpy": """
        class np:
            allclose = staticmethod(lambda *_, **__: True)
        def add(a, b):
            return 0.5
    """,
    "an object that is an array": """
        class Array:
            __array_interface__ = {'shape': (1,), 'typestr': '<f8', 'data': (1, False)}
            def __array__(self, *_, **__):
                import numpy
                return numpy.nan
            def __array_ufunc__(self, *_, **__):
                return True
            def __len__(self):
                return 1
            def __getitem__(self, key):
                return self
            def __float__(self):
                return 0.5
        def add(a, b):
            return Array()
    """,
    "an array equal to everything": """
        import numpy
        class Equal(numpy.ndarray):
            def __eq__(self, other):
                return True
            def __ne__(self, other):
                return False
        def add(a, b):
            return numpy.zeros(1).view(Equal)
    """,
    "not a number": """
        def add(a, b):
            return float('nan')
    """,
}

LIES_TO_CATCHERS = {
    "an end where every exception is caught": """
        import os
        def add(a, b):
            os._exit(0)
    """,
    "nonsense where every exception is caught": """
        @LINK@
        def add(a, b):
            send(b'nonsense')
    """,
    "a closed socket where every exception is caught": """
        @LINK@
        def add(a, b):
            os.close(link)
    """,
}
