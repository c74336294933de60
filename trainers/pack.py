"""From trajectories to padded rows of tokens: the one place where masks are made.

A row is one path through a trajectory's segments. Only sampled tokens carry an advantage; prompt
and tool tokens never reach the loss. Rows are sorted by length into micro-batches of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..agents.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence. All tuples have the length of `ids`; `weight` 0 leaves a token out.

    Example: a prompt of 2 tokens, a sampled reply of 2, advantage 0.5:
    `ids=(7, 8, 9, 4), weight=(0, 0, 1, 1), advantage=(0, 0, .5, .5), logprob=(0, 0, -.1, -2)`.
    """

    ids: tuple[int, ...]
    weight: tuple[float, ...]
    advantage: tuple[float, ...] = ()
    logprob: tuple[float, ...] = ()


def row_of(trajectory: Trajectory, advantages: Sequence[float]) -> list[Row]:
    """The rows of a trajectory, given one advantage per turn.

    A sampled segment that several branches share is trained on in the first of them only.
    """
    rows, used = [], set()
    for path in trajectory.paths():
        ids: list[int] = []
        weight: list[float] = []
        advantage: list[float] = []
        logprob: list[float] = []
        for segment in path:
            count = len(segment.ids)
            scored = segment.sampled and id(segment) not in used
            used.add(id(segment))
            ids += segment.ids
            weight += [float(scored)] * count
            advantage += [advantages[segment.turn] if scored else 0.0] * count
            logprob += segment.logprobs if scored else [0.0] * count
        rows.append(Row(tuple(ids), tuple(weight), tuple(advantage), tuple(logprob)))
    return rows


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right, and the scored positions flattened.

    `ids` [rows, time]. `where` [scored, 2] holds (row, position) of every token with weight; the
    other tensors have shape [scored].
    """

    ids: Tensor
    where: Tensor
    target: Tensor
    weight: Tensor
    advantage: Tensor
    logprob: Tensor


def pack(rows: Sequence[Row], pad: int = 0) -> Batch:
    """Padding comes after every real token, so causal attention alone keeps it out."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[pad] * (width - len(row.ids))] for row in rows])
    where, flat = [], []
    for index, row in enumerate(rows):
        advantage = row.advantage or (0.0,) * len(row.ids)
        logprob = row.logprob or (0.0,) * len(row.ids)
        for position, weight in enumerate(row.weight):
            if weight and position:  # the first token has nothing before it to predict it
                where.append((index, position))
                flat.append((weight, advantage[position], logprob[position]))
    columns = torch.tensor(flat, dtype=torch.float32).reshape(-1, 3)
    places = torch.tensor(where, dtype=torch.long).reshape(-1, 2)
    target = ids[places[:, 0], places[:, 1]]
    return Batch(ids, places, target, columns[:, 0], columns[:, 1], columns[:, 2])


def micro_batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Rows of similar length together, each batch at most `tokens` cells including padding."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: (len(row.ids), row.ids)):
        if batch and (len(batch) + 1) * len(row.ids) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
