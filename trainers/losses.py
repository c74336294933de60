"""Policy losses over the sampled tokens of a batch. All tensors have shape [scored]."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped(
    logprob: Tensor,
    sampled: Tensor,
    advantage: Tensor,
    weight: Tensor,
    low: float = 0.2,
    high: float = 0.28,
) -> Tensor:
    """PPO's clipped surrogate with asymmetric bounds (DAPO's clip-higher, mark A*), summed.

    -min(r A, clip(r, 1 - low, 1 + high) A), r = exp(logprob - sampled). `sampled` are the
    sampler's own log-probabilities ("old := sampler"). The caller divides the sum by the number of
    scored tokens of the *whole* update, so micro-batches do not change it.
    """
    ratio = (logprob - sampled).exp()
    bounded = ratio.clamp(1 - low, 1 + high)
    return -(torch.minimum(ratio * advantage, bounded * advantage) * weight).sum()


def cross_entropy(logprob: Tensor, weight: Tensor) -> Tensor:
    """Weighted negative log-likelihood, summed; the caller divides by the weight of the update."""
    return -(logprob * weight).sum()
