"""Advantages: how much better an episode, or a turn, was than its siblings'.

Pure functions over one group. None stands for an invalid episode: it is left out of the group's
statistics and gets zero, so the others fare as if it had never been sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def group_relative(rewards: Sequence[float | None], std: bool = True) -> list[float]:
    """GRPO (std=True) or Dr.GRPO (std=False): each reward against its group's mean.

    A = (R - mean) / (sample std + 1e-6), or A = R - mean. They sum to zero; a group that agrees, or
    of one, teaches nothing. Source: verl `core_algos.py` (mark A*); unlike it, a group of one gets
    0 and not its raw reward.

    >>> [round(a, 4) for a in group_relative([1, 0, 0, 1])]
    [0.866, -0.866, -0.866, 0.866]
    """
    valid = [reward for reward in rewards if reward is not None]
    if len(valid) < 2 or max(valid) - min(valid) < 1e-9:
        return [0.0] * len(rewards)
    mean = math.fsum(valid) / len(valid)
    scale = 1.0
    if std:
        variance = math.fsum((r - mean) ** 2 for r in valid) / (len(valid) - 1)
        scale = math.sqrt(variance) + 1e-6
    return [0.0 if reward is None else (reward - mean) / scale for reward in rewards]


def turn_relative(rewards: Sequence[Sequence[float] | None], std: bool = True) -> list[list[float]]:
    """The same, turn by turn: what a turn earned against siblings that reached that turn.

    CM2's turn estimator (mark A) without its cut-off for small groups. Ragged turns are fine.
    """
    longest = max((len(turns) for turns in rewards if turns is not None), default=0)
    advantages: list[list[float]] = [[0.0] * len(turns or ()) for turns in rewards]
    for turn in range(longest):
        column = [r[turn] if r is not None and turn < len(r) else None for r in rewards]
        for index, value in enumerate(group_relative(column, std)):
            if column[index] is not None:
                advantages[index][turn] = value
    return advantages
