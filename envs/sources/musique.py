"""MuSiQue-like multi-hop questions: `corpus.jsonl` and `queries.jsonl` in one folder.

A document is {doc_id, title, text}; a question is {id, question, answer, answer_aliases,
decomposition: [{question, answer, support_doc_id}]}, where "#1" in a sub-question stands for the
answer of the first one (Trivedi et al. 2022). The whole corpus is searched, for every question.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core import PalaestraError, Task, system, user
from ..retrieval import Corpus
from ..world import Document
from .files import field, read_text

INSTRUCTION = (
    "Answer the question from the documents, in the fewest words. "
    "Search, open what you need to read, and cite the documents that you used."
)
_DOCUMENT = ("doc_id", "title", "text")
_STEP = ("question", "answer", "support_doc_id")


def load(path: str) -> list[Task]:
    """The tasks of the folder `path`, all of split "test": a file set is one split."""
    folder = Path(path).resolve()
    corpus = str(folder / "corpus.jsonl")
    titles = {doc.id: doc.title for doc in read_corpus(corpus).documents.values()}
    records = _read_lines(folder / "queries.jsonl")
    _refuse_repeats("queries.jsonl", "id", records)
    return [_task(number, record, corpus, titles) for number, record in records.items()]


@functools.lru_cache(maxsize=8)
def read_corpus(path: str) -> Corpus:
    """The corpus in a file, read and indexed once; tasks name it by its path."""
    records = _read_lines(Path(path))
    if not records:
        raise PalaestraError(f"{path} holds no documents")
    _refuse_repeats("corpus.jsonl", "doc_id", records)
    return Corpus([_document(number, record) for number, record in records.items()])


def _read_lines(file: Path) -> dict[int, Any]:
    """The JSON value of every line that is not blank, by line number."""
    records = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            try:
                records[number] = json.loads(line)
            except json.JSONDecodeError as error:
                raise PalaestraError(f"{file}, line {number} is not JSON: {error.msg}") from None
    return records


def _refuse_repeats(file: str, name: str, records: Mapping[int, Any]) -> None:
    first: dict[str, int] = {}
    for number, record in records.items():
        id = field(record, name, str, f"{file}, line {number}")
        if id in first:
            raise PalaestraError(f"{file}: lines {first[id]} and {number} both have {name} '{id}'")
        first[id] = number


def _document(number: int, record: Any) -> Document:
    return Document(*(field(record, n, str, f"corpus.jsonl, line {number}") for n in _DOCUMENT))


def _task(number: int, record: Any, corpus: str, titles: Mapping[str, str]) -> Task:
    where = f"queries.jsonl, line {number}"
    answer = field(record, "answer", str, where)
    aliases = field(record, "answer_aliases", list, where)
    steps = field(record, "decomposition", list, where)
    if not steps:
        raise PalaestraError(f"{where}: the decomposition is empty")
    chain = _chain(steps, titles, where)
    decomposition = [{"question": step["question"], "answer": step["answer"]} for step in steps]
    return Task(
        id=field(record, "id", str, where),
        env="palaestra/Search-v0",
        split="test",
        messages=(system(INSTRUCTION), user(field(record, "question", str, where))),
        data={"corpus_path": corpus},
        gold={"answers": [answer, *aliases], "chain": chain, "decomposition": decomposition},
        tags=(f"{len(chain)}-hop",),
    )


def _chain(steps: Sequence[Any], titles: Mapping[str, str], where: str) -> list[dict[str, str]]:
    """One hop a sub-question: about the title of its document, with its references filled in."""
    chain: list[dict[str, str]] = []
    for number, step in enumerate(steps, start=1):
        here = f"{where}, step {number}"
        question, answer, doc_id = (field(step, name, str, here) for name in _STEP)
        if doc_id not in titles:
            raise PalaestraError(f"{here}: the corpus has no document '{doc_id}'")
        relation = fill(question, [hop["object"] for hop in chain])
        chain.append(
            {"subject": titles[doc_id], "relation": relation, "object": answer, "doc_id": doc_id}
        )
    return chain


def fill(question: str, answers: Sequence[str]) -> str:
    """A sub-question with "#1", "#2", ... replaced by answers; one not yet known is left out."""
    known = {f"#{number}": answer for number, answer in enumerate(answers, start=1)}
    return re.sub(r"#\d+", lambda found: known.get(found.group(), ""), question)
