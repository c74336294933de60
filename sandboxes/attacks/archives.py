"""Attempts to trick the owner with archives, uploads and names."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator

from .. import folder
from ..core import MIB, ExecResult, SandboxError
from .host import memory
from .nextcall import after_clear
from .scene import Attack, Scene, nothing


def _archive(*members: tuple[tarfile.TarInfo, bytes]) -> Iterator[bytes]:
    """The members as a tar file, plain and compressed."""
    for mode in ("w", "w:gz"):
        room = io.BytesIO()
        with tarfile.open(fileobj=room, mode=mode) as archive:
            for member, data in members:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        yield room.getvalue()


def _member(name: str, type_: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = type_, target, 0o6777
    return member


def _restoring(make: Callable[[Scene], Iterator[bytes]]) -> Callable[[Scene], ExecResult]:
    """The owner restores archives from a hostile hand: refused, or nothing leaves the folder."""

    def stage(scene: Scene) -> ExecResult:
        sandbox, notes = scene.sandbox, scene.notes
        for number, data in enumerate(make(scene)):
            sandbox.clear()
            sandbox.write("kept.txt", scene.token)
            before, started = memory(), time.monotonic()
            try:
                sandbox.restore(data)
            except SandboxError:
                try:
                    kept = {name: sandbox.read(name) for name in sandbox.list()}
                except SandboxError as error:
                    notes.append(f"archive {number} broke the sandbox: {error}")
                    break
                if kept != {"kept.txt": scene.token.encode()}:
                    notes.append(f"archive {number} was refused, yet changed the folder")
            except Exception as error:
                notes.append(f"restoring archive {number} raised {error!r}")
            grown, spent = memory() - before, time.monotonic() - started
            if grown > 128 * MIB or spent > 5:
                notes.append(f"restoring took {grown >> 20} MiB and {spent:.1f} s")
            size = sum(len(sandbox.read(name, 64 * MIB)) for name in sandbox.list())
            if size > sandbox.limits.disk * 1.5:
                notes.append(f"restoring left {size >> 20} MiB of files")
            for name in ("hard", "link/private"):
                with contextlib.suppress(SandboxError, OSError):
                    if scene.owner.secret.encode() in sandbox.read(name):
                        notes.append(f"reading '{name}' gave the owner's own secret")
            for name in ("link/made", "link", "hard"):
                with contextlib.suppress(SandboxError, OSError):
                    sandbox.write(name, "written by the owner")
        return scene.strike("pass")

    return stage


def _climbing(scene: Scene) -> Iterator[bytes]:
    place, data = str(scene.owner.folder), b"from the archive"
    for name in (f"../../../../../../..{place}/made", f"{place}/made", f"a/../../{place}/made"):
        yield from _archive((_member(name), data))
    for type_, target in (
        (tarfile.SYMTYPE, place),
        (tarfile.SYMTYPE, "/proc/self/cwd/.." + place),
    ):
        yield from _archive((_member("link", type_, target), b""), (_member("link/made"), data))
    yield from _archive((_member("hard", tarfile.LNKTYPE, f"{place}/canary"), b""))
    yield from _archive(
        (_member("hard", tarfile.LNKTYPE, f"{place}/private"), b""), (_member("hard"), data)
    )
    device = _member("device", tarfile.BLKTYPE)
    device.devmajor, device.devminor = 254, 0
    yield from _archive((device, b""), (_member("pipe", tarfile.FIFOTYPE), b""))


def _bombs(scene: Scene) -> Iterator[bytes]:
    """400 MiB of zeros in 400 KiB, in one file and in many, and a header that claims a TiB."""
    press = zlib.compressobj(1, zlib.DEFLATED, 31)
    header = _member("zeros")
    header.size = 400 * MIB
    parts = [press.compress(header.tobuf())]
    parts += [press.compress(bytes(MIB)) for _ in range(400)]
    yield b"".join([*parts, press.compress(bytes(10240)), press.flush()])
    press = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = []
    for number in range(100):
        header = _member(f"zeros{number}")
        header.size = 4 * MIB
        parts.append(press.compress(header.tobuf()))
        parts += [press.compress(bytes(MIB)) for _ in range(4)]
    yield b"".join([*parts, press.compress(bytes(10240)), press.flush()])
    header.size = 1 << 40
    yield header.tobuf(tarfile.GNU_FORMAT) + bytes(10240)


def _broken(scene: Scene) -> Iterator[bytes]:
    """The owner's own snapshot, damaged."""
    scene.sandbox.write("large.bin", os.urandom(MIB))
    good = scene.sandbox.snapshot()
    middle = len(good) // 2
    yield from (b"", b"\0", good[:20], good[:middle], good[: len(good) - 1], os.urandom(2000))
    for place in (10, 40, middle, len(good) - 3):
        yield good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :]


def _signed(index: object, contents: bytes = b"") -> bytes:
    """An archive in our own form, with the right checksum, saying what no snapshot says."""
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    check = zlib.crc32(contents, zlib.crc32(text))
    return b"".join([folder.MAGIC, folder.HEAD.pack(check, len(text)), text, contents])


def _forged(scene: Scene) -> Iterator[bytes]:
    """Whoever knows the form and the checksum: links on the way, odd values, deep and long."""
    place, one = str(scene.owner.folder), ("file", 0o644, 0, 1)
    for name in (
        f"{place}/made",
        f"../../../..{place}/made",
        "a/../../made",
        "",
        ".",
        "a\0b",
        "d/made",
    ):
        yield _signed([(name, *one)], b"x")
    for target in (place, "/proc/self/cwd/../../../../.." + place):
        yield _signed([("link", "link", 0o777, 0, target), ("link/made", *one)], b"x")
        yield _signed([("link", "link", 0o777, 0, target), ("link", *one)], b"x")
    yield _signed([("same", "same", 0o644, 0, f"{place}/canary")])
    link = ("link", "link", 0o777, 0, f"{place}/private")
    yield _signed([link, ("hard", "same", 0o644, 0, "link")])
    odd: object
    for odd in (10**30, -(10**30), float("inf"), float("nan"), None, [], {}, "x", "\ud800", -1):
        for at in range(5):
            entry: list[object] = ["file.txt", "file", 0o644, 0, 0]
            entry[at] = odd
            yield _signed([entry])
    yield _signed([("\ud800", *one)], b"x")
    yield _signed(b"[" * 200_000)
    yield _signed(b"\xff\xfe")
    yield _signed(
        [("many", "folder", 0o755, 0, 0), *((f"many/{n}", *one[:3], 0) for n in range(200_000))]
    )
    yield _signed([("/".join(["d"] * n), "folder", 0o755, 0, 0) for n in range(1, 1500)])
    yield _signed([("large", "file", 0o644, 0, 1 << 40)])


def _moved(scene: Scene, result: ExecResult) -> str:
    """What a program made goes through a snapshot into a sibling, and stays harmless there."""
    sibling = scene.sibling()
    with contextlib.suppress(SandboxError):
        sibling.restore(scene.sandbox.snapshot())
    for name in ("folder/private", "answer", "pipe"):
        with contextlib.suppress(SandboxError, OSError):
            if scene.owner.secret.encode() in sibling.read(name):
                return f"reading '{name}' of the copy gave the owner's own secret"
    for name in ("folder/made", "out.txt"):
        with contextlib.suppress(SandboxError, OSError):
            sibling.write(name, "written by the owner")
    sees = scene.honest(
        "import os; print([n for n in os.listdir() if os.lstat(n).st_mode & 0o6000])", sibling
    )
    return "" if sees.strip() == "[]" else f"the copy has files with special rights: {sees[:80]}"


def _upload(scene: Scene) -> ExecResult:
    """The owner passes on what it was given: names that leave the folder, more than fits."""
    sandbox = scene.sandbox
    place = str(scene.owner.folder)
    for name in (
        "../" * 8 + f"{place}/{scene.mark}", f"{place}/{scene.mark}", f"a/../..{place}/x",
        "..", ".", "/", "/work/../etc/x", "a\0b", "x" * 300, "d/" * 2500 + "x", "",
    ):  # fmt: skip
        with contextlib.suppress(SandboxError):
            sandbox.write(name, scene.token)
            if name in ("..", ".", "/", "", "a\0b"):
                scene.notes.append(f"a file named {name!r} was accepted")
    for number in range(10):
        with contextlib.suppress(SandboxError):
            sandbox.write(f"large{number}", bytes(6 * MIB))
    kept = sum(len(sandbox.read(name, 64 * MIB)) for name in sandbox.list())
    if kept > sandbox.limits.disk * 1.5:
        scene.notes.append(f"{kept >> 20} MiB were accepted")
    scene.calm = False  # its disk is full, by the owner's own hand
    return scene.strike("pass")


def _odd_names(scene: Scene, result: ExecResult) -> str:
    """Whatever names the program chose, the owner lists what exists, and can read what it lists."""
    names = list(scene.sandbox.list())
    if "forged.txt" in names:
        return "the listing shows a file that does not exist"
    for name in names:
        with contextlib.suppress(SandboxError):
            scene.sandbox.read(name)
    scene.sandbox.restore(scene.sandbox.snapshot())
    if sorted(scene.sandbox.list()) != sorted(names):
        return "after a snapshot and its restoration the listing is another one"
    return ""


def _deep(scene: Scene, result: ExecResult) -> str:
    """Folders deeper than a path can be long: list, snapshot, clear and close must bear them."""
    started = time.monotonic()
    scene.sandbox.list()
    with contextlib.suppress(SandboxError):
        scene.sandbox.snapshot()
    found = after_clear(scene, result)
    scene.sandbox.close()
    scene.calm = False
    if (spent := time.monotonic() - started) > 5:
        return f"list, snapshot, clear and close took {spent:.1f} s"
    for path, folders, _ in os.walk(tempfile.gettempdir()):
        if path.count("/") > 4:
            folders.clear()
        if scene.mark in folders:
            return f"'{path}/{scene.mark}' is left on the host"
    return found


ATTACKS = (
    Attack(
        "archive_that_climbs",
        "archives",
        "restoring an archive changes or reads the owner's files by '..', absolute names or links",
        nothing,
        stage=_restoring(_climbing),
    ),
    Attack(
        "archive_bomb",
        "archives",
        "restoring 400 KiB that hold 400 MiB costs the owner 128 MiB, 5 s, or the disk limit",
        nothing,
        stage=_restoring(_bombs),
    ),
    Attack(
        "damaged_snapshot",
        "archives",
        "a damaged snapshot changes the folder although it is refused, or breaks the owner",
        nothing,
        stage=_restoring(_broken),
    ),
    Attack(
        "signed_archive",
        "archives",
        "an archive in our own form, rightly signed, gets out of the folder or breaks the owner",
        nothing,
        stage=_restoring(_forged),
    ),
    Attack(
        "snapshot_with_links",
        "archives",
        "links, pipes and special rights that go through a snapshot harm the owner of the copy",
        _moved,
        """
import shutil
os.symlink(FOLDER, "folder")
os.symlink(f"{FOLDER}/private", "answer")
os.symlink(f"{FOLDER}/canary", "out.txt")
attempt(os.mkfifo, "pipe"); attempt(lambda: socket.socket(socket.AF_UNIX).bind("socket"))
shutil.copy("/bin/true", "special")
attempt(os.chmod, "special", 0o6755)
os.link("special", "special2")
""",
    ),
    Attack(
        "upload",
        "archives",
        "the owner's upload lands outside, or more of it than 1.5 times the disk limit is kept",
        nothing,
        stage=_upload,
    ),
    Attack(
        "odd_names",
        "names",
        "names with newlines, quotes and no encoding break the owner's listing, or forge it",
        _odd_names,
        """
for name in ("new\\nforged.txt", "a\\r\\nb", "'; touch forged.txt; '", "$(touch forged.txt)",
        "-rf", "--help", " ", "tab\\there", "\\x1b[2J", "*", "\\u202etxt", "x" * 255, "%s"):
    attempt(put, name)
attempt(lambda: open(b"\\xff\\xfe\\x80", "w").close())
""",
    ),
    Attack(
        "names_of_4_kib",
        "names",
        "folders deeper than a path is long break list, snapshot or clear, or stay on the host",
        _deep,
        """
os.mkdir(MARK); os.chdir(MARK)
for _ in range(60): os.mkdir("d" * 200); os.chdir("d" * 200)
open("bottom", "w").write("left-" + MARK)
""",
    ),
    Attack(
        "many_folders",
        "names",
        "a thousand nested folders break list, snapshot or clear, or stay on the host",
        _deep,
        "os.mkdir(MARK); os.chdir(MARK)\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')",
    ),
)
