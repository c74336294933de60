"""Supervised warm-up: expert episodes become rows, each encoded exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..agents.chat import ChatTemplate
from ..agents.scripted import Expert
from ..core import Episode, ToolSpec
from ..envs import Env
from .pack import Row


def demonstrate(env: Env, index: int, seed: int, style: Mapping[str, Any]) -> Episode:
    """One episode of the environment's expert on task `index`."""
    observation, _ = env.reset(seed=seed, options={"task": index})
    expert, over = Expert(env, seed, **style), False
    while not over:
        observation, _, terminated, truncated, _ = env.step(expert.act(observation, env.tools))
        over = terminated or truncated
    return env.episode


def encode(
    episode: Episode, tools: Sequence[ToolSpec], template: ChatTemplate, context: float = 0.0
) -> Row:
    """A recorded episode as a row; tokens the policy does not write weigh `context`."""
    ids = list(template.opening(episode.opening, tools))
    weight = [context] * len(ids)
    for index, turn in enumerate(episode.turns):
        reply = template.reply(turn.message)
        ids += reply
        weight += [1.0] * len(reply)
        if index < len(episode.turns) - 1:
            given = template.follow(turn.replies, ended=True)
            ids += given
            weight += [context] * len(given)
    return Row(tuple(ids), tuple(weight))


def shuffled(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of `size` indices below `count`: a new order every epoch, seeded."""
    rng = np.random.default_rng([seed, 31])
    order: list[int] = []
    while True:
        while len(order) < size:
            order += rng.permutation(count).tolist()
        yield order[:size]
        order = order[size:]


def warm_then_linear(step: int, steps: int, warmup: int = 30) -> float:
    """Rate factor: rises over `warmup` steps, holds, falls linearly over the second half."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * min(1.0, 2 * (steps - step) / steps)
