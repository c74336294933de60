"""Comparing the rows of two queries: the benchmark's rule and our strict one, both named.

*official* is Spider's execution accuracy (test-suite-sql-eval; mark B, from its description): two
empty results are equal; otherwise equal counts of rows and columns, columns in any order, rows as
a multiset, in order when the gold has an ORDER BY. *strict* keeps the order of columns and does not
take an empty result on trust: the prediction must have read the same tables.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Rows(Protocol):
    """What is compared: rows, their columns, and the tables that were read to make them."""

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> tuple[tuple[Any, ...], ...]: ...
    @property
    def tables(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    official: bool
    strict: bool


def compare(given: Rows, gold: Rows, gold_sql: str) -> Verdict:
    """Both verdicts on a prediction's result against the gold's."""
    ordered = re.search(r"order\s+by", gold_sql, re.IGNORECASE) is not None
    return Verdict(official(given.rows, gold.rows, ordered), strict(given, gold, ordered))


def official(given: Sequence[Any], gold: Sequence[Any], ordered: bool) -> bool:
    """Spider's rule; see the module's docstring."""
    if not given and not gold:
        return True
    if len(given) != len(gold) or len(given[0]) != len(gold[0]):
        return False
    return any(
        _same_rows([tuple(row[i] for i in order) for row in given], gold, ordered)
        for order in _column_orders(given, gold)
    )


def strict(given: Rows, gold: Rows, ordered: bool) -> bool:
    """Columns in order, rows as a multiset (in order if `ordered`), an empty gold by its tables."""
    if len(given.columns) != len(gold.columns) or len(given.rows) != len(gold.rows):
        return False
    if not gold.rows:
        return given.tables == gold.tables
    return _same_rows(given.rows, gold.rows, ordered)


def _same_rows(given: Sequence[Any], gold: Sequence[Any], ordered: bool) -> bool:
    left = [tuple(map(_key, row)) for row in given]
    right = [tuple(map(_key, row)) for row in gold]
    return left == right if ordered else Counter(left) == Counter(right)


def _key(cell: Any) -> Any:
    """Cells compare by value: 1 equals 1.0, floats to 9 significant digits, text by itself."""
    if isinstance(cell, (int, float)):
        return ("number", float(f"{float(cell):.9g}"))
    return (type(cell).__name__, cell)


def _column_orders(given: Sequence[Any], gold: Sequence[Any]) -> Any:
    """Permutations of columns whose multisets of values agree; few in practice."""
    width = len(gold[0])
    bag = [Counter(_key(row[i]) for row in given) for i in range(width)]
    wanted = [Counter(_key(row[i]) for row in gold) for i in range(width)]
    choices = [[i for i in range(width) if bag[i] == want] for want in wanted]
    for order in itertools.product(*choices):
        if len(set(order)) == width:
            yield order
