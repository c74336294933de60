"""Attempts to write outside the work folder, and to get at other sandboxes."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

from ..core import MIB, ExecResult, SandboxError
from .host import marked
from .scene import Attack, Judge, Scene, nothing

_WRITTEN = "a file of the owner's is changed, or a new one stands on the host"


def _setuid_left(scene: Scene, result: ExecResult) -> str:
    for folder, folders, files in os.walk(tempfile.gettempdir()):
        if folder.count("/") > 5:
            folders.clear()
        if scene.mark in files:
            path = Path(folder, scene.mark)
            seen = path.lstat()
            if seen.st_mode & 0o4000 and seen.st_uid in (0, os.getuid()):
                return f"'{path}' runs as user {seen.st_uid}, whoever starts it"
    return ""


def _read_back(*names: str) -> Judge:
    """The owner reads the program's "answer": it must not be a file of the owner's own."""

    def judge(scene: Scene, result: ExecResult) -> str:
        for name in names:
            started = time.monotonic()
            with contextlib.suppress(SandboxError, FileNotFoundError):
                data = scene.sandbox.read(name, 4 * MIB)
                if scene.owner.secret.encode() in data:
                    return f"reading '{name}' gave the owner's own secret"
                if len(data) >= 4 * MIB:
                    return f"reading '{name}' never ended"
            if time.monotonic() - started > 2:
                return f"reading '{name}' hung"
        if scene.owner.secret.encode() in scene.sandbox.snapshot():
            return "the owner's secret is in the snapshot"
        return ""

    return judge


def _write_back(*names: str) -> Judge:
    """The owner writes where the program left a link; `Scene.aftermath` looks at the host."""

    def judge(scene: Scene, result: ExecResult) -> str:
        for name in names:
            with contextlib.suppress(SandboxError):
                scene.sandbox.write(name, "written by the owner")
        return ""

    return judge


def _flipping(scene: Scene) -> ExecResult:
    """While a background job swaps a folder for a link, the owner reads from it again and again."""
    scene.sandbox.write("flip.py", scene.source(scene.attack.program))
    with scene.sandbox.shell() as shell:
        result = scene.watched(
            lambda: shell.run("python3 flip.py >/dev/null 2>&1 & sleep 0.3", timeout=2), 2
        )
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            with contextlib.suppress(SandboxError, OSError):
                if scene.owner.secret.encode() in scene.sandbox.read("folder/gold"):
                    scene.notes.append("reading 'folder/gold' gave the owner's own secret")
                    break
            with contextlib.suppress(SandboxError, OSError):
                scene.sandbox.write("folder/made", "written by the owner")
    return result


def _sibling_file(scene: Scene) -> ExecResult:
    """The secret lies in a sibling's work folder, and a process of the sibling stands in it."""
    sibling = scene.sibling()
    sibling.write("sibling.txt", scene.owner.secret)
    with sibling.shell() as shell:
        shell.run("sleep 20 >/dev/null 2>&1 &", timeout=2)
        return scene.strike()


def _sibling_process(scene: Scene) -> ExecResult:
    """A process of a sibling listens; the program is told its number on the host."""
    sibling = scene.sibling()
    other = f"{scene.mark[:-2]}zz"
    text = scene.source(
        "peer = socket.socket(socket.AF_UNIX); peer.bind('\\0' + MARK); peer.listen()\n"
        f"while True: peer.accept()[0].sendall({scene.owner.secret.encode()!r})\n"
    )
    sibling.write("wait.py", text.replace(repr(scene.mark), repr(other)))
    with sibling.shell() as shell:
        shell.run("python3 wait.py >/dev/null 2>&1 &", timeout=2)
        until = time.monotonic() + 2
        while not (pids := list(marked(other))) and time.monotonic() < until:
            time.sleep(0.03)
        if not pids:
            raise AssertionError("the sibling's process does not run: there is nothing to attack")
        result = scene.strike(f"OTHER, PEER = {pids[0]}, {other!r}\n{scene.attack.program}")
        if not list(marked(other)):
            scene.notes.append("a sibling's process was killed")
    return result


ATTACKS = (
    Attack(
        "file_of_a_sibling",
        "siblings",
        "the secret in another sandbox's work folder is printed",
        nothing,
        """
import glob, tempfile
above = os.path.dirname(FOLDER)
ways = ["/proc/[0-9]*/cwd", "/proc/[0-9]*/root/work", "/tmp/*", "/tmp/*/*", "/var/tmp/*", "/run/*",
    "/run/*/*", "/work/..", "/work", "../*", "../../*", "../*/*", f"{above}/*", f"{above}/*/*"]
for way in ways:
    for path in glob.glob(f"{way}/sibling.txt")[:50]: attempt(show, path)
""",
        stage=_sibling_file,
    ),
    Attack(
        "kill_a_sibling",
        "siblings",
        "a process of another sandbox ends",
        nothing,
        "attempt(os.kill, OTHER, signal.SIGKILL)\ntime.sleep(0.1)",
        stage=_sibling_process,
    ),
    Attack(
        "socket_of_a_sibling",
        "siblings",
        "the secret that another sandbox's process tells to whoever connects is printed",
        nothing,
        """
peer = socket.socket(socket.AF_UNIX); peer.settimeout(1)
attempt(lambda: (peer.connect("\\0" + PEER), print(peer.recv(100))))
""",
        stage=_sibling_process,
    ),
    Attack(
        "write_by_path",
        "writing",
        _WRITTEN,
        nothing,
        """
attempt(put, f"{FOLDER}/canary"); attempt(put, f"{FOLDER}/{MARK}")
""",
    ),
    Attack(
        "write_to_shared_places",
        "writing",
        "a new file stands in the host's /var/tmp or /run/lock",
        nothing,
        """
for place in ("/var/tmp", "/run/lock"): attempt(put, f"{place}/{MARK}")
""",
    ),
    Attack(
        "write_by_dots",
        "writing",
        _WRITTEN,
        nothing,
        """
for start in (".", "/proc/self/cwd", "/proc/self/root"):
    attempt(put, start + "/.." * 20 + f"{FOLDER}/{MARK}")
""",
    ),
    Attack(
        "write_by_descriptor_path",
        "writing",
        _WRITTEN,
        nothing,
        """
here = os.open("/", os.O_RDONLY)
ways = [f"/proc/{pid}/root" for pid in (OWNER, DECOY, os.getppid())]
for way in [f"/proc/self/fd/{here}", f"/proc/{DECOY}/cwd/" + "../" * 12, *ways]:
    attempt(put, f"{way}{FOLDER}/{MARK}")
""",
    ),
    Attack(
        "hard_link",
        "writing",
        _WRITTEN,
        _read_back("hard"),
        """
attempt(os.link, f"{FOLDER}/canary", "hard")
attempt(lambda: open("hard", "r+").write("from the sandbox"))
attempt(os.link, f"{FOLDER}/private", "harder")
attempt(lambda: show("harder"))
""",
    ),
    Attack(
        "link_for_the_owner_to_write",
        "writing",
        "the owner, writing into the work folder, writes to its own file by way of a link",
        _write_back("out.txt", "folder/out.txt", "folder/deeper/out.txt", "far/out.txt"),
        """
os.symlink(f"{FOLDER}/canary", "out.txt"); os.symlink(FOLDER, "folder")
os.symlink("/proc/self/cwd/../../../../../../.." + FOLDER, "far")
""",
    ),
    Attack(
        "link_for_the_owner_to_read",
        "writing",
        "the owner, reading the program's answer, reads its own file by way of a link",
        _read_back("answer", "folder/private", "second", "third/private"),
        """
os.symlink(f"{FOLDER}/private", "answer"); os.symlink("answer", "second")
os.symlink(FOLDER, "folder")
os.symlink("/proc/self/root" + FOLDER, "third")
""",
    ),
    Attack(
        "link_swapped_in_time",
        "writing",
        "the owner reads or writes its own file: a folder becomes a link after it was checked",
        nothing,
        """
os.makedirs("real"); open("real/gold", "w").close()
until = time.time() + 5
while time.time() < until:
    for target in ("real", FOLDER):
        try: os.symlink(target, "next"); os.rename("next", "folder")
        except OSError: pass
    try: os.unlink("folder"); os.mkdir("folder"); open("folder/gold", "w").close()
    except OSError: pass
    try: os.unlink("folder/gold"); os.rmdir("folder")
    except OSError: pass
""",
        stage=_flipping,
    ),
    Attack(
        "endless_files",
        "writing",
        "the owner, reading the program's answer, hangs or reads without end",
        _read_back("pipe", "zero", "device", "socket", "loop", "terminal"),
        """
attempt(os.mkfifo, "pipe"); os.symlink("/dev/zero", "zero"); os.symlink("loop", "loop")
attempt(os.mknod, "device", 0o20666, os.makedev(1, 5))
attempt(lambda: socket.socket(socket.AF_UNIX).bind("socket")); os.symlink("/dev/stdin", "terminal")
""",
    ),
    Attack(
        "setuid_file_left",
        "writing",
        "a file stands on the host that runs as its owner's user, whoever starts it",
        _setuid_left,
        """
import shutil
shutil.copy("/bin/true", MARK); attempt(os.chmod, MARK, 0o6755)
""",
    ),
)
