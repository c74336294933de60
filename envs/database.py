"""A SQLite database that a policy can query and cannot change.

Read-only by construction, three times over: the file is opened `mode=ro` (an image lives in
memory), `query_only` is on, and an authorizer admits SELECT and reads alone, so that ATTACH, PRAGMA
and every write are refused before they run. A runaway query is stopped by a progress handler, and
what would differ from day to day (random numbers, the time) is refused or pinned.
"""

from __future__ import annotations

import difflib
import functools
import re
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import PalaestraError

Cell = None | int | float | str | bytes
Row = tuple[Cell, ...]

_ADMITTED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_FORBIDDEN_FUNCTIONS = {
    *("load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"),
    *("random", "randomblob"),  # the same episode must come out the same again
}
MAX_CELL = 64_000
MAX_RESULT = 20_000_000
"""Bytes of one cell, and of all cells of a result together."""
MAX_STEPS = 100_000_000
"""Steps of SQLite's virtual machine in one query: the same on a slow machine as on a fast one."""
_PULSE = 200
NOW = "2025-01-15 12:00:00"
"""What time it is in every database, so that an episode comes out the same tomorrow."""


class QueryError(Exception):
    """A query that failed; the text is fit for the model to read."""


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of a query. `more` says that rows were left out; `tables` were read to make them."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    more: bool = False
    tables: frozenset[str] = frozenset()


class Database:
    """One read-only connection. Made of a file's path, or of a serialized image.

    A query is stopped after `MAX_STEPS` steps, which does not depend on the machine, or after
    `timeout` seconds, whichever comes first.
    """

    def __init__(self, source: Path | bytes, timeout: float = 5.0):
        if not timeout > 0:
            raise PalaestraError(f"the time limit of queries is above 0 seconds, got {timeout}")
        self.timeout = timeout
        self._deadline = 0.0
        self._pulses = 0
        self._touched: set[str] = set()
        self._db = _connect(source)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 100_000)
        self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self.schema = _read_schema(self._db)
        self._db.execute("PRAGMA query_only = ON")
        self._db.set_authorizer(self._authorize)
        self._db.set_progress_handler(self._exhausted, _PULSE)
        _pin_clock(self._db)

    def query(self, sql: str, limit: int = 1000) -> Result:
        """Run one SELECT and return at most `limit` rows; raises QueryError, never changes data."""
        self._deadline = time.monotonic() + self.timeout
        self._pulses = 0
        self._touched = set()
        try:
            cursor = self._db.execute(sql)
            if cursor.description is None:
                raise QueryError("this is no query: it returns no rows; write a SELECT")
            rows, more = _fetch(cursor, limit)
            columns = tuple(column[0] for column in cursor.description)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            raise QueryError(self._explain(str(error))) from None
        return Result(columns, rows, more, frozenset(self._touched))

    def _exhausted(self) -> bool:
        self._pulses += 1
        return self._pulses * _PULSE > MAX_STEPS or time.monotonic() > self._deadline

    def _authorize(self, action: int, arg1: Any, arg2: Any, db: Any, trigger: Any) -> int:
        if action == sqlite3.SQLITE_READ:
            self._touched.add(str(arg1).lower())
        if action not in _ADMITTED:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and str(arg2).lower() in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def _explain(self, error: str) -> str:
        """SQLite's message with a hint: what is allowed, or the names that come near."""
        if "not authorized" in error or "prohibited" in error:
            return f"{error}: this database is read-only; only SELECT is allowed"
        if error == "interrupted":
            return "the query was stopped: it took too long; ask for less at once"
        missing = re.search(r"no such (column|table): (\S+)", error)
        if missing is None:
            return error
        name = missing.group(2).split(".")[-1].strip("\"`[]'")
        known = set(self.schema)
        if missing.group(1) == "column":
            known = {column for columns in self.schema.values() for column in columns}
        near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
        names = ", ".join(near or sorted(known)[:20])
        return f"{error}. {'Near' if near else 'Known'} {missing.group(1)} names: {names}"

    def close(self) -> None:
        self._db.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Database:
        return self  # nothing can change in it: sharing is copying

    def __del__(self) -> None:  # snapshots share the connection, so no episode may close it
        if db := getattr(self, "_db", None):
            db.close()


def _pin_clock(db: sqlite3.Connection) -> None:
    """Make SQLite's date functions take `NOW` for the present."""
    for name, given in (("strftime", 1), *((f, 0) for f in _DATE_FUNCTIONS)):
        db.create_function(name, -1, functools.partial(_at_now, name, given))
    for name, part in (("current_timestamp", NOW), ("current_date", NOW[:10])):
        db.create_function(name, 0, lambda value=part: value)
    db.create_function("current_time", 0, lambda: NOW[11:])


_DATE_FUNCTIONS = ("date", "time", "datetime", "julianday", "unixepoch")


def _at_now(name: str, given: int, *arguments: Any) -> Any:
    """SQLite's own function, with "now" (said, or meant by saying nothing) replaced."""
    said = [NOW if str(a).strip().lower() == "now" else a for a in arguments]
    if len(said) == given:
        said.append(NOW)
    marks = ", ".join("?" * len(said))
    return _clock().execute(f"SELECT {name}({marks})", said).fetchone()[0]


_THREAD = threading.local()


def _clock() -> sqlite3.Connection:
    """A connection of this thread's own whose date functions are SQLite's."""
    if not hasattr(_THREAD, "db"):
        _THREAD.db = sqlite3.connect(":memory:")
    return _THREAD.db  # type: ignore[no-any-return]


def _fetch(cursor: sqlite3.Cursor, limit: int) -> tuple[tuple[Row, ...], bool]:
    """At most `limit` rows and `MAX_RESULT` bytes, and whether there are more."""
    rows: list[Row] = []
    size = 0
    for row in cursor:
        size += sum(len(cell) if isinstance(cell, (str, bytes)) else 8 for cell in row)
        if len(rows) == limit or size > MAX_RESULT:
            return tuple(rows), True
        rows.append(row)
    return tuple(rows), False


def _connect(source: Path | bytes) -> sqlite3.Connection:
    """Episodes step in changing threads, one at a time: hence check_same_thread=False.

    Statements are not cached: a cached one would not pass the authorizer again.
    """
    options: Any = {
        "check_same_thread": False,
        "isolation_level": None,
        "cached_statements": 0,
    }
    if isinstance(source, bytes):
        db: sqlite3.Connection = sqlite3.connect(":memory:", **options)
        db.deserialize(source)
        return db
    if not source.is_file():
        raise PalaestraError(f"there is no database file {source}")
    uri = f"{source.resolve().as_uri()}?mode=ro&immutable=1"
    db = sqlite3.connect(uri, uri=True, **options)
    try:
        db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.DatabaseError as error:
        raise PalaestraError(f"{source} is not a readable SQLite database ({error})") from None
    return db


def _read_schema(db: sqlite3.Connection) -> Mapping[str, tuple[str, ...]]:
    """Column names by table, in the order of definition."""
    names = db.execute(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') "
        "AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    ).fetchall()
    return {
        name: tuple(row[1] for row in db.execute(f'PRAGMA table_info("{_quote(name)}")'))
        for (name,) in names
    }


def _quote(name: str) -> str:
    return name.replace('"', '""')
