"""SQL: answer questions by querying a database that is read-only for real."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core import Broken, Message, PalaestraError, Task, calling
from ..rewards.checklist import checklist
from ..rewards.core import Rubric, Term
from ..rewards.evidence import chain_items, evidence_gain
from ..rewards.outcome import errors, solved, waste
from ..rewards.sql import compare
from .database import Database, QueryError, Result
from .questions import QuestionEnv, asks
from .tools import Finish, Tool, ToolError, tool
from .world import RELATIONS, Hop, make_world


class SQL(QuestionEnv):
    """Questions of 1-3 hops over a small schema, or a published text-to-SQL set.

    World questions are answered in words (`answer`); text-to-SQL tasks by a query
    (`submit_sql`), whose rows are compared with the gold's: strictly for `solved` and the
    rewards, and by the benchmark's own rule for the fact `official`.

    Args:
        rows: how many rows of a result are shown.
        query_timeout: seconds after which a query is stopped; a count of steps usually does so.
    """

    env_id = "palaestra/SQL-v0"
    instruction = "Answer the question by querying the database."
    max_turns = 12
    formats: ClassVar = {"spider": "palaestra.envs.sources.spider:load"}
    metrics: ClassVar = ("f1", "official", "strict")
    rubric = Rubric(
        Term("answer", solved, "outcome", 1.0),
        Term("evidence", evidence_gain, "process", 0.2, shares=("seen_hops",)),
        Term("errors", errors, "process", 0.05),
        Term("waste", waste, "process", 0.05),
        Term("chain", checklist(chain_items), "checklist", 0.2, gate="answer"),
    )

    def __init__(self, *, rows: int = 50, query_timeout: float = 5.0, **options: Any):
        if rows < 1 or not query_timeout > 0:
            raise PalaestraError(f"rows and query_timeout are above 0: {rows}, {query_timeout}")
        self.rows, self.query_timeout = rows, query_timeout
        super().__init__(**options)

    def choose_tools(self) -> dict[str, Tool]:
        """`submit_sql` for text-to-SQL tasks, `answer` for questions in words."""
        unused = "answer" if "sql" in self.tasks[0].gold else "submit_sql"
        return {name: t for name, t in super().choose_tools().items() if name != unused}

    def begin(self, task: Task, rng: np.random.Generator) -> None:
        path = task.data.get("database")
        source = Path(path) if path else _world_image(*task.data["world"])
        self.db = Database(source, self.query_timeout)
        self.values: tuple[str, ...] = ()
        self.open_facts()
        if "sql" in task.gold:
            self.facts["official"] = self.facts["strict"] = False

    @tool
    def schema(self) -> str:
        """List the tables and their columns."""
        return "\n".join(
            f"{table}({', '.join(columns)})" for table, columns in self.db.schema.items()
        )

    @tool
    def run_sql(self, query: str) -> str:
        """Run a SELECT statement and read its rows.

        Args:
            query: one SQLite SELECT statement
        """
        result = self._query(query)
        self.note_used(query)
        if result.tables:  # what a query makes up is no support
            cells = (str(cell) for row in result.rows for cell in row)
            self.values = tuple(dict.fromkeys([*self.values, *cells]))
        self.note_seen(lambda hop: asks(query, hop["subject"]) and self._shows(result, hop))
        return render(result)

    @tool
    def answer(self, text: str) -> str:
        """Give the final answer, as short as possible. Ends the episode.

        Args:
            text: the answer alone
        """
        self.note_answer(text)
        self.facts["supported"] = text in self.values
        raise Finish

    @tool
    def submit_sql(self, query: str) -> str:
        """Submit the query whose rows answer the question. Ends the episode.

        Args:
            query: one SQLite SELECT statement
        """
        gold = self.task.gold["sql"]
        given = self._query(query, limit=100_000)
        try:
            verdict = compare(given, self.db.query(gold, limit=100_000), gold)
        except QueryError as error:
            raise Broken(f"the gold query of {self.task.id}", str(error)) from None
        self.facts["submitted"] = query
        self.facts["official"], self.facts["strict"] = verdict.official, verdict.strict
        self.facts["solved"] = verdict.strict
        raise Finish

    def _query(self, query: str, limit: int | None = None) -> Result:
        try:
            return self.db.query(query, limit or self.rows)
        except QueryError as error:
            raise ToolError(str(error)) from None

    def _shows(self, result: Result, hop: Any) -> bool:
        """A hop is seen when its object is the one value of its own column.

        One row alone: dumping a whole table does not count as having found everything.
        """
        column = hop["relation"].replace(" ", "_")
        if column not in result.columns or len(result.rows) != 1:
            return False
        shown = str(result.rows[0][result.columns.index(column)])
        return bool(shown == hop["object"])

    # ---- the expert ------------------------------------------------------------------------

    def expert(self, rng: np.random.Generator, haste: float = 0.0, slips: float = 0.0) -> Message:
        if "sql" in self.task.gold:  # run the gold once, then submit it
            gold = self.task.gold["sql"]
            ran = any(turn.message.tool_calls for turn in self.episode.turns)
            return calling("submit_sql" if ran else "run_sql", query=gold)
        return super().expert(rng, haste, slips)

    def look_up(self, thought: str, hop: Hop) -> Message:
        return calling("run_sql", thought, query=select(hop.relation, hop.subject, self._kind(hop)))

    def slip(self, thought: str, hop: Hop, rng: np.random.Generator) -> Message:
        """A relation that the table does not have, as someone who forgot the schema would."""
        query = select(hop.relation + " name", hop.subject, self._kind(hop))
        return calling("run_sql", thought, query=query)

    def _kind(self, hop: Hop) -> str:
        return next(r.subject for r in RELATIONS if r.name == hop.relation)


def select(relation: str, subject: str, table: str) -> str:
    return f"SELECT {relation.replace(' ', '_')} FROM {table} WHERE name = '{subject}'"


def render(result: Result) -> str:
    """A result as the policy reads it: a header, rows, and what was left out."""
    if not result.rows:
        return f"{' | '.join(result.columns)}\n(no rows)"
    lines = [" | ".join(_cell(cell) for cell in row) for row in result.rows]
    more = [f"(showing {len(lines)} rows; there are more)"] if result.more else []
    return "\n".join([" | ".join(result.columns), *lines, *more])


def _cell(value: Any) -> str:
    text = "NULL" if value is None else str(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


@functools.lru_cache(maxsize=512)
def _world_image(seed: int, split: str, index: int, names: Any) -> bytes:
    return make_world(seed, split, index, names).database()
