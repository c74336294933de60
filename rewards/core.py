"""Pricing an episode: a Rubric is a tuple of Terms; its output is a Ledger.

An *outcome* term looks at the ended episode. *Process* and *checklist* terms price one turn at a
time and see the episode only up to that turn, so what is paid at once never depends on the future.
Nothing here executes anything: environments state facts, rewards price them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..core import Entry, Episode, Kind, Ledger, PalaestraError, did_you_mean


@dataclass(frozen=True, slots=True)
class Score:
    """A value with its evidence. `value=None` means that it could not be judged (invalid)."""

    value: float | None
    evidence: str = ""
    item: str = ""
    """Distinguishes several lines of one term, such as the items of a checklist."""


Reward = Callable[[Episode], "float | Score | Sequence[Score]"]


@dataclass(frozen=True, slots=True)
class Term:
    """A named, weighted reward function.

    `gate` names an outcome term of the same rubric: the line counts only when that term is
    positive. This is known at the end, so gated lines are paid at the last turn.
    `shares` declares facts that another term may price too (`palaestra check` asks).
    """

    name: str
    reward: Reward
    kind: Kind = "outcome"
    weight: float = 1.0
    gate: str = ""
    shares: tuple[str, ...] = ()


class Rubric:
    """Terms that together price an episode, turn by turn or all at once, to the same ledger."""

    def __init__(self, *terms: Term):
        names = [term.name for term in terms]
        if len(set(names)) < len(names):
            raise PalaestraError(f"a rubric's terms need different names, got {names}")
        for term in terms:
            _check_term(term, terms)
        self.terms = terms

    def reweighted(
        self, weights: Mapping[str, float], table: Mapping[str, Term] | None = None
    ) -> Rubric:
        """The same terms under new weights; terms that are not named keep theirs.

        Names of `table` that are no term of this rubric are added to it.
        """
        own = {term.name: term for term in self.terms}
        known = {**(table or {}), **own}
        for name in weights:
            if name not in known:
                raise PalaestraError(f"no reward is called '{name}'.{did_you_mean(name, known)}")
        terms = {**own, **{name: known[name] for name in weights}}
        return Rubric(
            *(replace(t, weight=weights.get(name, t.weight)) for name, t in terms.items())
        )

    def price(self, episode: Episode) -> Ledger:
        """The whole ledger of an ended episode, as `env.step` would have emitted it."""
        ledger = Ledger()
        for turn in range(len(episode.turns)):
            last = turn == len(episode.turns) - 1
            ledger = ledger.extend(self.turn(episode if last else episode.upto(turn)))
        return ledger

    def turn(self, episode: Episode) -> list[Entry]:
        """The lines that the latest turn of `episode` adds to its ledger."""
        turn = len(episode.turns) - 1
        if episode.error is not None:
            why = f"{episode.error.culprit}: {episode.error.reason}"
            return [Entry(turn, turn, "fault", "outcome", None, 1.0, why, valid=False)]
        seen = episode.upto(turn)
        entries = [
            entry
            for term in self.terms
            if term.kind != "outcome" and not term.gate
            for entry in _entries(term, seen, turn)
        ]
        return entries + self._settle(episode) if episode.stop else entries

    def _settle(self, episode: Episode) -> list[Entry]:
        """At the end: the outcomes, then every gated line of the episode."""
        turn = len(episode.turns) - 1
        outcomes = [
            entry
            for term in self.terms
            if term.kind == "outcome"
            for entry in _entries(term, episode, turn)
        ]
        gated = [
            _gated(entry, [each for each in outcomes if each.name.split("/")[0] == term.gate], turn)
            for term in self.terms
            if term.kind != "outcome" and term.gate
            for earned in range(turn + 1)
            for entry in _entries(term, episode.upto(earned), earned)
        ]
        return outcomes + gated


def _gated(entry: Entry, gates: Sequence[Entry], turn: int) -> Entry:
    """A line of a gated term, paid at the end. When the gate cannot be judged, neither can it."""
    if any(gate.valid and (gate.value or 0.0) > 0 for gate in gates):
        return replace(entry, paid=turn, gate="open")
    if all(gate.valid for gate in gates):
        return replace(entry, paid=turn, gate="closed")
    return replace(entry, paid=turn, value=None, valid=False)


def _entries(term: Term, episode: Episode, turn: int) -> list[Entry]:
    result = term.reward(episode)
    if isinstance(result, (int, float)):  # bool counts as 0 or 1
        result = Score(float(result))
    scores = [result] if isinstance(result, Score) else result
    for score in scores:
        if score.value is not None and not math.isfinite(score.value):
            raise ValueError(f"reward '{term.name}' gave {score.value}; use None for 'not judged'")
    return [
        Entry(
            turn=turn,
            paid=turn,
            name=f"{term.name}/{score.item}" if score.item else term.name,
            kind=term.kind,
            value=score.value,
            weight=term.weight,
            evidence=score.evidence,
            valid=score.value is not None,
        )
        for score in scores
        if score.value is None or score.value != 0 or term.kind == "outcome"
    ]


def _check_term(term: Term, terms: Sequence[Term]) -> None:
    if not term.name or "/" in term.name:
        raise PalaestraError(f"a reward's name is not empty and has no '/', got {term.name!r}")
    if not math.isfinite(term.weight):
        raise PalaestraError(f"the weight of reward '{term.name}' is {term.weight}, not a number")
    outcomes = [other.name for other in terms if other.kind == "outcome"]
    if term.gate and term.gate not in outcomes:
        raise PalaestraError(
            f"reward '{term.name}' is gated by '{term.gate}', which is no outcome term of this "
            f"rubric.{did_you_mean(term.gate, outcomes)}"
        )
    if term.gate and term.kind == "outcome":
        raise PalaestraError(f"reward '{term.name}' is an outcome; only other kinds can be gated")
