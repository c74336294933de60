"""Attempts to use more than the limits allow: processes, memory, disk.

Each is bounded by itself, so that it does no harm where nothing stops it: 200 processes for some
seconds, 512 MiB of memory, 40 MiB of files.
"""

from __future__ import annotations

import os
import tempfile
import time

from ..core import MIB, ExecResult
from .host import Peak, look, memory, survivors
from .scene import Attack, Scene, crowd, filling, hungry, nothing

_HOLD = "time.sleep(0.5)"


_BLOCK = 'data = b"x" * (1 << 20)\n'


def _inodes(scene: Scene) -> ExecResult:
    before = os.statvfs(tempfile.gettempdir()).f_ffree
    result = scene.strike()
    lost = before - os.statvfs(tempfile.gettempdir()).f_ffree
    if lost > 20_000:
        scene.notes.append(f"the host lost {lost} inodes")
    return result


def _sparse(scene: Scene, result: ExecResult) -> str:
    """The owner takes a snapshot of 360 MiB of holes: it must be refused, or stay small."""
    before, started = memory(), time.monotonic()
    try:
        size = len(scene.sandbox.snapshot())
    except Exception as error:
        return "" if _in_words(error) else f"the snapshot raised {error!r}"
    grown, spent = memory() - before, time.monotonic() - started
    if size > 4 * scene.sandbox.limits.disk or grown > 192 * MIB or spent > 5:
        return f"the snapshot has {size >> 20} MiB, took {grown >> 20} MiB and {spent:.1f} s"
    return ""


def _in_words(error: Exception) -> bool:
    from ...core import PalaestraError

    return isinstance(error, PalaestraError)


def _after_close(scene: Scene, result: ExecResult) -> str:
    """What the sandbox itself leaves when it is closed at its worst moment."""
    scene.calm = False
    started = time.monotonic()
    scene.sandbox.close()
    spent, peak = time.monotonic() - started, Peak()
    look(scene.mark, peak, deep=False)
    if spent > 5:
        return f"closing took {spent:.1f} s"
    return "processes outlived the sandbox" if survivors(scene.mark) else ""


ATTACKS = (
    Attack(
        "fork_bomb",
        "processes",
        "the host runs more of the program's processes than the limit allows",
        crowd,
        """
for _ in range(200):
    if attempt(os.fork) == 0: time.sleep(1.5); os._exit(0)
time.sleep(0.7)
""",
        timeout=1.5,
    ),
    Attack(
        "fork_bomb_doubling",
        "processes",
        "the host runs more of the program's processes than the limit allows",
        crowd,
        """
for _ in range(8): attempt(os.fork)
time.sleep(0.7)
""",
        timeout=1.5,
    ),
    Attack(
        "thread_bomb",
        "processes",
        "the host runs more of the program's threads than the limit allows",
        crowd,
        """
import threading
threading.stack_size(65536)
for _ in range(200):
    try: threading.Thread(target=time.sleep, args=(0.7,), daemon=True).start()
    except RuntimeError: break
time.sleep(0.5)
os._exit(0)
""",
    ),
    Attack(
        "fork_bomb_then_close",
        "processes",
        "closing the sandbox after a fork bomb takes long, or leaves processes",
        _after_close,
        """
for _ in range(100):
    if attempt(os.fork) == 0:
        os.setsid()
        for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
        time.sleep(5)
        os._exit(0)
""",
    ),
    Attack(
        "memory_bomb",
        "memory",
        "one process has more than 1.5 times the memory limit",
        hungry,
        f"room = []\nfor _ in range(32): room.append(b'x' * (16 << 20))\n{_HOLD}",
    ),
    Attack(
        "memory_by_children",
        "memory",
        "several small processes together have more than 1.5 times the memory limit",
        hungry,
        """
def eat(): room = b"x" * (80 << 20); time.sleep(0.7)
for _ in range(5): attempt(child, eat)
time.sleep(0.9)
""",
    ),
    Attack(
        "memory_shared_mapping",
        "memory",
        "a shared mapping has more than 1.5 times the memory limit",
        hungry,
        """
import mmap
def eat():
    room = mmap.mmap(-1, 64 << 20)
    for _ in range(64): room.write(b"x" * (1 << 20))
    time.sleep(0.8)
for _ in range(7): attempt(child, eat)
time.sleep(1)
""",
    ),
    Attack(
        "memory_in_memfd",
        "memory",
        "files without a name (memfd) hold more than 1.5 times the memory limit",
        hungry,
        _BLOCK
        + f"""
for _ in range(64):
    file = attempt(os.memfd_create, MARK)
    if file is None: break
    for _ in range(7): attempt(os.write, file, data)
{_HOLD}
""",
        deep=True,
    ),
    Attack(
        "memory_in_dev_shm",
        "memory",
        "files in /dev/shm hold more than 1.5 times the memory limit, or stay on the host",
        hungry,
        _BLOCK
        + f"""
try:
    for number in range(40):
        with open(f"/dev/shm/{{MARK}}{{number}}", "wb") as file:
            for _ in range(7): file.write(data)
except OSError as error: print(error)
{_HOLD}
""",
        deep=True,
    ),
    Attack(
        "raised_limits",
        "memory",
        "the program raises its own limits and then has more than 1.5 times the memory limit",
        hungry,
        f"""
import resource
for number in range(16):
    for value in (resource.RLIM_INFINITY, resource.getrlimit(number)[1]):
        try: resource.setrlimit(number, (value, value))
        except (OSError, ValueError): continue
        break
room = [b"x" * (16 << 20) for _ in range(24)]
{_HOLD}
""",
    ),
    Attack(
        "disk_fill",
        "disk",
        "the work folder holds more than 1.5 times the disk limit",
        filling,
        _BLOCK
        + """
for number in range(40):
    with open(f"{MARK}{number}", "wb") as file: file.write(data)
""",
    ),
    Attack(
        "disk_fill_tmp",
        "disk",
        "/tmp holds more than 1.5 times the disk limit, or the files stand on the host",
        filling,
        _BLOCK
        + f"""
try:
    for number in range(40):
        with open(f"/tmp/{{MARK}}{{number}}", "wb") as file: file.write(data)
except OSError as error: print(error)
{_HOLD}
""",
        deep=True,
    ),
    Attack(
        "disk_fill_deleted",
        "disk",
        "files without a name, deleted while open, hold more than 1.5 times the disk limit",
        filling,
        _BLOCK
        + """
kept = []
for number in range(40):
    kept.append(open("gone", "wb", 0))
    os.unlink("gone")
    attempt(kept[-1].write, data)
time.sleep(0.4)
""",
        deep=True,
    ),
    Attack(
        "file_too_large",
        "disk",
        "one file is larger than 1.5 times the disk limit",
        filling,
        _BLOCK + 'file = open(MARK, "wb")\nfor _ in range(40): file.write(data)',
    ),
    Attack(
        "inode_fill",
        "disk",
        "the host's file system loses more than 20,000 inodes, or the next call is harmed",
        nothing,
        """
os.mkdir("many")
for number in range(24_000): os.close(os.open(f"many/{number}", os.O_CREAT | os.O_WRONLY))
""",
        stage=_inodes,
    ),
    Attack(
        "sparse_files",
        "disk",
        "the owner's snapshot of 360 MiB of holes costs it 192 MiB or 5 s",
        _sparse,
        """
for number in range(60):
    with open(f"hole{number}", "wb") as file: attempt(file.truncate, 6 << 20)
""",
    ),
)
