"""Honest intervals for small samples: proportions, and differences between runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1) when nothing was observed."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    before: Sequence[float], after: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of `after - before` over the same tasks, with its normal interval (mean, low, high)."""
    if len(before) != len(after) or len(before) < 2:
        raise ValueError(f"need two equally long samples, got {len(before)} and {len(after)}")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean = math.fsum(differences) / len(differences)
    variance = math.fsum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance / len(differences))
    return mean, mean - half, mean + half
