"""Attempts to gain what a program should not have: capabilities, mounts, keys, devices."""

from __future__ import annotations

import ctypes
from pathlib import Path

from ..core import ExecResult
from .scene import Attack, Judge, Scene, blind, holding, nothing

_ECHO = "the owner's secret, which a program can only have found there, is printed"


def _capable(scene: Scene, result: ExecResult) -> str:
    return "a process of it has capabilities" if scene.peak.capable else ""


def _root(scene: Scene, result: ExecResult) -> str:
    return "a process of it runs as the host's root" if scene.peak.root else ""


def _mounted(scene: Scene, result: ExecResult) -> str:
    here = False
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if scene.mark in line:  # it was no namespace of the program's own: clean up
            here = True
            ctypes.CDLL(None).umount2(line.split()[4].encode(), 2)
    return "it mounted a file system" if here or scene.peak.mounted else ""


_HARMLESS = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "pts")


def _device(scene: Scene, result: ExecResult) -> str:
    held = {each for each in scene.peak.handles if each.startswith("device ")}
    odd = sorted(each for each in held if each.split("/")[2:3][0] not in _HARMLESS)
    return f"it holds {odd[0]}" if odd else blind(scene)


def _ipc(table: str, remove: str) -> Judge:
    """A System V object with the attempt's number exists on the host after the call."""

    def judge(scene: Scene, result: ExecResult) -> str:
        number, found = str(int(scene.mark[2:9], 16)), ""
        for line in Path(f"/proc/sysvipc/{table}").read_text().splitlines()[1:]:
            if (words := line.split())[0] == number:
                found = "it is still there, on the host"
                getattr(ctypes.CDLL(None), remove)(int(words[1]), 0, None)
        return found

    return judge


def _by_handle(scene: Scene) -> ExecResult:
    """Hand the program the handle of the owner's file, which it would otherwise have to guess."""
    room = ctypes.create_string_buffer(136)
    ctypes.c_uint32.from_buffer(room).value = 128
    path = str(scene.owner.folder / "gold").encode()
    ctypes.CDLL(None).name_to_handle_at(-100, path, room, ctypes.byref(ctypes.c_int()), 0)
    return scene.strike(f"HANDLE = {room.raw!r}\n{scene.attack.program}")


def _key_left(scene: Scene, result: ExecResult) -> str:
    """A key that the program stored is found by another sandbox."""
    text = scene.source(_FIND_KEY.replace("ABSTRACT", "MARK"))
    for other in (scene.sandbox, scene.sibling()):
        if f"payload-{scene.mark}" in other.run(python=text).stdout:
            return "the next call finds the key"
    return ""


_FIND_KEY = """
import ctypes
room = ctypes.create_string_buffer(100)
for keyring in (-3, -4, -5):
    key = kernel("keyctl", 10, keyring, b"user", ABSTRACT.encode(), 0)
    if key > 0 and kernel("keyctl", 11, key, room, 100) > 0: print(room.value)
key = kernel("request_key", b"user", ABSTRACT.encode(), None, 0)
if key > 0 and kernel("keyctl", 11, key, room, 100) > 0: print(room.value)
"""


_CLONED = """
pid = {call}
if pid == 0:
    attempt(mark); time.sleep(0.4); os._exit(0)
time.sleep(0.4)
"""


ATTACKS = (
    Attack(
        "capabilities",
        "privileges",
        "a process of the program has capabilities, as the host sees it",
        _capable,
        """
attempt(os.setuid, 0); attempt(os.setgid, 0); attempt(os.setgroups, [0])
library().prctl(8, 1, 0, 0, 0)
time.sleep(0.3)
""",
    ),
    Attack(
        "unshare_user",
        "privileges",
        "a process gains capabilities in a user namespace of its own",
        _capable,
        'kernel("unshare", 0x10000000)\ntime.sleep(0.3)',
    ),
    Attack(
        "clone_into_namespace",
        "privileges",
        "a process gains capabilities in a user namespace of its own, made by clone",
        _capable,
        _CLONED.format(call='kernel("clone", 0x10000000 | 17, 0, 0, 0, 0)'),
    ),
    Attack(
        "clone3_into_namespace",
        "privileges",
        "a process gains capabilities in a user namespace of its own, made by clone3",
        _capable,
        "import ctypes, struct\n"
        'room = ctypes.create_string_buffer(struct.pack("8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0))\n'
        + _CLONED.format(call='kernel("clone3", room, 64)'),
    ),
    Attack(
        "unshare_all",
        "privileges",
        "a process gains capabilities by one of the other namespaces",
        _capable,
        """
for flag in (0x20000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80):
    kernel("unshare", flag | 0x10000000)
time.sleep(0.3)
""",
    ),
    Attack(
        "setuid_programs",
        "privileges",
        "a process of the program runs as the host's root",
        _root,
        """
import glob, stat, subprocess
for place in ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/lib/openssh"):
    for path in glob.glob(f"{place}/*"):
        try:
            if not os.stat(path).st_mode & stat.S_ISUID: continue
            name = f"{len(os.listdir())}"
            os.mkdir(name); os.symlink(path, f"{name}/{MARK}")
            subprocess.Popen([f"{name}/{MARK}"], stdin=subprocess.PIPE)
        except OSError as error: print(error)
        if len(os.listdir()) > 8: break
time.sleep(0.4)
""",
    ),
    Attack(
        "setuid_file_made",
        "privileges",
        "a program that the attempt marked as its owner's runs as the host's root",
        _root,
        """
import shutil, subprocess
shutil.copy("/bin/sleep", MARK); attempt(os.chown, MARK, 0, 0); attempt(os.chmod, MARK, 0o6755)
attempt(lambda: subprocess.run([f"./{MARK}", "0.4"]))
""",
    ),
    Attack(
        "mount",
        "privileges",
        "a file system of the program's own is mounted",
        _mounted,
        """
os.mkdir(MARK)
kernel("mount", b"none", MARK.encode(), b"tmpfs", 0, None)
kernel("mount", b"/", MARK.encode(), None, 4096, None)
time.sleep(0.3)
""",
        deep=True,
    ),
    Attack(
        "mount_in_namespace",
        "privileges",
        "a file system of the program's own is mounted in a namespace that it made",
        _mounted,
        """
os.mkdir(MARK)
kernel("unshare", 0x10000000 | 0x20000)
kernel("mount", b"none", MARK.encode(), b"tmpfs", 0, None)
time.sleep(0.3)
""",
        deep=True,
    ),
    Attack(
        "mount_by_new_calls",
        "privileges",
        "a file system is mounted by fsopen and move_mount",
        _mounted,
        """
os.mkdir(MARK)
system = kernel("fsopen", b"tmpfs", 0)
if system >= 0:
    kernel("fsconfig", system, 6, None, None, 0)
    kernel("move_mount", kernel("fsmount", system, 0, 0), b"", -100, MARK.encode(), 4)
time.sleep(0.3)
""",
        deep=True,
    ),
    Attack(
        "chroot_escape",
        "privileges",
        _ECHO,
        nothing,
        """
os.mkdir("cell"); attempt(os.chroot, "cell")
for _ in range(30): os.chdir("..")
attempt(os.chroot, ".")
attempt(show, f"{FOLDER}/gold"[1:])
""",
    ),
    Attack(
        "open_by_handle",
        "privileges",
        _ECHO,
        nothing,
        """
import ctypes
for place in (".", "/", "/usr", "/tmp", "/etc/hostname", "/etc/resolv.conf", "/etc/hosts"):
    where = attempt(os.open, place, os.O_RDONLY)
    if where is None: continue
    file = kernel("open_by_handle_at", where, ctypes.create_string_buffer(HANDLE), 0)
    if file >= 0: print(os.read(file, 4096)); break
""",
        stage=_by_handle,
    ),
    Attack(
        "keyring_of_the_owner",
        "privileges",
        "the secret in the owner's keyring is printed",
        nothing,
        _FIND_KEY,
    ),
    Attack(
        "keyring_left_behind",
        "privileges",
        "a key that the program stored is found by the next call or by another sandbox",
        _key_left,
        """
import time
payload = f"payload-{MARK}".encode()
for keyring in (-4, -5): kernel("add_key", b"user", MARK.encode(), payload, len(payload), keyring)
""",
    ),
    *(
        Attack(
            name,
            "privileges",
            f"the host sees a process of the program with the handle '{handle}'",
            holding(handle),
            f"import ctypes, struct\n{program}\ntime.sleep(0.3)",
            deep=True,
        )
        for name, handle, program in (
            (
                "io_uring",
                "[io_uring]",
                'kernel("io_uring_setup", 4, ctypes.create_string_buffer(120))',
            ),
            (
                "bpf",
                "bpf-map",
                'room = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 8, 1) + bytes(56))\n'
                'kernel("bpf", 0, room, 72)',
            ),
            ("userfaultfd", "[userfaultfd]", 'kernel("userfaultfd", 1); kernel("userfaultfd", 0)'),
            (
                "perf_event",
                "[perf_event]",
                'data = struct.pack("IIQQQQQ", 1, 112, 0, 0, 0, 0, 0x61) + bytes(64)\n'
                "room = ctypes.create_string_buffer(data)\n"
                'kernel("perf_event_open", room, 0, -1, -1, 0)',
            ),
        )
    ),
    Attack(
        "block_device",
        "devices",
        "the host sees a process of the program with a disk open",
        _device,
        """
import glob
attempt(os.mknod, "disk", 0o60600, HOST_DEVICE)
paths = ["disk", *glob.glob("/dev/[vs]d*"), *glob.glob("/dev/nvme*"), *glob.glob("/dev/dm-*")]
kept = [attempt(os.open, path, os.O_RDONLY) for path in paths]
time.sleep(0.3)
""",
        deep=True,
    ),
    Attack(
        "special_devices",
        "devices",
        "the host sees a process of the program with a device open that is none of the harmless",
        _device,
        """
names = "kmsg mem port kvm fuse net/tun loop-control vsock vhost-net userfaultfd mapper/control"
kept = [attempt(os.open, f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK) for name in names.split()]
time.sleep(0.3)
""",
        deep=True,
    ),
    Attack(
        "terminal_of_the_owner",
        "devices",
        "the owner receives the mark at its terminal",
        nothing,
        "attempt(lambda: os.write(os.open(TERMINAL, os.O_WRONLY | os.O_NOCTTY), MARK.encode()))",
    ),
    Attack(
        "shared_memory_left",
        "devices",
        "a file in /dev/shm stands on the host, or is found by the next call",
        lambda scene, result: (
            "the next call finds it"
            if scene.mark in scene.honest("import os; print(os.listdir('/dev/shm'))")
            else ""
        ),
        'attempt(lambda: open(f"/dev/shm/{MARK}", "w").write(MARK))',
    ),
    Attack(
        "segment_left",
        "devices",
        "a System V segment of shared memory exists on the host after the call",
        _ipc("shm", "shmctl"),
        'kernel("shmget", int(MARK[2:9], 16), 4096, 0o1666)',
    ),
    Attack(
        "queue_left",
        "devices",
        "a System V message queue exists on the host after the call",
        _ipc("msg", "msgctl"),
        'kernel("msgget", int(MARK[2:9], 16), 0o1666)',
    ),
)
