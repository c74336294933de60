"""Agents without a model: experts, the null and random policies, and named heuristics.

They see the environment itself. An expert may know the gold; a heuristic says in its docstring
what it uses. All act through the tools only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..core import Message, PalaestraError, Task, ToolCall, ToolSpec, calling
from ..envs import Env
from ..envs.questions import mentions
from ..envs.sources.musique import fill


class Expert:
    """The environment's own expert; `style` makes it an imperfect one (`haste`, `slips`)."""

    def __init__(self, env: Env, seed: int, **style: Any):
        self.env, self.rng, self.style = env, np.random.default_rng([seed, 1]), style

    def act(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> Message:
        return self.env.expert(self.rng, **self.style)


class Null:
    """Says nothing, calls nothing: what an environment gives away for free."""

    def __init__(self, env: Env, seed: int):
        pass

    def act(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> Message:
        return Message("assistant")


class Random:
    """Random calls with arguments that fit their schemas: `action_space.sample()`."""

    def __init__(self, env: Env, seed: int):
        self.space = env.action_space
        self.space.seed(seed)

    def act(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> Message:
        return self.space.sample()  # type: ignore[return-value]


class Retriever:
    """Answers the questions of Search by searching and reading; it cannot read, only recognise.

    It knows the gold's sub-questions and searches them one after the other. It opens only what a
    search returned, and it recognises the gold answer of a step only where it stands, as whole
    words, in a document opened for that step; otherwise the next sub-question goes without it.
    When the final answer is not found it guesses the title of the best match.
    """

    def __init__(self, env: Env, seed: int, opens: int = 8):
        if not {"search", "open", "answer"} <= set(env.tool_table):
            raise PalaestraError(f"the retriever plays Search, not {type(env).__name__}")
        self.env, self.opens = env, opens
        self.replies: tuple[str, ...] = ()
        self.turns = self._play(env.task)

    def act(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> Message:
        replies = itertools.takewhile(lambda said: said.role == "tool", reversed(conversation))
        self.replies = tuple(said.content for said in replies)[::-1]
        return next(self.turns)

    def _play(self, task: Task) -> Iterator[Message]:
        """Two turns a sub-question, search and open; then the answer."""
        steps = _sub_questions(task)
        share = (self.env.max_tool_calls - 1) // len(steps) - 1
        read: dict[str, str] = {}
        found: list[str] = []
        cited: list[str] = []
        for step in steps:
            wanted = task.gold["answers"] if step is steps[-1] else [step["answer"]]
            query = fill(step["question"], found)
            yield calling("search", query=query, k=max(1, min(self.opens, share)))
            ids = re.findall(r"^\[(\S+)\] ", self.replies[0], re.MULTILINE)
            if fresh := [doc_id for doc_id in ids if doc_id not in read]:
                opens = tuple(ToolCall("open", {"doc_id": doc_id}) for doc_id in fresh)
                yield Message("assistant", tool_calls=opens)
                read.update(zip(fresh, self.replies, strict=True))
            answer, source = _recognise(wanted, {doc_id: read[doc_id] for doc_id in ids})
            found.append(answer)
            cited += [source] if source else []
        guess = read[ids[0]].partition("] ")[2].partition(":")[0] if ids else "unknown"
        yield calling("answer", text=found[-1] or guess, citations=list(dict.fromkeys(cited)))


def _sub_questions(task: Task) -> Sequence[Mapping[str, str]]:
    """The gold's decomposition; a world's chain as one, each hop about the object before it."""
    chain = task.gold["chain"]
    subjects = [chain[0]["subject"], *(f"#{number}" for number in range(1, len(chain)))]
    return task.gold.get("decomposition") or [
        {"question": f"{subject} {hop['relation']}", "answer": hop["object"]}
        for subject, hop in zip(subjects, chain, strict=True)
    ]


def _recognise(wanted: Sequence[str], texts: Mapping[str, str]) -> tuple[str, str]:
    """The first wanted string that stands in a text, and the id of that text."""
    for answer in wanted:
        for doc_id, text in texts.items():
            if mentions(text, answer):
                return answer, doc_id
    return "", ""


SCRIPTED: dict[str, Callable[[Env, int], Any]] = {
    "expert": Expert,
    "null": Null,
    "random": Random,
    "retriever": Retriever,
}
