"""Checklists: small yes/no items that each pay once, when they and what they depend on hold.

Items are deterministic predicates over the episode so far. The paying rule is that of
CM2 (*CM2: Reinforcement Learning with Checklist Rewards*, read in paper and code: mark A) in its
"state true after its dependencies hold" variant: no re-flip is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core import Episode, PalaestraError, did_you_mean
from .core import Score


@dataclass(frozen=True, slots=True)
class Item:
    """One checklist item: `holds(episode)` answers its question on the episode so far.

    `weight` is the item's share of the checklist; the shares are normalised to sum to 1.
    """

    id: str
    question: str
    holds: Callable[[Episode], bool]
    dependence: tuple[str, ...] = ()
    weight: float = 1.0


def satisfied(items: Sequence[Item], episode: Episode) -> list[Item]:
    """The items that have paid by the end of `episode`, in the order of `items`."""
    paid: dict[str, Item] = {}
    for turn in range(len(episode.turns)):
        paid.update((item.id, item) for item in _newly(items, episode.upto(turn), paid))
    return [item for item in items if item.id in paid]


def checklist(items_of: Callable[[Episode], Sequence[Item]]) -> Callable[[Episode], list[Score]]:
    """A reward term: what the items of the episode's task pay at its latest turn."""

    def price(episode: Episode) -> list[Score]:
        items = validated(items_of(episode))
        total = sum(item.weight for item in items)
        before = {item.id: item for item in satisfied(items, episode.upto(len(episode.turns) - 2))}
        now = _newly(items, episode, before)
        return [Score(item.weight / total, item.question, item.id) for item in now]

    return price


def validated(items: Sequence[Item]) -> Sequence[Item]:
    """The items themselves; refuses repeated ids, unknown dependences, circles, weights <= 0."""
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        raise PalaestraError(f"the items of a checklist need different ids, got {ids}")
    for item in items:
        for other in item.dependence:
            if other not in ids:
                raise PalaestraError(
                    f"item '{item.id}' depends on '{other}', which is not in the checklist."
                    f"{did_you_mean(other, ids)}"
                )
        if not item.weight > 0:
            raise PalaestraError(f"item '{item.id}' has weight {item.weight}; it must be above 0")
    settled: set[str] = set()
    while len(settled) < len(ids):
        free = {i.id for i in items if i.id not in settled and settled.issuperset(i.dependence)}
        if not free:
            circle = sorted(set(ids) - settled)
            raise PalaestraError(f"checklist items depend on each other in a circle: {circle}")
        settled |= free
    return items


def _newly(items: Sequence[Item], episode: Episode, paid: dict[str, Item]) -> list[Item]:
    """Items that hold now and have not paid; an item may pay with its dependence in one turn."""
    now: list[Item] = []
    done = set(paid)
    waiting = [item for item in items if item.id not in done]
    while free := [i for i in waiting if done.issuperset(i.dependence) and i.holds(episode)]:
        now += free
        done |= {item.id for item in free}
        waiting = [item for item in waiting if item.id not in done]
    return now
