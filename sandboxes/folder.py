"""The work folder, seen by the worker: files in and out, archives, and emptying it.

Runs inside the isolation: standard library only, no import of the package. Everything here is
hostile: names, links, modes, depth. Nothing follows a link out of the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator

MAGIC = b"palaestra archive 1\n"
HEAD = struct.Struct("<II")  # checksum of the rest, length of the index
PAGE = 4096
Entry = tuple[str, str, int, int, "int | str"]  # path, kind, mode, mtime in ns, size or target


class Refused(Exception):
    """A request that cannot be served: a sentence for the owner."""


def real(root: str, path: str) -> str:
    """The absolute path without links, or Refused when it lies outside of `root`."""
    found = os.path.realpath(os.path.join(root, path))
    if found != root and not found.startswith(root + "/"):
        raise Refused(f"{path[:60]!r} leaves the work folder through a link")
    return found


def opened(path: str, root: str, flags: int, mode: int = 0o644) -> int:
    """Open a path without links, folder by folder, so that none can be slipped in meanwhile."""
    *folders, name = os.path.relpath(path, root).split("/")
    at = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        # O_NONBLOCK: a pipe put in the file's place must not hold us up.
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=at)
    finally:
        os.close(at)


def read(root: str, path: str, limit: int) -> bytes:
    shown = repr(path[:60])
    try:
        fd = _readable(real(root, path), root)
    except OSError as error:
        raise Refused(f"{shown} cannot be read: {error.strerror}") from None
    with os.fdopen(fd, "rb", buffering=0) as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise Refused(f"{shown} is no regular file")
        if about.st_size > limit:
            raise Refused(f"{shown} has {about.st_size} bytes; the limit of this read is {limit}")
        return _all(file.read, about.st_size)


def _readable(path: str, root: str) -> int:
    try:
        return opened(path, root, os.O_RDONLY)
    except PermissionError:
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise
        os.chmod(path, mode | 0o400)
        try:
            return opened(path, root, os.O_RDONLY)
        finally:
            os.chmod(path, stat.S_IMODE(mode))


def _all(read: Callable[[int], bytes | None], size: int) -> bytes:
    pieces, left = [], size
    while left and (piece := read(left)):
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write(root: str, path: str, data: bytes) -> None:
    folder, _, name = path.rpartition("/")
    try:
        parent = real(root, folder or ".")
        os.makedirs(parent, exist_ok=True)
        target = os.path.join(parent, name)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(target).st_mode):
                os.unlink(target)  # a link or a pipe is replaced, never written through
        fd = opened(target, root, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(fd, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        if name.endswith(".py"):
            _forget_compiled(os.path.join(parent, "__pycache__"), name[:-2])
    except OSError as error:
        raise Refused(f"{path[:60]!r} cannot be written: {error.strerror}") from None


def _forget_compiled(cache: str, stem: str) -> None:
    """What the owner writes is what runs, not a compiled file that a program left in its place."""
    if os.path.islink(cache):
        os.unlink(cache)
    if os.path.isdir(cache):
        os.chmod(cache, 0o700)
        for name in os.listdir(cache):
            if name.startswith(stem):
                os.unlink(os.path.join(cache, name))


def listing(root: str, path: str) -> list[str]:
    top = real(root, path)
    if not os.path.isdir(top):
        raise Refused(f"{path[:60]!r} is no folder of the work folder")
    found = walk(top, lambda error: None)
    prefix = "" if top == root else os.path.relpath(top, root) + "/"
    return sorted(prefix + name for name, about in found if stat.S_ISREG(about.st_mode))


def walk(top: str, failed: Callable[[OSError], None]) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `top` with its status, folders before their content, links not followed."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            entries = _entries(os.path.join(top, folder) if folder else top)
        except OSError as error:  # deeper than a path can be, or taken away meanwhile
            failed(error)
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            try:
                about = entry.stat(follow_symlinks=False)
            except OSError as error:
                failed(error)
                continue
            if stat.S_ISDIR(about.st_mode):
                waiting.append(name)
            yield name, about


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        os.chmod(path, mode | 0o700)
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)


def empty(root: str) -> None:
    """Remove everything below `root`, at any depth and whatever its mode.

    A folder's folders are first moved up to `root`: no path gets longer than three names.
    """
    os.chmod(root, 0o700)
    serial = 0
    unique = f".emptying-{os.urandom(8).hex()}-"
    while True:
        with os.scandir(root) as listing:
            entries = list(listing)
        if not entries:
            return
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            with os.scandir(entry.path) as listing:
                inner = list(listing)
            for deeper in inner:
                if deeper.is_dir(follow_symlinks=False):
                    serial += 1
                    os.chmod(deeper.path, 0o700)  # moving a folder writes its ".."
                    os.rename(deeper.path, f"{root}/{unique}{serial}")
                else:
                    os.unlink(deeper.path)
            os.rmdir(entry.path)


def pack(root: str, cap: int) -> list[bytes]:
    """The folder as an archive: files, folders, links, hard links, modes, times; no devices.

    In pieces, to be joined.
    """
    index: list[Entry] = []
    contents: list[bytes] = []
    first: dict[tuple[int, int], str] = {}
    total = 0

    def failed(error: OSError) -> None:
        raise Refused(f"the work folder cannot be archived: {error.strerror}")

    for name, about in walk(root, failed):
        mode, changed = stat.S_IMODE(about.st_mode) & 0o777, about.st_mtime_ns
        if stat.S_ISDIR(about.st_mode):
            index.append((name, "folder", mode, changed, 0))
        elif stat.S_ISLNK(about.st_mode):
            index.append((name, "link", mode, changed, os.readlink(os.path.join(root, name))))
        elif stat.S_ISREG(about.st_mode):
            same = (about.st_dev, about.st_ino)
            if about.st_nlink > 1 and same in first:
                index.append((name, "same", mode, changed, first[same]))
                continue
            first[same] = name
            total += about.st_size
            if total > cap:
                raise Refused(f"the work folder holds more than {cap} bytes (files with holes?)")
            data = read(root, name, cap)
            contents.append(data)
            index.append((name, "file", mode, changed, len(data)))
    text = json.dumps(index).encode()
    check = zlib.crc32(text)
    for data in contents:
        check = zlib.crc32(data, check)
    return [MAGIC, HEAD.pack(check, len(text)), text, *contents]


def checked(archive: bytes, cap: int, cap_entries: int) -> tuple[list[Entry], int]:
    """The index of an archive and where the contents begin; Refused unless all of it is right."""
    at = len(MAGIC) + HEAD.size
    if len(archive) < at or not archive.startswith(MAGIC):
        raise Refused("this is no snapshot of a sandbox; take one with snapshot()")
    check, length = HEAD.unpack_from(archive, len(MAGIC))
    if zlib.crc32(memoryview(archive)[at:]) != check:
        raise Refused("the snapshot is corrupt: its checksum is wrong; nothing was changed")
    try:
        index = [_entry(*entry) for entry in json.loads(archive[at : at + length])]
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(f"the snapshot is corrupt: {error}; nothing was changed") from None
    seen = {"": "folder"}
    size = used = 0
    for name, kind, _, _, extra in index:
        # Each folder comes before what is in it and nothing comes twice, so no path that is
        # written later can lead through a link.
        if name in seen or seen.get(name.rpartition("/")[0]) != "folder":
            raise Refused(f"the snapshot is corrupt at {name[:60]!r}; nothing was changed")
        if kind == "same" and seen.get(str(extra)) != "file":
            raise Refused(f"the snapshot is corrupt at {name[:60]!r}; nothing was changed")
        if kind == "file":
            size += int(extra)
            used += -(-int(extra) // PAGE) * PAGE
        seen[name] = kind
    if size != len(archive) - at - length:
        raise Refused("the snapshot is corrupt: its sizes do not add up; nothing was changed")
    if used > cap or len(index) > cap_entries:
        raise Refused(
            f"the snapshot needs {used} bytes for {len(index)} entries; this sandbox has room for "
            f"{cap} bytes and {cap_entries} entries; nothing was changed"
        )
    return index, at + length


def _entry(name: str, kind: str, mode: int, changed: int, extra: int | str) -> Entry:
    number = kind in ("folder", "file")
    wanted = int if number else str
    if kind not in ("folder", "file", "link", "same") or type(extra) is not wanted:
        raise ValueError(f"an entry of kind {kind!r}")
    for path in (name, str(extra)):  # the target of a link is a path as well, of any form
        if type(name) is not str or not 0 < len(os.fsencode(path)) < PAGE or "\0" in path:
            raise ValueError(f"a path {str(path)[:60]!r}")
    parts = name.split("/")
    if not all(0 < len(os.fsencode(part)) < 256 for part in parts) or {".", ".."} & {*parts}:
        raise ValueError(f"a path {name[:60]!r}")
    if type(mode) is not int or type(changed) is not int or abs(changed) >= 1 << 63:
        raise ValueError("a mode or a time")
    if number and int(extra) < 0:
        raise ValueError("a negative size")
    return name, kind, mode & 0o777, changed, extra


def unpack(root: str, archive: bytes, checked: tuple[list[Entry], int]) -> None:
    """Make the folder what an archive says that was `checked` before anything is touched."""
    index, at = checked
    empty(root)
    contents = memoryview(archive)
    late: list[tuple[str, int, int]] = []
    try:
        for name, kind, mode, changed, extra in index:
            path = os.path.join(root, name)
            if kind == "folder":
                os.mkdir(path, 0o700)
                late.append((path, mode, changed))
            elif kind == "link":
                os.symlink(str(extra), path)
                os.utime(path, ns=(changed, changed), follow_symlinks=False)
            elif kind == "same":
                os.link(os.path.join(root, str(extra)), path)
            else:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                with os.fdopen(fd, "wb", buffering=0) as file:
                    end = at + int(extra)
                    while at < end:
                        at += file.write(contents[at:end])
                    os.fchmod(fd, mode)
                    os.utime(fd, ns=(changed, changed))
        for path, mode, changed in reversed(late):
            os.utime(path, ns=(changed, changed))
            os.chmod(path, mode)
    except OSError as error:
        empty(root)
        raise Refused(f"the snapshot could not be unpacked: {error.strerror}") from None
