"""The database that a policy can query and cannot change: refusals, time-outs, hints."""

import contextlib
import hashlib
import sqlite3
import time

import pytest

from palaestra.core import PalaestraError
from palaestra.envs.database import Database, QueryError

SCRIPT = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, country TEXT);
CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, singer_id INTEGER, venue TEXT);
INSERT INTO singer VALUES (1, 'Joe', 'France'), (2, 'Ann', NULL), (3, 'Li', 'China');
INSERT INTO concert VALUES (1, 1, 'Hall'), (2, 1, 'Park');
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "concerts.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(SCRIPT)
    db.close()
    return path


@pytest.fixture(params=["file", "image"])
def db(request, file):
    source = file if request.param == "file" else image(file)
    database = Database(source, timeout=0.3)
    yield database
    database.close()


def made_of(script, **options):
    db = sqlite3.connect(":memory:")
    db.executescript(script)
    data = db.serialize()
    db.close()
    return Database(data, **options)


def image(file):
    db = sqlite3.connect(file)
    data = db.serialize()
    db.close()
    return data


def refusal(db, sql):
    with pytest.raises(QueryError) as caught:
        db.query(sql)
    return str(caught.value)


def test_a_select_gives_columns_and_rows(db):
    result = db.query("SELECT name, country FROM singer ORDER BY singer_id")
    assert result.columns == ("name", "country")
    assert result.rows == (("Joe", "France"), ("Ann", None), ("Li", "China"))
    assert not result.more


def test_a_result_says_that_rows_were_left_out(db):
    result = db.query("SELECT name FROM singer", limit=2)
    assert (len(result.rows), result.more) == (2, True)
    assert not db.query("SELECT name FROM singer", limit=3).more


def test_a_result_names_the_tables_it_was_made_of(db):
    counted = "SELECT count(*) FROM Singer"
    nested = "WITH c AS (SELECT * FROM singer) SELECT venue FROM concert JOIN c"
    assert db.query(counted).tables == {"singer"}
    assert db.query("SELECT 1").tables == frozenset()
    assert {"singer", "concert"} <= db.query(nested).tables


def test_a_query_that_is_run_again_names_its_tables_again(db):
    query = "SELECT name FROM singer"
    assert db.query(query).tables == db.query(query).tables == {"singer"}


WRITES = [
    "DELETE FROM singer",
    "UPDATE singer SET name = 'x'",
    "INSERT INTO singer VALUES (9, 'x', 'y')",
    "DROP TABLE singer",
    "CREATE TABLE mine (a)",
    "CREATE TEMP TABLE mine (a)",
    "ATTACH DATABASE '{folder}/other.sqlite' AS other",
    "VACUUM INTO '{folder}/other.sqlite'",
    "PRAGMA writable_schema = ON",
    "PRAGMA query_only = OFF",
    "SELECT * FROM pragma_database_list",
    "SELECT load_extension('evil')",
    "BEGIN IMMEDIATE",
    "REINDEX",
    "WITH gone AS (SELECT 1) DELETE FROM singer WHERE singer_id IN gone",
    "INSERT INTO singer VALUES (9, 'x', 'y') RETURNING name",
]


@pytest.mark.parametrize("sql", WRITES)
def test_whatever_is_no_select_is_refused_and_changes_nothing(db, file, sql):
    before = hashlib.sha256(file.read_bytes()).digest(), sorted(file.parent.iterdir())
    refusal(db, sql.format(folder=file.parent))
    assert db.query("SELECT count(*), max(name) FROM singer").rows == ((3, "Li"),)
    after = hashlib.sha256(file.read_bytes()).digest(), sorted(file.parent.iterdir())
    assert before == after


def test_a_refused_write_says_what_is_allowed(db):
    assert "only SELECT is allowed" in refusal(db, "DELETE FROM singer")


def test_two_statements_are_refused(db):
    refusal(db, "SELECT 1; DELETE FROM singer")
    assert db.query("SELECT count(*) FROM singer").rows == ((3,),)


def test_an_empty_query_is_told_to_be_a_select(db):
    assert "write a SELECT" in refusal(db, "  -- nothing")


RUNAWAYS = {
    "a cross join": "SELECT count(*) FROM " + ", ".join(f"singer s{i}" for i in range(30)),
    "a recursion": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    "SELECT count(*) FROM n",
}


@pytest.mark.parametrize("sql", RUNAWAYS.values(), ids=RUNAWAYS)
def test_a_runaway_query_is_stopped_and_the_next_one_runs(db, sql):
    started = time.monotonic()
    assert refusal(db, sql) == "the query was stopped: it took too long; ask for less at once"
    assert 0.25 < time.monotonic() - started < 3
    assert db.query("SELECT count(*) FROM singer").rows == ((3,),)


def test_a_misspelt_column_is_answered_with_the_nearest_names(db):
    assert "Near column names: venue" in refusal(db, "SELECT venu FROM concert")


def test_a_misspelt_table_is_answered_with_the_nearest_names(db):
    assert refusal(db, "SELECT * FROM singers").endswith("Near table names: singer")


def test_an_unknown_table_is_answered_with_the_known_names(db):
    assert refusal(db, "SELECT * FROM xyzzy").endswith("Known table names: concert, singer")


BAD = ["SELEC", "SELECT x FROM singer", "SELECT ?", "SELECT '\0'", "SELECT f()", "PRAGMA hello"]


@pytest.mark.parametrize("sql", [*BAD, *WRITES])
def test_no_error_tells_where_the_file_lies(db, file, sql):
    assert str(file.parent) not in refusal(db, sql.format(folder="elsewhere"))


def test_a_cell_of_ten_megabytes_is_refused(db):
    assert refusal(db, "SELECT zeroblob(10000000)") == "string or blob too big"
    assert "too big" in refusal(db, "SELECT hex(zeroblob(900000))")


def test_text_that_is_not_utf8_is_read_and_not_a_crash(db):
    assert db.query("SELECT CAST(x'ff41' AS TEXT)").rows == (("\ufffdA",),)


def test_a_number_too_large_for_sqlite_is_a_float_and_not_a_crash(db):
    assert db.query("SELECT 9223372036854775808").rows == ((9.223372036854775808e18,),)


def test_the_schema_names_tables_and_columns_in_their_order(db):
    assert list(db.schema) == ["singer", "concert"]
    assert db.schema["concert"] == ("concert_id", "singer_id", "venue")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PalaestraError, match=r"there is no database file .*nothing\.sqlite"):
        Database(tmp_path / "nothing.sqlite")


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "notes.sqlite").write_text("these are notes, and long enough to be no header" * 20)
    with pytest.raises(PalaestraError, match=r"notes\.sqlite is not a readable SQLite database"):
        Database(tmp_path / "notes.sqlite")


def test_one_long_function_cannot_outlast_the_limit():
    """One step of SQLite's machine may do much work on long text: cells are short, so it cannot."""
    db = made_of("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1), (2), (3)")
    started = time.monotonic()
    with pytest.raises(QueryError):
        db.query("SELECT instr(hex(zeroblob(450000)), hex(zeroblob(100000 + n)) || '1') FROM t")
    sql = "SELECT sum(instr(hex(zeroblob(30000)), hex(zeroblob(15000 + n)) || '1')) FROM t"
    with contextlib.suppress(QueryError):
        db.query(sql)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("SELECT CURRENT_TIMESTAMP", "2025-01-15 12:00:00"),
        ("SELECT current_date", "2025-01-15"),
        ("SELECT date('now', '-1 day')", "2025-01-14"),
        ("SELECT datetime()", "2025-01-15 12:00:00"),
        ("SELECT strftime('%Y')", "2025"),
        ("SELECT strftime('%Y', '1999-05-01')", "1999"),
        ("SELECT date('1999-05-01', '+1 month')", "1999-06-01"),
        ("SELECT julianday('now') - julianday('2025-01-15 12:00:00')", 0.0),
    ],
)
def test_the_time_is_the_same_every_day(sql, value):
    db = made_of("CREATE TABLE t (n INTEGER)")
    assert db.query(sql).rows == ((value,),)


def test_the_limit_of_a_query_is_counted_in_steps_and_so_the_same_everywhere():
    db = made_of("CREATE TABLE t (n INTEGER)", timeout=1000)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
    with pytest.raises(QueryError, match="was stopped"):
        db.query(endless)
