"""Comparing the rows of two queries: the benchmark's rule and our strict one, both named.

*official* is Spider's execution accuracy (test-suite-sql-eval; mark B, from its description): two
empty results are equal; otherwise equal counts of rows and columns, columns in any order, rows as
a multiset, in order when the gold says "order by" anywhere. Cells are equal as SQLite's values in
Python are: 1 equals 1.0, NULL equals NULL, text is compared exactly. The queries are run as they
stand, which is that script's `--keep_distinct`; by default it deletes every DISTINCT from both
first. It also asks several instances of a database; here there is the one that is given.

*strict* keeps the order of columns and does not take an empty result on trust: the prediction must
have read the same tables. That is a limit both ways: an equivalent query over other tables is
refused, and a wrong condition on the right tables passes. Strict forgives one thing that official
does not, rounding noise beyond the 12th digit of a float; apart from it, strict implies official.
"""

from __future__ import annotations

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
    @property
    def more(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    official: bool
    strict: bool


def compare(given: Rows, gold: Rows, gold_sql: str) -> Verdict:
    """Both verdicts on a prediction's result against the gold's."""
    spider_ordered = "order by" in gold_sql.lower()  # to the letter; line breaks escape it
    ordered = re.search(r"order\s+by", gold_sql, re.IGNORECASE) is not None
    return Verdict(official(given.rows, gold.rows, spider_ordered), strict(given, gold, ordered))


def official(given: Sequence[Any], gold: Sequence[Any], ordered: bool) -> bool:
    """Spider's rule; see the module's docstring."""
    if not given and not gold:
        return True
    if len(given) != len(gold) or len(given[0]) != len(gold[0]):
        return False
    if ordered:  # rows stay where they are, so columns are free to be matched one by one
        return Counter(zip(*given, strict=True)) == Counter(zip(*gold, strict=True))
    return _match_columns(given, gold)


def strict(given: Rows, gold: Rows, ordered: bool) -> bool:
    """Columns in order, rows as a multiset (in order if `ordered`), an empty gold by its tables."""
    if len(given.columns) != len(gold.columns) or len(given.rows) != len(gold.rows):
        return False
    if given.more or gold.more or (gold.tables and not given.tables):
        return False  # rows that were not seen, or constants that were written down
    if not gold.rows:
        return given.tables == gold.tables
    left = [tuple(map(_rounded, row)) for row in given.rows]
    right = [tuple(map(_rounded, row)) for row in gold.rows]
    return left == right if ordered else Counter(left) == Counter(right)


def _rounded(cell: Any) -> Any:
    """A cell without rounding noise: whole numbers exactly, other floats to 12 digits."""
    if isinstance(cell, float) and not cell.is_integer():
        return float(f"{cell:.12g}")
    return cell


def _match_columns(given: Sequence[Any], gold: Sequence[Any]) -> bool:
    """Whether some order of given's columns makes the two multisets of rows equal.

    Backtracking, one gold column after the other. Two things keep it small: given columns with
    the same values are interchangeable, so that only one of them is tried, and the rows must
    agree as multisets on the columns placed so far.
    """
    wanted = list(zip(*gold, strict=True))
    spare = Counter(zip(*given, strict=True))
    numbers: dict[Any, int] = {}

    def longer(starts: Sequence[int], column: Sequence[Any]) -> list[int]:
        """The starts of rows with one more cell each; equal starts get equal numbers."""
        pairs = zip(starts, column, strict=True)
        return [numbers.setdefault(pair, len(numbers)) for pair in pairs]

    def place(at: int, given_starts: Sequence[int], gold_starts: Sequence[int]) -> bool:
        if at == len(wanted):
            return True
        gold_next = longer(gold_starts, wanted[at])
        for column in [column for column, left in spare.items() if left]:
            given_next = longer(given_starts, column)
            if Counter(given_next) == Counter(gold_next):
                spare[column] -= 1
                if place(at + 1, given_next, gold_next):
                    return True
                spare[column] += 1
        return False

    nothing = [0] * len(gold)
    return place(0, nothing, nothing)
