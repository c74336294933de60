"""Where tasks come from: any sequence of Task will do.

A generated source is a pure function of its index, so that it needs no storage and the same index
always gives the same task; a file source is a list that a loader read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..core import PalaestraError, Task

SPLITS = ("train", "validation", "test")


class Tasks(Protocol):
    """A sized, indexable source of tasks; `list[Task]` and `Generated` are two."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Task: ...


@dataclass(frozen=True)
class Generated:
    """`size` tasks, the one at `index` made by `make(index)`."""

    make: Callable[[int], Task]
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self.size:
            raise IndexError(f"task {index} of {self.size}")
        return self.make(index)


def find(tasks: Tasks, wanted: Task | int | str) -> Task:
    """A task by itself, by index or by id; says what there is when there is no such task."""
    if isinstance(wanted, Task):
        return wanted
    if isinstance(wanted, str):
        for index in range(len(tasks)):
            if (task := tasks[index]).id == wanted:
                return task
        raise PalaestraError(f"no task has the id '{wanted}'; the first is '{tasks[0].id}'")
    if not 0 <= int(wanted) < len(tasks):
        raise PalaestraError(f"there is no task {wanted}: tasks run from 0 to {len(tasks) - 1}")
    return tasks[int(wanted)]


def check_split(split: str) -> str:
    if split not in SPLITS:
        raise PalaestraError(f"split '{split}' does not exist; splits are {', '.join(SPLITS)}")
    return split
