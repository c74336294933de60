"""Trajectories as JSON lines: what was seen, said, earned and sampled, one episode a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..core import PalaestraError
from .trajectory import Trajectory


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Trajectory)


def dump(trajectory: Trajectory) -> str:
    """One line of JSON, without the line's end."""
    return str(_adapter().dump_json(trajectory).decode())


def write(path: Path, trajectories: Iterable[Trajectory]) -> None:
    """Write a whole file; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    with part.open("w", encoding="utf-8") as file:
        for trajectory in trajectories:
            file.write(dump(trajectory) + "\n")
    part.replace(path)


class Log:
    """Episodes kept as they end, in `PATH.part`; `finish` puts them in order under `PATH`.

    Whoever stops in between still has what was done. Without a path it keeps nothing.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._file = part_of(path).open("w", encoding="utf-8") if path else None

    def add(self, trajectory: Trajectory) -> None:
        if self._file:
            self._file.write(dump(trajectory) + "\n")
            self._file.flush()

    def finish(self, trajectories: Iterable[Trajectory]) -> None:
        self.close()
        if self.path:
            write(self.path, trajectories)

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def read(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a file; a broken line is named by its number."""
    from pydantic import ValidationError

    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield _adapter().validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                what = f"{where}: {first['msg']}" if where else first["msg"]
                raise PalaestraError(f"{path}, line {number}: {what}") from None
