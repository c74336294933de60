"""Limits that the kernel keeps for a whole sandbox at once: memory and processes, by cgroup.

Version 1 and 2, where this process may make one: as root nearly always, as an ordinary user where
systemd (or somebody) delegated a subtree. Where there is none, rlimits hold for each process and
the worker's own counting, ten times a second, for their sum; `Cgroup.force` says what is in force.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .reaper import PREFIX, mark

CONTROLLERS = ("memory", "pids")
REMOVE_SECONDS = 2.0
_serial = itertools.count()


class Cgroup:
    """A group of processes with a cap on their memory and number; perhaps of no controller."""

    def __init__(self, memory: int, processes: int):
        self.folders: dict[str, Path] = {}
        name = f"{PREFIX}{mark()}-{next(_serial)}"
        for controller in CONTROLLERS:
            for place in places(controller):
                folder = place / name
                try:
                    folder.mkdir(exist_ok=True)
                    _limit(folder, controller, memory, processes)
                except OSError:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                    continue
                self.folders[controller] = folder
                break

    @property
    def force(self) -> tuple[str, ...]:
        return tuple(f"cgroup {controller}" for controller in self.folders)

    def add(self, pid: int) -> None:
        """Put a process in, before it starts others. One that does not get in has no such limit."""
        for controller, folder in list(self.folders.items()):
            try:
                (folder / "cgroup.procs").write_text(str(pid))
            except OSError:
                del self.folders[controller]
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def oom_kills(self) -> int:
        """How many processes the kernel killed in here for want of memory."""
        if folder := self.folders.get("memory"):
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    for line in (folder / name).read_text().splitlines():
                        key, _, value = line.partition(" ")
                        if key == "oom_kill":
                            return int(value)
        return 0

    def remove(self) -> None:
        """Give it back. The kernel needs a moment after the last process."""
        deadline = time.monotonic() + REMOVE_SECONDS
        for folder in set(self.folders.values()):
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.002)
        self.folders = {}


def _limit(folder: Path, controller: str, memory: int, processes: int) -> None:
    if controller == "pids":
        (folder / "pids.max").write_text(str(processes))
    elif (folder / "memory.max").exists():
        (folder / "memory.max").write_text(str(memory))
        with contextlib.suppress(OSError):
            (folder / "memory.swap.max").write_text("0")
    else:
        (folder / "memory.limit_in_bytes").write_text(str(memory))
        with contextlib.suppress(OSError):  # memory and swap together; absent without swap
            (folder / "memory.memsw.limit_in_bytes").write_text(str(memory))


@functools.cache
def places(controller: str) -> tuple[Path, ...]:
    """Cgroups that may get a child with this controller, the nearest to this process first."""
    return tuple(_places(controller))


def _places(controller: str) -> Iterator[Path]:
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        own = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    paths = {names: path for _, names, path in (line.split(":", 2) for line in own)}
    for line in mounts:
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup" and controller in options.split(","):
            path = next((p for n, p in paths.items() if controller in n.split(",")), "/")
            for place in _upwards(Path(point), path):
                if os.access(place, os.W_OK):
                    yield place
        elif kind == "cgroup2":
            for place in _upwards(Path(point), paths.get("", "/")):
                if os.access(place, os.W_OK) and _delegates(place, controller):
                    yield place


def _upwards(top: Path, path: str) -> Iterator[Path]:
    place = top / path.lstrip("/")
    for folder in (place, *place.parents):
        if folder.is_relative_to(top) and folder.is_dir():
            yield folder


def _delegates(place: Path, controller: str) -> bool:
    """Whether children of this cgroup (version 2) get the controller; asks for it if it must."""
    with contextlib.suppress(OSError):
        switch = place / "cgroup.subtree_control"
        if controller in switch.read_text().split():
            return True
        # Refused where processes are in the group itself, except at the very top.
        switch.write_text(f"+{controller}")
        return controller in switch.read_text().split()
    return False
