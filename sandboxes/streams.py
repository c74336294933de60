"""What goes into a program and comes out of it, and the sessions that are kept.

Runs inside the isolation: standard library only, no import of the package.
"""

from __future__ import annotations

import os
import select
import time

PIECE = 1 << 16
ABSURD = 64 << 20
"""Bytes of output at which a program is ended: nobody reads what was cut."""


class Session:
    """A shell or an interpreter that is kept; `status` once somebody waited for it."""

    def __init__(self, kind: str, pid: int, fds: tuple[int, int, int, int]):
        self.shell, self.pid = kind == "shell", pid
        self.out, self.err, self.inputs, self.results = fds
        self.handle = os.pidfd_open(pid)
        self.status: int | None = None
        os.set_blocking(self.inputs, False)
        os.set_blocking(self.results, False)

    def said(self) -> bytes:
        """What it says of the last input; b"" when it said nothing."""
        try:
            return os.read(self.results, 64)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        for fd in (self.out, self.err, self.inputs, self.results, self.handle):
            os.close(fd)


class Output:
    """One stream of a program: the first bytes are kept, the rest is counted."""

    def __init__(self, fd: int, cap: int):
        self.fd, self.cap = fd, cap
        self.kept: list[bytes] = []
        self.size = self.total = 0
        self.open = True
        os.set_blocking(fd, False)

    def take(self) -> bool:
        """Read once; False when nothing is there (now, or ever: then `open` is False)."""
        try:
            piece = os.read(self.fd, PIECE)
        except BlockingIOError:
            return False
        self.open = bool(piece)
        self.total += len(piece)
        room = self.cap - self.size
        if room > 0 and piece:
            self.kept.append(piece[:room])
            self.size += len(self.kept[-1])
        return self.open

    def drain(self) -> None:
        while self.total < 2 * ABSURD and self.take():
            pass


def in_memory(data: bytes) -> int:
    """A file that holds a program's standard input, and has no name."""
    fd = os.memfd_create("stdin")
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def hand_over(session: Session, text: bytes, deadline: float) -> bool:
    """Write an input to a session; False when it does not take it in time."""
    poll = select.poll()
    poll.register(session.inputs, select.POLLOUT)
    rest = memoryview(text)
    while rest:
        try:
            rest = rest[os.write(session.inputs, rest) :]
        except BlockingIOError:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000 + 1):
                return False
        except BrokenPipeError:
            return True  # it ended meanwhile: the caller sees that
    return True
