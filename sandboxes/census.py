"""The processes below the worker: who they are, what they use, and their end.

Runs inside the isolation: standard library only, no import of the package.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Collection
from typing import Any

SWEEP_SECONDS = 5.0
CLOCK = os.sysconf("SC_CLK_TCK")
FILES_PER_MIB = 256
"""How many files and folders each MiB of disk may hold; a file without bytes takes memory too."""


class Wedged(Exception):
    """Processes of the last call would not die."""


class Census:
    """`alone`: nothing else lives in this pid namespace, so that all may be killed at once."""

    def __init__(self, settings: dict[str, Any]):
        self.limits: dict[str, Any] = settings["limits"]
        self.alone: bool = settings["alone"]
        self.folders: list[str] = [settings["work"], *settings["temps"]]
        self.me = os.getpid()
        self.files = max(1024, int(self.limits["disk"]) * FILES_PER_MIB >> 20)

    def living(self) -> dict[int, tuple[int, float]]:
        """The descendants of the worker: pid -> parent, CPU seconds (with those it waited for).

        Zombies are among them: they count until somebody waits for them.
        """
        found: dict[int, tuple[int, float]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                    # The name in brackets is the program's choice and may hold brackets.
                    rest = file.read().rpartition(b")")[2].split()
                    found[int(name)] = (int(rest[1]), sum(map(int, rest[11:15])) / CLOCK)
        return {pid: what for pid, what in found.items() if self._below(pid, found, {self.me})}

    @staticmethod
    def _below(pid: int, table: dict[int, tuple[int, float]], tops: Collection[int]) -> bool:
        for _ in range(len(table)):
            if pid not in table:
                return False
            pid = table[pid][0]
            if pid in tops:
                return True
        return False

    def cpu(self, quick: bool) -> float:
        """CPU seconds used so far by all that the worker started. `quick`: nothing is living."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = usage.ru_utime + usage.ru_stime
        return ended if quick else ended + sum(cpu for _, cpu in self.living().values())

    def excess(self, cpu_before: float) -> tuple[str, int]:
        """What the program is to be killed for, or "", and the memory in use."""
        living = self.living()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = usage.ru_utime + usage.ru_stime + sum(cpu for _, cpu in living.values())
        memory = sum(map(_own_memory, living))
        if memory > self.limits["memory"]:  # forked processes share pages: now count exactly
            memory = sum(map(_fair_memory, living))
        if cpu - cpu_before > self.limits["cpu"]:
            return "cpu", memory
        if memory > self.limits["memory"]:
            return "memory", memory
        # Where the kernel counts, fork() fails before this.
        if len(living) > self.limits["processes"] + 1:
            return "self", memory
        return ("disk" if self.overfull() else ""), memory

    def overfull(self) -> bool:
        """Whether there are more files, or without a file system of our own bytes, than allowed."""
        if not self.alone:
            disk = int(self.limits["disk"])
            return _bytes_in(self.folders, disk) > disk
        used = 0
        for path in self.folders:
            about = os.statvfs(path)
            used += about.f_files - about.f_ffree
        return used > self.files

    def full(self) -> bool:
        """Whether one of our file systems has nothing left. A host's own disk is not ours."""
        if not self.alone:
            return False
        for path in self.folders:
            about = os.statvfs(path)
            if about.f_bavail == 0 or about.f_ffree == 0:
                return True
        return False

    def sweep(self, kept: dict[int, Any]) -> None:
        """Kill all but the trees of `kept` (pid -> session), until the kernel has none left."""
        deadline = time.monotonic() + SWEEP_SECONDS
        pause = 0.0001
        while True:
            if self.alone and not kept:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
                if self._reap(kept):
                    return
            else:
                self._reap(kept)
                living = self.living()
                doomed = [
                    pid
                    for pid in living
                    if pid not in kept and not self._below(pid, living, kept.keys())
                ]
                if not doomed:
                    return
                for pid in doomed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._reap(kept)
            if time.monotonic() > deadline:
                raise Wedged("processes of the last call would not die")
            time.sleep(pause)
            pause = min(pause * 2, 0.01)

    @staticmethod
    def _reap(kept: dict[int, Any]) -> bool:
        """Wait for what ended; True when there is no child left at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid in kept:
                kept[pid].status = status


def _own_memory(pid: int) -> int:
    """A process's memory that is not a file's; what several share counts for each of them."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    wanted = (b"RssAnon:", b"RssShmem:")
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(wanted))


def _fair_memory(pid: int) -> int:
    """A process's share of the memory that is not a file's."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    wanted = (b"Pss_Anon:", b"Pss_Shmem:")
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(wanted))


def _bytes_in(folders: list[str], cap: int) -> int:
    total = 0
    waiting = list(folders)
    while waiting and total <= cap:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512 + 256
    return total
