"""Stockroom: find the shelf that holds an item, then name it. Two tools; the hello-world."""

from __future__ import annotations

import numpy as np

from ..core import Message, Task, calling, user
from ..rewards.core import Rubric, Term
from ..rewards.outcome import errors, solved, waste
from .core import Env
from .tasks import Generated, Tasks
from .tools import Finish, ToolError, tool

ITEMS = ("rope", "lamp", "chalk", "bell", "coin", "net", "jar", "map")


class Stockroom(Env):
    """Eight items on eight shelves in a random order; which shelf holds the wanted one?"""

    max_turns = 12
    rubric = Rubric(
        Term("solved", solved, "outcome", 1.0),
        Term("errors", errors, "process", 0.05),
        Term("waste", waste, "process", 0.05),
    )

    def generate(self) -> Tasks:
        return Generated(self._make_task, 1000)

    def _make_task(self, index: int) -> Task:
        wanted = ITEMS[index % len(ITEMS)]
        ask = user(f"Which of the shelves 0 to {len(ITEMS) - 1} holds the {wanted}?")
        gold = {"wanted": wanted}
        return Task(
            f"shelf-{self.split}-{index}", "palaestra/Stockroom-v0", self.split, (ask,), gold=gold
        )

    def begin(self, task: Task, rng: np.random.Generator) -> None:
        self.shelves = [str(item) for item in rng.permutation(ITEMS)]
        self.looked: list[int] = []

    @tool
    def look(self, shelf: int) -> str:
        """Read the label of one shelf, counted from 0."""
        self._check(shelf)
        self.looked.append(shelf)
        return self.shelves[shelf]

    @tool
    def answer(self, shelf: int) -> str:
        """Name the shelf that holds the item. Ends the episode."""
        self._check(shelf)
        self.facts["solved"] = self.shelves[shelf] == self.task.gold["wanted"]
        raise Finish

    def _check(self, shelf: int) -> None:
        if not 0 <= shelf < len(self.shelves):
            raise ToolError(f"there is no shelf {shelf}; they are 0 to {len(self.shelves) - 1}")

    def expert(self, rng: np.random.Generator) -> Message:
        wanted = self.shelves.index(self.task.gold["wanted"])
        return calling("answer" if wanted in self.looked else "look", shelf=wanted)
