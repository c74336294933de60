"""What a forked child of the worker does before and while it is the program.

Runs inside the isolation: standard library only, no import of the package. A child starts from
the warm interpreter: it takes its own streams, limits and variables, gives up the worker's, and
never returns into the worker's code.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import fcntl
import gc
import linecache
import os
import random
import resource
import signal
import struct
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

OUT_OF_MEMORY = 137
"""The exit code by which a Python child says that it died of a MemoryError."""
LENGTH = struct.Struct("<I")
OWN = "palaestra_worker"
# One command a line, as octal escapes. The two control descriptors are closed while it is
# evaluated; only the shell itself has them. `command`: a function that is called echo or printf
# must not take their place.
SHELL_LOOP = (
    "while IFS= command read -r palaestra_line <&{inputs}; do "
    'command eval "$(command printf %b "$palaestra_line")" </dev/null {inputs}<&- {status}>&-; '
    'command echo "$?" >&{status}; done'
)

Settings = dict[str, Any]


def become(
    settings: Settings,
    env: dict[str, str],
    streams: tuple[int, int, int],
    keep: tuple[int, ...] = (),
    cpu: float | None = None,
) -> tuple[int, ...]:
    """Turn this forked process into a program's: returns where the fds `keep` are now (3, 4...)."""
    os.setsid()
    # First out of the way of the numbers that they shall have.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in keep]
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    for number, fd in enumerate(high, 3):
        os.dup2(fd, number, inheritable=False)
    os.closerange(3 + len(keep), 1 << 20)
    set_limits(settings, cpu)
    os.environ.update(env)  # the rest is there since the worker's start
    os.chdir(settings["work"])
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return tuple(range(3, 3 + len(keep)))


def set_limits(settings: Settings, cpu: float | None) -> None:
    limits = settings["limits"]
    wanted: list[tuple[int, int]] = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, int(limits["file_size"])),
        (resource.RLIMIT_NOFILE, int(limits["open_files"])),
        # Not the address space: threads and allocators reserve far more than they use.
        (resource.RLIMIT_DATA, int(limits["memory"])),
    ]
    if settings["count"]:
        wanted.append((resource.RLIMIT_NPROC, int(limits["processes"]) + 1))  # 1: the worker
    for which, value in wanted:
        _, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(which, (value, value))
    if cpu is not None:
        seconds = max(1, int(-(-cpu // 1)))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def run_command(argv: list[str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them; a program expects them
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, os.environ)
    except FileNotFoundError:
        os.write(2, f"{argv[0][:200]}: command not found\n".encode(errors="replace"))
        os._exit(127)
    except (OSError, ValueError) as error:
        os.write(2, f"{argv[0][:200]}: {error}\n".encode(errors="replace"))
        os._exit(126)


def run_python(settings: Settings, source: bytes) -> NoReturn:
    """Execute a program as `python -c` would, in this process, and end it."""
    scope = _fresh_interpreter(settings)
    status = _finished(lambda: exec(_compiled(source), scope), scope)
    with contextlib.suppress(BaseException):
        # What an interpreter does at its end: threads, exit handlers, and the closing of files.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        scope.clear()
        gc.collect()
    _flush()
    os._exit(status)


def _fresh_interpreter(settings: Settings) -> dict[str, Any]:
    """A `__main__` of its own, and no trace of the worker; returns its variables."""
    for name in [name for name in sys.modules if name.startswith(OWN)]:
        del sys.modules[name]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    sys.argv[:] = ["-c"]
    # The work folder comes last: a file in it must not stand in for the standard library.
    sys.path += [*settings["paths"], settings["work"]]
    random.seed(0)
    return main.__dict__


def _compiled(source: bytes) -> types.CodeType:
    text = source.decode("utf-8", "surrogatepass")
    linecache.cache["<string>"] = (len(text), None, text.splitlines(True), "<string>")
    return compile(text, "<string>", "exec")


def _finished(act: Callable[[], object], scope: dict[str, Any]) -> int:
    """Do it; returns the exit status that an interpreter would give."""
    try:
        act()
        return 0
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        scope.pop("_", None)
        memory = isinstance(error, MemoryError)
        with contextlib.suppress(BaseException):
            _report(error)
        return OUT_OF_MEMORY if memory else 1


def _report(error: BaseException) -> None:
    """Print the traceback without the worker's frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(OWN):
        trace = trace.tb_next
    if sys.excepthook is not sys.__excepthook__:
        sys.excepthook(type(error), error, trace)
        return
    sys.stdout.flush()
    traceback.print_exception(type(error), error, trace)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()


def keep_interpreter(settings: Settings, inputs: int, status: int) -> NoReturn:
    """A session: inputs come length-prefixed, one byte of status goes back for each."""
    scope = _fresh_interpreter(settings)
    reader = os.fdopen(inputs, "rb")
    while len(head := reader.read(LENGTH.size)) == LENGTH.size:
        text = reader.read(LENGTH.unpack(head)[0])
        leaving = False

        def act(text: bytes = text) -> None:
            nonlocal leaving
            try:
                _interact(text, scope)
            except SystemExit:
                leaving = True
                raise

        code = _finished(act, scope)
        _flush()
        if leaving:
            os._exit(code)
        os.write(status, bytes([code]))
    os._exit(0)


def _interact(source: bytes, scope: dict[str, Any]) -> None:
    """Execute an input; as at a prompt, the value of a last expression is shown."""
    text = source.decode("utf-8", "surrogatepass")
    linecache.cache["<input>"] = (len(text), None, text.splitlines(True), "<input>")
    tree = ast.parse(text, "<input>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<input>", "exec"), scope)
    if last is not None:
        exec(compile(ast.Interactive([last]), "<input>", "single"), scope)


def keep_shell(inputs: int, status: int) -> NoReturn:
    """A session of bash, or of sh where there is none."""
    loop = SHELL_LOOP.format(inputs=inputs, status=status)
    for fd in (inputs, status):
        os.set_inheritable(fd, True)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-c", loop], os.environ)
    os.execvpe("sh", ["sh", "-c", loop], os.environ)


def shell_line(text: bytes) -> bytes:
    """A command as one line that `printf %b` turns back into it."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ./_-="
    return b"".join(bytes([c]) if c in plain else b"\\0%03o" % c for c in text) + b"\n"
