"""The battery: hostile programs against one kind of sandbox, judged from outside.

`run_battery("bubblewrap").succeeded` is empty when the sandbox holds. Nothing that a program says
about itself counts: the owner looks at its own files, sockets and processes, at the host, at the
next call and at other sandboxes. Docs: docs/sandboxes.md.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from .attacks import (
    archives,
    endurance,
    limits,
    network,
    nextcall,
    powers,
    reach,
    results,
    strays,
)
from .attacks.owner import Owner
from .attacks.scene import LIMITS, Attack, Scene, nothing
from .core import Sandbox, SandboxError

BATTERY: tuple[Attack, ...] = (
    *limits.ATTACKS,
    *endurance.ATTACKS,
    *reach.ATTACKS,
    *strays.ATTACKS,
    *network.ATTACKS,
    *powers.ATTACKS,
    *nextcall.ATTACKS,
    *results.ATTACKS,
    *archives.ATTACKS,
)

PROBES = (
    "private_file",
    "environment",
    "kill_the_owner",
    "write_by_path",
    "tcp",
    "abstract_socket",
    "unshare_user",
    "double_fork_survivor",
)
"""Quick and harmless ones: what `doctor` can prove in two seconds."""

PATIENCE = 15.0
"""Seconds after which an attempt has hung its owner."""


@dataclass(frozen=True, slots=True)
class Result:
    """One attempt. `error` is set when it could not be made or judged: then nothing is proven."""

    name: str
    theme: str
    succeeded: bool
    detail: str = ""
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a battery."""

    kind: str
    results: list[Result] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        return len(self.results)

    @property
    def succeeded(self) -> list[str]:
        return [result.name for result in self.results if result.succeeded]

    @property
    def errors(self) -> list[str]:
        return [result.name for result in self.results if result.error]

    @property
    def ok(self) -> bool:
        """Every attempt was made, and none succeeded."""
        return bool(self.results) and not self.succeeded and not self.errors


def run_battery(
    kind: str,
    only: Sequence[str] | None = None,
    progress: Callable[[Result], None] | None = None,
    *,
    opener: Callable[[], Sandbox] | None = None,
) -> Report:
    """Make every attempt (or those named in `only`), each in a sandbox of its own."""
    attacks = _chosen(only)
    open_ = opener or _opener(kind)
    report = Report(kind)
    with Owner() as owner:
        _see(owner, open_)
        for attack in attacks:
            result = _attempt(attack, owner, open_)
            report.results.append(result)
            if progress is not None:
                progress(result)
    return report


def probes(kind: str, *, opener: Callable[[], Sandbox] | None = None) -> Report:
    """A handful of quick attempts in one sandbox, cleared in between."""
    open_ = opener or _opener(kind)
    report = Report(kind)
    with Owner() as owner, open_() as sandbox:
        for attack in _chosen(PROBES):
            report.results.append(_attempt(attack, owner, open_, sandbox))
            sandbox.clear()
    return report


def _chosen(only: Sequence[str] | None) -> list[Attack]:
    names = [attack.name for attack in BATTERY]
    if unknown := sorted(set(only or ()) - set(names)):
        raise SandboxError(
            f"no attempt is called '{unknown[0]}'; there are {len(names)}: {', '.join(names)}"
        )
    return [attack for attack in BATTERY if only is None or attack.name in only]


def _opener(kind: str) -> Callable[[], Sandbox]:
    def open_() -> Sandbox:
        from . import open_sandbox

        with warnings.catch_warnings():
            # The weak kind warns; here that is its purpose.
            warnings.simplefilter("ignore")
            return open_sandbox(kind, LIMITS, allow_unisolated=True)

    return open_


_SIGHT = Attack("sight", "", "", nothing, 'print("here")\ntime.sleep(0.4)')


def _see(owner: Owner, open_: Callable[[], Sandbox]) -> None:
    """A battery whose owner cannot see the sandbox's processes would prove nothing."""
    with open_() as sandbox:
        scene = Scene(_SIGHT, owner, sandbox, open_)
        result = scene.strike()
        found = scene.aftermath()
        scene.close()
    if result.stdout != "here\n" or found:
        raise SandboxError(
            f"a harmless program does not run in this sandbox, so it cannot be attacked: "
            f"{found or result.culprit or result.stderr[-200:]}"
        )
    if not scene.peak.processes:
        raise SandboxError(
            "the owner cannot see the sandbox's processes in /proc; run the battery on the machine "
            "on which they run, outside of other containers"
        )


def _attempt(
    attack: Attack, owner: Owner, open_: Callable[[], Sandbox], sandbox: Sandbox | None = None
) -> Result:
    """Make one attempt in a thread of its own, because a hung owner is a success, not an end."""
    started = time.monotonic()
    box: list[str | BaseException] = []

    def body() -> None:
        try:
            box.append(_judged(attack, owner, open_, sandbox))
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=body, name=attack.name, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    found = box[0] if box else f"the owner hung for {PATIENCE:.0f} s"
    spent = time.monotonic() - started
    if isinstance(found, BaseException):
        error = f"{type(found).__name__}: {found}"
        return Result(attack.name, attack.theme, False, "", spent, error)
    return Result(attack.name, attack.theme, bool(found), found, spent)


def _judged(
    attack: Attack, owner: Owner, open_: Callable[[], Sandbox], given: Sandbox | None
) -> str:
    with ExitStack() as stack:
        sandbox = given or stack.enter_context(open_())
        scene = Scene(attack, owner, sandbox, open_)
        stack.callback(scene.close)
        owner.heard("")  # what earlier attempts sent
        result = attack.stage(scene) if attack.stage else scene.strike()
        found = [attack.judge(scene, result), scene.aftermath()]
    return "; ".join(filter(None, found))


def themes() -> dict[str, int]:
    """How many attempts there are of each theme."""
    return dict(Counter(attack.theme for attack in BATTERY))
