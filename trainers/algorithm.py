"""The table of algorithms: how a group of siblings becomes one advantage per turn.

An algorithm is a function from a group to advantages; the loss is the clipped one of `losses.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..agents.trajectory import Trajectory
from .advantages import group_relative, turn_relative

Group = Sequence[Trajectory]
Advantages = list[list[float]]
"""For each sibling, one value per turn; zeros for an invalid one."""


def grpo(group: Group) -> Advantages:
    """Every turn gets its episode's advantage: the ledger's total against the siblings', over std.

    DeepSeekMath's GRPO (form of verl's code, mark A*).
    """
    return _broadcast(group, std=True)


def dr_grpo(group: Group) -> Advantages:
    """GRPO's advantages without dividing by the standard deviation, as in Dr.GRPO (mark A*).

    The loss is still averaged over the update's sampled tokens; Dr.GRPO divides by a constant.
    """
    return _broadcast(group, std=False)


def grpo_turns(group: Group) -> Advantages:
    """Outcomes are compared by episode, process and checklist lines turn by turn; both are added.

    The turn part is CM2's turn estimator (mark A); adding the two is our reading (mark C).
    """
    outcome = group_relative(
        [each.ledger.by_kind().get("outcome", 0.0) if each.valid else None for each in group]
    )
    earned = [
        each.ledger.by_turn(turns_of(each), "process", "checklist") if each.valid else None
        for each in group
    ]
    return [
        [outcome[index] + value for value in turns]
        for index, turns in enumerate(_padded(turn_relative(earned), group))
    ]


ALGORITHMS: dict[str, Callable[[Group], Advantages]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "grpo_turns": grpo_turns,
}


def _broadcast(group: Group, std: bool) -> Advantages:
    totals = [each.ledger.total if each.valid else None for each in group]
    values = group_relative(totals, std)
    return [[value] * turns_of(each) for value, each in zip(values, group, strict=True)]


def _padded(advantages: Advantages, group: Group) -> Advantages:
    """Invalid episodes have turns too; they get zeros."""
    return [
        turns if each.valid else [0.0] * turns_of(each)
        for turns, each in zip(advantages, group, strict=True)
    ]


def turns_of(trajectory: Trajectory) -> int:
    return len(trajectory.episode.turns)
