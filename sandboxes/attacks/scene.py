"""One attempt: a hostile program, the sandbox it runs in, and the judges who look from outside.

A judge gets the scene after the program's call and says what it saw, or "" when the sandbox held.
It may read what only the owner knows, look at the host, or make another call; it never believes
what the program says about itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from ..core import MIB, ExecResult, Limits, Sandbox, SandboxError
from . import host
from .host import Peak
from .owner import Owner

LIMITS = Limits(
    wall=3.0,
    cpu=2.0,
    memory=128 * MIB,
    processes=32,
    file_size=8 * MIB,
    disk=16 * MIB,
    open_files=128,
    output=65536,
)
"""Small enough that every attempt may succeed on a laptop without harm."""

# The mark is the processes' name, by which the owner finds them on the host. APART keeps the most
# dangerous programs away from the host's own processes where nothing isolates.
PRELUDE = """
import os, sys, time, signal, socket
def attempt(action, *arguments):
    try: return action(*arguments)
    except OSError as error: print(type(error).__name__, error, file=sys.stderr)
def mark():
    with open("/proc/self/comm", "w") as file: file.write(MARK)
def child(action, *arguments):
    pid = os.fork()
    if pid: return pid
    try: action(*arguments)
    finally: os._exit(0)
def show(path): print(open(path, "rb").read(4096).decode(errors="replace"), flush=True)
def put(path, text="from the sandbox"):
    with open(path, "w") as file: file.write(text)
def pids(): return [int(name) for name in os.listdir("/proc") if name.isdecimal()][:400]
def library():
    import ctypes
    return ctypes.CDLL(None, use_errno=True)
def kernel(name, *arguments):
    import ctypes
    numbers = dict(ptrace=101, mount=165, unshare=272, setns=308, add_key=248, request_key=249,
        keyctl=250, bpf=321, io_uring_setup=425, userfaultfd=323, perf_event_open=298,
        open_by_handle_at=304, process_vm_readv=310, clone=56, clone3=435, fsopen=430,
        fsconfig=431, fsmount=432, move_mount=429, shmget=29, msgget=68, chroot=161)
    if os.uname().machine == "aarch64":
        numbers.update(ptrace=117, mount=40, unshare=97, setns=268, add_key=217, request_key=218,
            keyctl=219, bpf=280, userfaultfd=282, perf_event_open=241, open_by_handle_at=265,
            process_vm_readv=270, clone=220, shmget=194, msgget=186, chroot=51)
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    found = library().syscall(ctypes.c_long(numbers[name]), *wide)
    if found < 0: print(name, os.strerror(ctypes.get_errno()), file=sys.stderr)
    return found
try: APART = os.readlink("/proc/self/ns/pid") != PIDNS
except OSError: APART = False
attempt(mark)
"""

_BROKEN = re.compile(
    r"^(SyntaxError|IndentationError|NameError|ImportError|ModuleNotFoundError|AttributeError"
    r"|TypeError|KeyError|IndexError|AssertionError)\b.*",
    re.MULTILINE,
)

Judge = Callable[["Scene", ExecResult], str]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attempt. `means` is what it means that it succeeded, as seen from outside."""

    name: str
    theme: str
    means: str
    judge: Judge
    program: str = ""
    timeout: float = 3.0
    deep: bool = False
    """The owner must look into the processes' descriptors, mounts and files while they run."""
    stage: Callable[[Scene], ExecResult] | None = None
    """How the attempt is made, where it is not one call of `run(python=program)`."""


class Scene:
    """An attempt in progress: the owner, the sandbox under attack, and what was seen."""

    def __init__(
        self, attack: Attack, owner: Owner, sandbox: Sandbox, open_: Callable[[], Sandbox]
    ):
        self.attack, self.owner, self.sandbox, self._open = attack, owner, sandbox, open_
        self.mark = f"pa{secrets.token_hex(6)}"
        self.token = secrets.token_hex(8)
        """A number that only this attempt's owner knows."""
        self.peak = Peak()
        self.results: list[ExecResult] = []
        self.calm = True
        self.notes: list[str] = []
        self._siblings = contextlib.ExitStack()

    def source(self, program: str) -> str:
        """The program with all that an attacker could know about the owner, short of the secret."""
        known = {
            "MARK": self.mark,
            "FOLDER": str(self.owner.folder),
            "OWNER": os.getpid(),
            "DECOY": self.owner.decoy.pid,
            "ROOM": self.owner.room,
            "ABSTRACT": self.owner.abstract,
            "ADDRESSES": self.owner.addresses,
            "TERMINAL": self.owner.terminal,
            "PIDNS": os.readlink("/proc/self/ns/pid"),
            "HOST_DEVICE": (self.owner.folder.stat().st_dev),
        }
        lines = [f"{name} = {value!r}" for name, value in known.items()]
        return "\n".join([*lines, PRELUDE, program])

    def strike(self, program: str | None = None, timeout: float | None = None) -> ExecResult:
        """Run the hostile program, look at the host meanwhile, note what the call itself did."""
        text = self.source(self.attack.program if program is None else program)
        limit = timeout or self.attack.timeout
        return self.watched(lambda: self.sandbox.run(python=text, timeout=limit), limit)

    def watched(self, call: Callable[[], ExecResult], limit: float) -> ExecResult:
        started = time.monotonic()
        with Watch(self):
            result = call()
        if (spent := time.monotonic() - started) > limit + 2:
            self.notes.append(f"the call lasted {spent:.1f} s, its limit was {limit} s")
        self.results.append(result)
        if not result.valid:
            self.notes.append(f"the sandbox took the blame for the program: {result.culprit}")
        if broken := _BROKEN.search(result.stderr):
            raise AssertionError(f"the attempt itself is broken: {broken[0][:200]}")
        return result

    def honest(self, program: str, sandbox: Sandbox | None = None) -> str:
        """The output of the owner's own, harmless program in a call after the hostile one."""
        result = (sandbox or self.sandbox).run(python=program)
        if not result.valid:
            self.notes.append(f"the next call failed: {result.culprit}")
        return result.stdout

    def sibling(self) -> Sandbox:
        """Another sandbox of the same owner, for somebody else's code."""
        return self._siblings.enter_context(self._open())

    def aftermath(self) -> str:
        """What every attempt is judged by, whatever it was after."""
        found = list(self.notes)
        if left := host.survivors(self.mark):
            found.append(f"{left} processes outlived the call")
            host.end(self.mark)
        if any(self.owner.secret in r.stdout + r.stderr for r in self.results):
            found.append("the owner's secret was printed")
        if name := self.owner.heard(self.mark):
            found.append(f"the owner received a message at '{name}'")
        if harm := self.owner.harm():
            found.append(harm)
        if paths := host.strewn(self.mark):
            found.append(f"'{paths[0]}' was made on the host")
            for path in paths:
                host.remove(path)
        if self.calm:
            answer = self.sandbox.run(python=f"print({self.token!r})")
            if not answer.valid or answer.stdout != f"{self.token}\n":
                found.append(f"the next call went wrong: {answer.culprit or answer.stderr[-200:]}")
        return "; ".join(found)

    def close(self) -> None:
        self._siblings.close()
        host.end(self.mark)
        for path in host.strewn(self.mark):
            host.remove(path)


class Watch(threading.Thread):
    """Looks at the host again and again while a program runs."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(daemon=True, name="watch")
        self.scene, self.over = scene, threading.Event()
        self.base = host.memory()

    def run(self) -> None:
        peak, scene = self.scene.peak, self.scene
        while not self.over.wait(0.02):
            host.look(scene.mark, peak, scene.attack.deep)
            peak.owner = max(peak.owner, host.memory() - self.base)
            decoy = host.status(scene.owner.decoy.pid)
            peak.tracing |= (
                decoy.get("State", "S")[:1] in "tT" or decoy.get("TracerPid", "0") != "0"
            )

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        self.join(5)


def nothing(scene: Scene, result: ExecResult) -> str:
    """Only what every attempt is judged by: see `Scene.aftermath`."""
    return ""


def crowd(scene: Scene, result: ExecResult) -> str:
    """More tasks than a quarter above the limit."""
    peak = max(scene.peak.tasks, scene.peak.processes)
    return f"{peak} tasks at once" if peak > scene.sandbox.limits.processes * 1.25 else ""


def hungry(scene: Scene, result: ExecResult) -> str:
    """More memory on the host than half above the limit."""
    peak = max(scene.peak.memory, scene.peak.files)
    return f"{peak >> 20} MiB in use" if peak > scene.sandbox.limits.memory * 1.5 else blind(scene)


def filling(scene: Scene, result: ExecResult) -> str:
    """More bytes in files than half above the limit of the disk."""
    sandbox = scene.sandbox
    kept = sum(len(sandbox.read(name, 64 * MIB)) for name in sandbox.list())
    peak = max(kept, scene.peak.files)
    return f"{peak >> 20} MiB in files" if peak > sandbox.limits.disk * 1.5 else blind(scene)


def holding(handle: str) -> Judge:
    """A handle of the kernel that ought to be refused."""
    return lambda scene, result: (
        f"it holds a handle '{handle}'"
        if any(handle in each for each in scene.peak.handles)
        else blind(scene)
    )


def blind(scene: Scene) -> str:
    """Not to have seen anything is no verdict."""
    if scene.attack.deep and scene.peak.blind:
        raise SandboxError(f"{scene.peak.blind}: run the battery as root")
    return ""
