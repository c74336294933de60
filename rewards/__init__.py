"""Rewards: pure functions of an episode, combined by a Rubric into a Ledger."""

from .core import Rubric, Score, Term

__all__ = ["Rubric", "Score", "Term"]
