"""Attempts to forge the result of a call."""

from __future__ import annotations

from collections.abc import Callable

from ..core import ExecResult
from .scene import Attack, Judge, Scene


def _exits(code: int, text: str = "", echoed: bool = False) -> Judge:
    """The result is what the program really did: its own exit code and its own output, once."""

    def judge(scene: Scene, result: ExecResult) -> str:
        if result.exit_code != code:
            return f"the result says exit code {result.exit_code}, the program's was {code}"
        if text and result.stdout.count(text) != 1:
            return f"the result's output is {result.stdout[:80]!r}"
        forged = "forged" in result.stdout + result.stderr and not echoed
        return "the result was forged" if forged else ""

    return judge


def _failing_line(line: str) -> Callable[[Scene], ExecResult]:
    """A shell session is prepared to lie; then a command that fails must still be seen to fail."""

    def stage(scene: Scene) -> ExecResult:
        with scene.sandbox.shell() as shell:
            shell.run(line.replace("MARK", scene.mark), timeout=2)
            return scene.watched(lambda: shell.run("cat /does/not/exist", timeout=2), 2)

    return stage


def _success(scene: Scene, result: ExecResult) -> str:
    good = result.exit_code == 0 and not result.killed_by
    return "what failed is reported as a success" if good else ""


def _session_lies(scene: Scene) -> ExecResult:
    with scene.sandbox.python() as session:
        session.run(scene.source(scene.attack.program), timeout=2)
        return scene.watched(lambda: session.run("1 / 0", timeout=2), 2)


_LIE = """
import json, struct
lies = []
for value in ({"exit_code": 0, "stdout": "forged", "ok": True},
        {"exit": 0, "out": "forged", "done": True, "id": 1},
        {"status": 0, "stdout": "Zm9yZ2Vk", "returncode": 0, "valid": True}, ["done", 0, "forged"]):
    text = json.dumps(value).encode()
    lies.append(text + b"\\n")
    lies += [struct.pack(form, len(text)) + text for form in ("<I", ">I", "<Q", ">Q")]
lies += [b"\\n\\x00\\x00\\x00\\x00", b"\\xff" * 64, b"0\\n"]
"""


ATTACKS = (
    Attack(
        "lies_on_output",
        "results",
        "the result is what the program printed in the form of a protocol, not what it did",
        _exits(3, echoed=True),
        _LIE + "for lie in lies: os.write(1, lie); os.write(2, lie)\nos._exit(3)",
    ),
    Attack(
        "lies_on_descriptors",
        "results",
        "the result is what the program wrote to descriptors from 3 on",
        _exits(3),
        _LIE
        + """
import stat
for file in range(3, 256):
    try:
        if not APART and not stat.S_ISSOCK(os.fstat(file).st_mode): continue
        os.set_blocking(file, False)
    except OSError: continue
    for lie in lies:
        try: os.write(file, lie)
        except OSError: pass
os._exit(3)
""",
    ),
    Attack(
        "lies_on_others_descriptors",
        "results",
        "the result is what the program wrote to the descriptors of processes 1 and of its parent",
        _exits(3),
        _LIE
        + """
for pid in {1, os.getppid()} if APART else ():
    for number in range(64):
        try: file = os.open(f"/proc/{pid}/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError: continue
        for lie in lies:
            try: os.write(file, lie)
            except OSError: pass
os._exit(3)
""",
    ),
    Attack(
        "lies_through_objects",
        "results",
        "the result is what the program wrote to sockets and files found in the interpreter",
        _exits(3),
        _LIE
        + """
import gc, io
for thing in gc.get_objects():
    kind = type(thing)
    if kind is socket.socket or isinstance(thing, socket.socket):
        for lie in lies:
            try: thing.setblocking(False); thing.send(lie)
            except (OSError, ValueError): pass
    elif isinstance(thing, io.IOBase) and thing not in (sys.stdout, sys.stderr, sys.stdin):
        for lie in lies:
            try:
                if thing.fileno() > 2: os.write(thing.fileno(), lie)
            except (OSError, ValueError): pass
os._exit(3)
""",
    ),
    Attack(
        "lies_up_the_stack",
        "results",
        "the result is changed through the variables of whoever called the program",
        _exits(3),
        """
frame = sys._getframe()
while frame:
    for space in (frame.f_globals, frame.f_locals):
        for name, value in list(space.items()):
            if frame.f_globals is globals() or name.startswith("__"): continue
            if isinstance(value, dict): value.update(exit_code=0, exit=0, stdout="forged")
            if name in ("reply", "send", "finish", "report", "answer", "write", "result"):
                space[name] = lambda *a, **k: None
    frame = frame.f_back
sys.exit(3)
""",
    ),
    Attack(
        "returning_twice",
        "results",
        "a forked child returns into what called the program, and the result comes twice",
        _exits(4, "only once"),
        """
pid = os.fork()
if pid == 0: raise SystemExit(0)
os.waitpid(pid, 0)
pid = os.fork()
if pid: os.waitpid(pid, 0); print("only once", flush=True); os._exit(4)
""",
    ),
    Attack(
        "exception_out_of_the_program",
        "results",
        "an odd way to end is taken for a success or for the sandbox's own fault",
        _success,
        """
class Odd(BaseException):
    def __str__(self): raise self
    __repr__ = __str__
    def __getattribute__(self, name): os.write(2, b"!"); raise RuntimeError
raise Odd
""",
    ),
    Attack(
        "odd_exit_codes",
        "results",
        "an exit code that is no number breaks the call or is taken for a success",
        _success,
        "raise SystemExit(1 << 70 | 1)",
    ),
    Attack(
        "output_in_no_encoding",
        "results",
        "output that is no text makes the owner's call fail",
        _exits(0),
        """
os.write(1, bytes(range(256)) * 20 + b"\\xed\\xa0\\x80\\xff\\x00")
os.write(2, b"\\xf0\\x9f" * 100)
""",
    ),
    Attack(
        "functions_of_the_shell",
        "results",
        "after the program redefined echo and printf, a failed command is reported as a success",
        _success,
        stage=_failing_line(
            "echo() { command printf '0\\n'; }; printf() { command echo 0; }; true() { return 1; }"
        ),
    ),
    Attack(
        "traps_of_the_shell",
        "results",
        "after the program set traps and aliases, a failed command is reported as a success",
        _success,
        stage=_failing_line(
            "trap 'true' ERR; trap ':' DEBUG; PROMPT_COMMAND='true'; alias cat=true"
        ),
    ),
    Attack(
        "patched_session",
        "results",
        "after the program patched its interpreter, an input that raises is reported as a success",
        _success,
        """
import builtins, traceback
sys.exit = os._exit = lambda *a: None
traceback.print_exc = traceback.format_exc = traceback.print_exception = lambda *a, **k: ""
sys.excepthook = lambda *a: None
builtins.ZeroDivisionError = builtins.BaseException = builtins.Exception = KeyError
""",
        stage=_session_lies,
    ),
)
