"""Outcome and process terms that any environment can use; each reads facts, none executes."""

from __future__ import annotations

from ..core import Episode
from .core import Score


def solved(episode: Episode) -> float:
    """1.0 when the environment says that the task was solved."""
    return float(bool(episode.facts.get("solved", False)))


def brevity(episode: Episode) -> float:
    """1.0 for one turn, falling as 1/n as turns are added; 0 for an unsolved episode."""
    return solved(episode) / max(1, len(episode.turns))


def errors(episode: Episode) -> Score:
    """-1 for a turn whose call failed, +1 for the turn that repairs it.

    A repair pays back what the error cost and no more, so erring on purpose earns nothing.
    """
    failed = _failed(episode, -1)
    if failed:
        return Score(-1.0, failed)
    before = _failed(episode, -2)
    return Score(1.0, f"repaired: {before}") if before else Score(0.0)


def _failed(episode: Episode, index: int) -> str:
    """The error of the turn at `index`, if that turn has one."""
    if len(episode.turns) < -index:
        return ""
    return episode.turns[index].facts.get("tool_error", "") or ""


def waste(episode: Episode) -> Score:
    """-1 for a turn that only repeats calls which were made before."""
    if not episode.turns[-1].message.tool_calls:
        return Score(0.0)
    before = {_key(call) for turn in episode.turns[:-1] for call in turn.message.tool_calls}
    now = [_key(call) for call in episode.turns[-1].message.tool_calls]
    repeated = all(key in before for key in now)
    return Score(-1.0, f"repeats {now[0][0]}") if repeated else Score(0.0)


def _key(call) -> tuple[str, str]:  # type: ignore[no-untyped-def]
    return call.name, repr(sorted(call.arguments.items(), key=lambda item: item[0]))
