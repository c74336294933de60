"""Rewards: pure functions of an episode, combined by a Rubric into a Ledger.

REWARDS is the table of terms that any environment can be given by name (`rewards={"waste": 0.1}`).
"""

from .checklist import checklist
from .core import Rubric, Score, Term
from .evidence import chain_items, evidence_gain
from .outcome import brevity, errors, solved, waste

REWARDS: dict[str, Term] = {
    term.name: term
    for term in (
        Term("solved", solved, "outcome"),
        Term("brevity", brevity, "process", 0.1, shares=("solved",)),
        Term("errors", errors, "process", 0.05),
        Term("waste", waste, "process", 0.05),
        Term("evidence", evidence_gain, "process", 0.2, shares=("seen_hops",)),
        Term("chain", checklist(chain_items), "checklist", 0.2),
    )
}

__all__ = ["REWARDS", "Rubric", "Score", "Term"]
