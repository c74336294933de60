"""Spider-like text-to-SQL sets: `questions.json` and `databases/<db>.sqlite` in one folder.

`questions.json` is a list of {db, query, gold, hardness, db_tables}, as InterCode repackages
Spider's development set (Yu et al. 2018), with its databases converted to SQLite.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from ...core import PalaestraError, Task, system, user
from ..database import Database, QueryError
from .files import field, read_text

INSTRUCTION = (
    "Write one SQLite query whose rows answer the question. "
    "Try queries with run_sql, then submit the final one with submit_sql."
)


def load(path: str) -> list[Task]:
    """The tasks of the folder `path`, all of split "test": a file set is one split.

    Every gold query runs once (milliseconds); a task whose gold fails is left out with a warning.
    """
    folder = Path(path).resolve()
    records = _read_list(folder / "questions.json")
    tasks = [_task(number, record, folder) for number, record in enumerate(records)]
    files = dict.fromkeys(task.data["database"] for task in tasks)
    databases = {file: Database(Path(file)) for file in files}
    runnable = [task for task in tasks if _runs(task, databases[task.data["database"]])]
    for database in databases.values():
        database.close()
    return runnable


def _read_list(file: Path) -> list[Any]:
    try:
        records = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise PalaestraError(f"{file}, line {error.lineno} is not JSON: {error.msg}") from None
    if not isinstance(records, list):
        raise PalaestraError(f"{file} is not a JSON list of questions")
    return records


def _task(number: int, record: Any, folder: Path) -> Task:
    where = f"questions.json, record {number}"
    db, hardness = field(record, "db", str, where), field(record, "hardness", str, where)
    question, tables = field(record, "query", str, where), field(record, "db_tables", dict, where)
    columns = {table: field(tables, table, list, f"{where}, db_tables") for table in tables}
    schema = "\n".join(f"{table}({', '.join(names)})" for table, names in columns.items())
    return Task(
        id=f"spider-{number}",
        env="palaestra/SQL-v0",
        split="test",
        messages=(system(INSTRUCTION), user(f"{question}\n\nTables:\n{schema}")),
        data={"database": str(folder / "databases" / f"{db}.sqlite")},
        gold={"sql": field(record, "gold", str, where), "hardness": hardness},
        tags=(hardness, db),
    )


def _runs(task: Task, database: Database) -> bool:
    """Whether the task's gold query runs; warns when it does not."""
    try:
        database.query(task.gold["sql"])
    except QueryError as error:
        warnings.warn(f"{task.id} is left out: its gold query fails ({error})", stacklevel=2)
        return False
    return True
