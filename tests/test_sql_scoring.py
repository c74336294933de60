"""The two verdicts on a query's rows, by hand and against brute force."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.envs.database import Result
from palaestra.rewards.sql import Verdict, compare, official, strict

BOTH, OFFICIAL_ONLY, STRICT_ONLY, NEITHER = (
    Verdict(official=o, strict=s)
    for o, s in [(True, True), (True, False), (False, True), (False, False)]
)


def result(*rows, tables=("t",)):
    columns = tuple(f"c{i}" for i in range(len(rows[0]) if rows else 1))
    return Result(columns, rows, tables=frozenset(tables))


def verdict(given, gold, sql="SELECT a FROM t"):
    return compare(result(*given), result(*gold), sql)


def test_equal_rows_pass_both_rules():
    assert verdict([(1, "a"), (2, "b")], [(1, "a"), (2, "b")]) == BOTH


def test_row_order_is_free_without_order_by():
    assert verdict([(2,), (1,)], [(1,), (2,)]) == BOTH


@pytest.mark.parametrize("clause", ["ORDER BY a", "order by a", "oRdEr By a"])
def test_row_order_counts_when_the_gold_has_order_by(clause):
    assert verdict([(2,), (1,)], [(1,), (2,)], f"SELECT a FROM t {clause}") == NEITHER
    assert verdict([(1,), (2,)], [(1,), (2,)], f"SELECT a FROM t {clause}") == BOTH


def test_an_order_by_with_a_line_break_escapes_spiders_rule_and_not_ours():
    assert verdict([(2,), (1,)], [(1,), (2,)], "SELECT a FROM t ORDER\nBY a") == OFFICIAL_ONLY


def test_duplicates_count():
    assert verdict([(1,), (1,), (2,)], [(1,), (2,), (2,)]) == NEITHER
    assert verdict([(1,)], [(1,), (1,)]) == NEITHER


def test_permuted_columns_pass_the_official_rule_alone():
    assert verdict([("a", 1), ("b", 2)], [(1, "a"), (2, "b")]) == OFFICIAL_ONLY


def test_permuted_columns_pass_in_order_too():
    sql = "SELECT a, b FROM t ORDER BY a"
    assert verdict([("a", 1), ("b", 2)], [(1, "a"), (2, "b")], sql) == OFFICIAL_ONLY
    assert verdict([("b", 2), ("a", 1)], [(1, "a"), (2, "b")], sql) == NEITHER


def test_columns_that_agree_one_by_one_must_agree_row_by_row():
    assert verdict([(1, 2), (2, 1)], [(1, 1), (2, 2)]) == NEITHER


def test_a_missing_or_an_extra_column_fails():
    assert verdict([(1, 1)], [(1,)]) == NEITHER
    assert verdict([(1,)], [(1, 1)]) == NEITHER


def test_null_equals_null_and_nothing_else():
    assert verdict([(None,)], [(None,)]) == BOTH
    for other in (0, "", "NULL", b""):
        assert verdict([(other,)], [(None,)]) == NEITHER


def test_one_equals_one_point_zero_and_not_its_text():
    assert verdict([(1.0,)], [(1,)]) == BOTH
    assert verdict([("1",)], [(1,)]) == NEITHER


def test_large_whole_numbers_are_told_apart():
    assert verdict([(5550001111,)], [(5550001112,)]) == NEITHER
    assert verdict([(2**53 + 1,)], [(2**53,)]) == NEITHER


def test_rounding_noise_is_forgiven_by_the_strict_rule_alone():
    assert verdict([(0.1 + 0.2,)], [(0.3,)]) == STRICT_ONLY
    assert verdict([(0.3001,)], [(0.3,)]) == NEITHER


def test_text_is_compared_exactly():
    assert verdict([("Paris ",)], [("Paris",)]) == NEITHER
    assert verdict([("paris",)], [("Paris",)]) == NEITHER


def test_two_empty_results_pass_strictly_only_if_the_same_tables_were_read():
    gold = result(tables=["singer"])
    assert compare(result(tables=["singer"]), gold, "SELECT a FROM singer") == BOTH
    assert compare(result(tables=["concert"]), gold, "SELECT a FROM singer") == OFFICIAL_ONLY
    assert compare(result(tables=[]), gold, "SELECT a FROM singer") == OFFICIAL_ONLY


def test_two_empty_results_need_equal_widths_only_strictly():
    wide = Result(("a", "b"), (), tables=frozenset({"t"}))
    assert compare(wide, result(), "SELECT a FROM t") == OFFICIAL_ONLY


def test_an_empty_result_never_equals_rows():
    assert verdict([], [(1,)]) == NEITHER
    assert verdict([(1,)], []) == NEITHER


def test_many_identical_columns_are_compared_at_once():
    same = [(i % 3,) * 12 for i in range(200)]
    almost = [*same[:-1], (*same[-1][:-1], 7)]
    started = time.perf_counter()
    assert verdict(same, same[::-1]) == BOTH
    assert verdict(almost, same) == NEITHER
    assert time.perf_counter() - started < 1


def test_many_columns_with_equal_values_in_other_rows_are_compared_at_once():
    size = 12
    shifted = [tuple((row + column) % size for column in range(size)) for row in range(size)]
    mirrored = [tuple((row * 5 + column * 7) % size for column in range(size)) for row in range(12)]
    spoilt = [(*shifted[0][1:], shifted[0][0]), *shifted[1:]]
    started = time.perf_counter()
    assert official([row[::-1] for row in shifted[::-1]], shifted, ordered=False)
    assert official(mirrored, shifted, ordered=False)
    assert not official(spoilt, shifted, ordered=False)
    assert time.perf_counter() - started < 1


cells = st.sampled_from([0, 1, 1.0, None, "1"])
tables = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.tuples(*[cells] * width), min_size=1, max_size=4)
)


@given(tables, st.data(), st.booleans())
def test_the_official_rule_is_what_trying_every_permutation_gives(gold, data, ordered):
    order = data.draw(st.permutations(range(len(gold[0]))))
    rows = [tuple(row[i] for i in order) for row in data.draw(st.permutations(gold))]
    if data.draw(st.booleans()):
        rows[0] = data.draw(st.tuples(*[cells] * len(order)))
    assert official(rows, gold, ordered) == tries_everything(rows, gold, ordered)


def tries_everything(given, gold, ordered):
    for order in itertools.permutations(range(len(gold[0]))):
        rows = [tuple(row[i] for i in order) for row in given]
        left = list(gold)
        if rows == gold or (not ordered and not [r for r in rows if not took(left, r)]):
            return True
    return False


def took(rows, row):
    found = row in rows
    if found:
        rows.remove(row)
    return found


@given(tables, st.data(), st.booleans())
def test_what_is_strictly_right_is_officially_right(gold, data, ordered):
    rows = data.draw(st.permutations(gold))
    if strict(result(*rows), result(*gold), ordered):
        assert official(rows, gold, ordered)


def test_constants_that_were_written_down_are_not_strictly_an_answer():
    gold = result((1, "a"), (2, "b"))
    assert compare(result((1, "a"), (2, "b"), tables=()), gold, "SELECT x") == OFFICIAL_ONLY


def test_rows_that_were_cut_off_are_not_compared():
    whole = result((1,), (2,))
    cut = Result(whole.columns, whole.rows, True, whole.tables)
    assert compare(cut, whole, "SELECT x") == OFFICIAL_ONLY
