"""A trajectory: an episode, its ledger, and the token segments it was made of.

The segments are the only truth for training. Text is derived from them and never encoded again.
They form a tree (`parent`), so that branches share what they share; a plain episode is a chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core import Episode, Ledger


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of token ids: given to the policy, or sampled by it.

    `logprobs` (sampled only) has one value per id, under the distribution that was sampled from
    by weights `version`. `turn` is the turn the segment belongs to (a turn's observation comes
    before its sampled reply). `parent` is the index of the segment it continues; -1 is the root.
    """

    ids: tuple[int, ...]
    sampled: bool
    turn: int
    parent: int
    logprobs: tuple[float, ...] = ()
    version: int = 0


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode as the trainer and the records see it.

    `group` names the siblings (same task, same seed), `sample` numbers them. `seconds` is the
    time from start to end by phase ("policy", "env").
    """

    episode: Episode
    ledger: Ledger
    segments: tuple[Segment, ...] = ()
    group: str = ""
    sample: int = 0
    policy: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        return self.episode.valid and self.ledger.valid

    @property
    def tokens(self) -> int:
        """How many tokens were sampled."""
        return sum(len(segment.ids) for segment in self.segments if segment.sampled)

    def paths(self) -> list[list[Segment]]:
        """The segments from the root to each leaf; one path for a plain episode."""
        parents = {segment.parent for segment in self.segments}
        leaves = [i for i in range(len(self.segments)) if i not in parents]
        return [path_to(self.segments, leaf) for leaf in leaves]


def path_to(segments: Sequence[Segment], index: int) -> list[Segment]:
    """The segments from the root to `index`."""
    path = []
    while index >= 0:
        path.append(segments[index])
        index = segments[index].parent
    return path[::-1]
