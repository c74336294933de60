"""Process and checklist terms over an evidence chain: what was seen, used and cited, hop by hop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..core import Episode
from .checklist import Item
from .core import Score


def evidence_gain(episode: Episode) -> Score:
    """The share of the gold chain that was shown for the first time in the latest turn."""
    chain = episode.task.gold.get("chain", ())
    now = set(episode.facts.get("seen_hops", ()))
    before = set(episode.upto(len(episode.turns) - 2).facts.get("seen_hops", ()))
    new = sorted(now - before)
    if not chain or not new:
        return Score(0.0)
    said = "; ".join(f"{chain[hop]['relation']}: {chain[hop]['object']}" for hop in new)
    return Score(len(new) / len(chain), said)


def chain_items(episode: Episode) -> Sequence[Item]:
    """One item per intermediate object that has to be built upon, then one for the support.

    Each depends on the item before it: using a later bridge first earns nothing until then.
    """
    chain = episode.task.gold.get("chain", ())
    items: list[Item] = []
    for hop, step in enumerate(chain[:-1]):
        items.append(
            Item(
                f"bridge-{hop + 1}",
                f"Is '{step['object']}' used after it was seen?",
                partial(_bridged, hop),
                dependence=(items[-1].id,) if items else (),
            )
        )
    support = Item(
        "support",
        "Does the answer rest on what was shown?",
        lambda seen: bool(seen.facts.get("supported", False)),
        dependence=(items[-1].id,) if items else (),
    )
    return [*items, support]


def _bridged(hop: int, episode: Episode) -> bool:
    return hop in episode.facts.get("used_bridges", ())
