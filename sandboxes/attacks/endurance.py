"""Attempts to last: floods, waiting without end, and life after the call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from ..core import MIB, ExecResult
from .host import marked
from .scene import Attack, Scene, nothing

_HOLD = "time.sleep(0.5)"


_BLOCK = 'data = b"x" * (1 << 20)\n'


def _loud(scene: Scene, result: ExecResult) -> str:
    kept, limit = len(result.stdout) + len(result.stderr), 2 * scene.sandbox.limits.output
    if kept > limit * 1.5:
        return f"{kept} bytes of output were kept"
    grown = scene.peak.owner
    return f"the owner's memory grew by {grown >> 20} MiB" if grown > 96 * MIB else ""


def _descriptors(scene: Scene, result: ExecResult) -> str:
    peak = scene.peak.descriptors  # the kernel doubles a table's size, hence the factor
    return f"room for {peak} files" if peak > 2 * scene.sandbox.limits.open_files else ""


def _unread(scene: Scene) -> ExecResult:
    text = scene.source(scene.attack.program)
    return scene.watched(
        lambda: scene.sandbox.run(python=text, stdin=b"x" * (8 * MIB), timeout=1), 1
    )


def _shell(*lines: str) -> Callable[[Scene], ExecResult]:
    """A shell session in which marked programs are started; the session is closed at the end."""

    def stage(scene: Scene) -> ExecResult:
        scene.sandbox.write("left.py", scene.source("os.setsid()\ntime.sleep(20)"))
        result = ExecResult(0)
        with scene.sandbox.shell() as shell:
            for line in lines:
                result = scene.watched(partial(shell.run, line, 1), 1)
        return result

    return stage


def _in_session(scene: Scene) -> ExecResult:
    text = scene.source(scene.attack.program)
    with scene.sandbox.python() as session:
        return scene.watched(lambda: session.run(text, timeout=1), 1)


def _slow_sibling(scene: Scene) -> ExecResult:
    """While the program spins, somebody else's one-line program must get its turn."""
    sibling, spent = scene.sibling(), [0.0]

    def honest() -> None:
        time.sleep(0.4)
        started = time.monotonic()
        if scene.honest("print(6 * 7)", sibling) != "42\n":
            scene.notes.append("a sibling's call went wrong")
        spent[0] = time.monotonic() - started

    other = threading.Thread(target=honest, daemon=True)
    other.start()
    result = scene.strike()
    other.join(10)
    if spent[0] > 4 or other.is_alive():
        scene.notes.append(f"a sibling's call took {spent[0]:.1f} s")
    return result


def _hare(scene: Scene, result: ExecResult) -> str:
    """It is seen between two jumps only: look often."""
    seen = sum(bool(list(marked(scene.mark))) for _ in range(40))
    return "the chain goes on after the call" if seen else ""


ATTACKS = (
    Attack(
        "output_flood",
        "output",
        "more than 1.5 times the output limit is kept, or the owner's memory grows by 96 MiB",
        _loud,
        _BLOCK + "for _ in range(256): os.write(1, data)",
    ),
    Attack(
        "error_flood_by_children",
        "output",
        "more than 1.5 times the output limit is kept, or the owner's memory grows by 96 MiB",
        _loud,
        _BLOCK
        + """
def flood():
    for _ in range(64): os.write(2, data); os.write(1, data)
for _ in range(4): attempt(child, flood)
for _ in range(4): attempt(os.wait)
""",
    ),
    Attack(
        "output_without_reader",
        "output",
        "a child that keeps standard output open makes the call last",
        nothing,
        'child(lambda: (os.setsid(), time.sleep(8)))\nprint("done")',
        timeout=1,
    ),
    Attack(
        "open_files",
        "output",
        "the program holds more than twice the limit of open files",
        _descriptors,
        f"""
kept = []
for _ in range(900):
    file = attempt(os.open, "/", os.O_RDONLY)
    if file is None: break
    kept.append(file)
{_HOLD}
""",
    ),
    Attack(
        "input_never_read",
        "output",
        "8 MiB of input that nobody reads make the call last",
        nothing,
        "time.sleep(0.3)",
        stage=_unread,
    ),
    Attack(
        "cpu_spin",
        "time",
        "the call lasts 2 s longer than its limit",
        nothing,
        "until = time.time() + 8\nwhile time.time() < until: pass",
        timeout=1,
    ),
    Attack(
        "cpu_spin_by_children",
        "time",
        "children spin on after the call, or a sibling has to wait for seconds",
        nothing,
        """
def spin():
    until = time.time() + 6
    while time.time() < until: pass
for _ in range(8): attempt(child, spin)
time.sleep(5)
""",
        timeout=1,
        stage=_slow_sibling,
    ),
    Attack(
        "sleep_past_the_limit",
        "time",
        "the call lasts 2 s longer than its limit",
        nothing,
        "time.sleep(8)",
        timeout=0.5,
    ),
    Attack(
        "signals_ignored",
        "time",
        "the call lasts 2 s longer than its limit",
        nothing,
        """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
until = time.time() + 8
while time.time() < until: time.sleep(0.1)
""",
        timeout=0.5,
    ),
    Attack(
        "stopped_process",
        "time",
        "a process that stops itself makes the call last",
        nothing,
        "child(lambda: (os.setsid(), os.kill(os.getpid(), signal.SIGSTOP), time.sleep(5)))\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(6)",
        timeout=0.5,
    ),
    Attack(
        "output_closed",
        "time",
        "a program that closes all its files and sleeps makes the call last",
        nothing,
        "os.closerange(0, 128)\ntime.sleep(8)",
        timeout=0.5,
    ),
    Attack(
        "session_spin",
        "time",
        "an input of an interpreter session lasts 2 s longer than its limit",
        nothing,
        """
until = time.time() + 8
while time.time() < until:
    try:
        while time.time() < until: pass
    except BaseException: pass
""",
        stage=_in_session,
    ),
    Attack(
        "setsid_survivor",
        "survivors",
        "a process in a session of its own outlives the call",
        nothing,
        "child(lambda: (os.setsid(), os.closerange(0, 64), time.sleep(8)))",
    ),
    Attack(
        "double_fork_survivor",
        "survivors",
        "a process whose parent has ended outlives the call",
        nothing,
        """
def orphan():
    os.setsid()
    if os.fork() == 0: os.closerange(0, 64); time.sleep(8)
child(orphan)
time.sleep(0.1)
""",
    ),
    Attack(
        "fork_hare",
        "survivors",
        "a chain of processes, each forking the next and ending, outruns whoever kills it",
        _hare,
        """
until = time.time() + 5
if os.fork() == 0:
    os.closerange(0, 64)
    while time.time() < until:
        if attempt(os.fork): os._exit(0)
        attempt(os.setsid); time.sleep(0.01)
    os._exit(0)
""",
    ),
    Attack(
        "survivor_after_timeout",
        "survivors",
        "a process in a session of its own outlives a call that ran out of time",
        nothing,
        "child(lambda: (os.setsid(), os.closerange(0, 64), time.sleep(8)))\ntime.sleep(8)",
        timeout=0.5,
    ),
    Attack(
        "survivor_of_a_session",
        "survivors",
        "a background job of a shell session outlives the session",
        nothing,
        stage=_shell(
            "(python3 left.py </dev/null >/dev/null 2>&1 &)",
            "nohup python3 left.py >/dev/null 2>&1 & disown -a; sleep 0.3",
        ),
    ),
    Attack(
        "shell_that_will_not_die",
        "survivors",
        "a shell that ignores signals makes the call last, or outlives it",
        nothing,
        stage=_shell("trap '' TERM INT HUP QUIT PIPE; while :; do :; done"),
    ),
)
