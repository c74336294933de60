"""Attempts to reach the owner's secrets and the owner's processes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..core import ExecResult
from .scene import Attack, Scene, nothing

_ECHO = "the owner's secret, which a program can only have found there, is printed"


def _same_bytes(scene: Scene, result: ExecResult) -> str:
    """The program printed the digest of the host's own list of passwords."""
    try:
        digest = hashlib.sha256(Path("/etc/shadow").read_bytes()).hexdigest()
    except OSError:  # the owner may not read it either: then neither may what it starts
        return ""
    return "it read the host's /etc/shadow" if digest in result.stdout else ""


def _traced(scene: Scene, result: ExecResult) -> str:
    return "it stopped or traced a process that is not its own" if scene.peak.tracing else ""


ATTACKS = (
    Attack(
        "host_shadow",
        "reading",
        "the digest of the host's /etc/shadow is printed",
        _same_bytes,
        """
import hashlib
for path in ("/etc/shadow", "/proc/1/root/etc/shadow", f"/proc/{OWNER}/root/etc/shadow"):
    attempt(lambda: print(hashlib.sha256(open(path, "rb").read()).hexdigest()))
""",
    ),
    Attack(
        "private_file",
        "reading",
        _ECHO,
        nothing,
        'attempt(show, f"{FOLDER}/private")',
    ),
    Attack(
        "gold_file",
        "reading",
        "a gold that the harness holds in a file which everybody may read is printed",
        nothing,
        """
for base in ("", "/host", "/oldroot", "/.old", "/newroot", "/mnt"):
    attempt(show, f"{base}{FOLDER}/gold")
""",
    ),
    Attack(
        "gold_by_dots",
        "reading",
        _ECHO,
        nothing,
        """
for start in (".", "/proc/self/cwd", "/dev/fd", "/tmp"):
    attempt(show, start + "/.." * 20 + f"{FOLDER}/gold")
""",
    ),
    Attack(
        "root_of_others",
        "reading",
        _ECHO,
        nothing,
        """
for pid in [OWNER, DECOY, 1, os.getppid(), "self"]:
    for way in ("root", f"root/proc/{OWNER}/root", "cwd" + "/.." * 12):
        attempt(show, f"/proc/{pid}/{way}{FOLDER}/gold")
""",
    ),
    Attack(
        "environment",
        "reading",
        "a secret of the owner's environment is printed",
        nothing,
        'print(dict(os.environ))\nos.system("env; set")',
    ),
    Attack(
        "environment_of_others",
        "reading",
        _ECHO,
        nothing,
        'for pid in [OWNER, DECOY, *pids()]: attempt(show, f"/proc/{pid}/environ")',
    ),
    Attack(
        "arguments_of_others",
        "reading",
        "the arguments of the owner's process are printed",
        nothing,
        'for pid in [DECOY, *pids()]: attempt(show, f"/proc/{pid}/cmdline")',
    ),
    Attack(
        "memory_of_others",
        "reading",
        "a string that stands only in the memory of the owner's process is printed",
        nothing,
        """
def peek():
    with open(f"/proc/{DECOY}/mem", "rb", 0) as file: file.seek(ROOM); print(file.read(64))
attempt(peek)
""",
    ),
    Attack(
        "process_vm_readv",
        "reading",
        "a string that stands only in the memory of the owner's process is printed",
        nothing,
        """
import ctypes, struct
room = ctypes.create_string_buffer(64)
mine = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(room), 64))
theirs = ctypes.create_string_buffer(struct.pack("QQ", ROOM, 64))
kernel("process_vm_readv", DECOY, mine, 1, theirs, 1, 0)
print(room.raw)
""",
    ),
    Attack(
        "inherited_files",
        "reading",
        "a file that the owner has open is printed through an inherited descriptor",
        nothing,
        """
for file in range(3, 256):
    try: print(os.pread(file, 4096, 0))
    except OSError: pass
""",
    ),
    Attack(
        "inherited_folders",
        "reading",
        "the owner's file is printed by way of a folder that the owner has open",
        nothing,
        """
for file in range(3, 256):
    for path in ("private", "gold", "../" * 12 + FOLDER[1:] + "/gold"):
        try: print(os.read(os.open(path, os.O_RDONLY, dir_fd=file), 4096))
        except OSError: pass
""",
    ),
    Attack(
        "inherited_sockets",
        "reading",
        "the other end of a socket pair of the owner's receives the attempt's mark",
        nothing,
        """
import stat
for file in range(3, 256):
    try:
        if APART or stat.S_ISSOCK(os.fstat(file).st_mode): os.write(file, MARK.encode())
    except OSError: pass
""",
    ),
    Attack(
        "descriptors_of_others",
        "reading",
        _ECHO,
        nothing,
        """
for pid in (OWNER, DECOY, 1, os.getppid()):
    for file in range(3, 64 if APART or pid == OWNER else 3):
        path = f"/proc/{pid}/fd/{file}"
        try:
            if os.path.isfile(path): show(path)
        except OSError: pass
""",
    ),
    Attack(
        "output_of_others",
        "reading",
        "the owner receives the mark on the standard output of its own process",
        nothing,
        'attempt(lambda: os.write(os.open(f"/proc/{DECOY}/fd/1", os.O_WRONLY), MARK.encode()))',
    ),
    Attack(
        "kill_the_owner",
        "processes of others",
        "the owner's process ends",
        nothing,
        """
attempt(os.kill, DECOY, signal.SIGKILL)
if APART:
    for pid in range(2, 400):
        if pid != os.getpid():
            try: os.kill(pid, signal.SIGKILL)
            except OSError: pass
    attempt(os.kill, -1, signal.SIGKILL)
time.sleep(0.1)
""",
    ),
    Attack(
        "stop_the_owner",
        "processes of others",
        "the owner's process is stopped",
        _traced,
        "attempt(os.kill, DECOY, signal.SIGSTOP)\ntime.sleep(0.2)",
    ),
    Attack(
        "kill_the_worker",
        "processes of others",
        "the sandbox takes the blame, or the next call is harmed, after it killed what started it",
        nothing,
        """
if APART:
    attempt(os.kill, os.getppid(), signal.SIGKILL); attempt(os.kill, 1, signal.SIGKILL)
    attempt(os.killpg, 0, signal.SIGKILL)
""",
    ),
    Attack(
        "stop_the_worker",
        "processes of others",
        "the call lasts, or the next one is harmed, after the program stopped what started it",
        nothing,
        "if APART: attempt(os.kill, os.getppid(), signal.SIGSTOP)\ntime.sleep(0.2)",
        timeout=1,
    ),
    Attack(
        "ptrace_the_owner",
        "processes of others",
        "the owner's process is traced",
        _traced,
        "kernel('ptrace', 16, DECOY, 0, 0)\ntime.sleep(0.3)",
    ),
    Attack(
        "ptrace_the_worker",
        "processes of others",
        "the program traces the process that started it",
        _traced,
        "kernel('ptrace', 0x4206, os.getppid() if APART else DECOY, 0, 0)\ntime.sleep(0.3)",
        timeout=1,
    ),
    Attack(
        "renice_the_owner",
        "processes of others",
        "the owner's process runs at another priority",
        lambda scene, result: (
            "its priority was changed" if os.getpriority(0, scene.owner.decoy.pid) > 10 else ""
        ),
        "attempt(os.setpriority, 0, DECOY, 19)",
    ),
)
