"""Agents without a model: experts, the null and random policies, and named heuristics.

They see the environment itself. An expert may know the gold; a heuristic says in its docstring
what it uses. All act through the tools only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core import Message, ToolSpec
from ..envs import Env


class Expert:
    """The environment's own expert; `style` makes it an imperfect one (`haste`, `slips`)."""

    def __init__(self, env: Env, seed: int, **style: Any):
        self.env, self.rng, self.style = env, np.random.default_rng([seed, 1]), style

    def act(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> Message:
        return self.env.expert(self.rng, **self.style)


class Null:
    """Says nothing, calls nothing: what an environment gives away for free."""

    def __init__(self, env: Env, seed: int):
        pass

    def act(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> Message:
        return Message("assistant")


class Random:
    """Random calls with arguments that fit their schemas: `action_space.sample()`."""

    def __init__(self, env: Env, seed: int):
        self.space = env.action_space
        self.space.seed(seed)

    def act(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> Message:
        return self.space.sample()  # type: ignore[return-value]


SCRIPTED: dict[str, Callable[[Env, int], Any]] = {"expert": Expert, "null": Null, "random": Random}
