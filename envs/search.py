"""Search: find documents, follow a chain of facts through them, answer with citations."""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ..core import Message, PalaestraError, Task, calling
from ..rewards.answer import set_f1
from ..rewards.checklist import checklist
from ..rewards.core import Rubric, Term
from ..rewards.evidence import chain_items, evidence_gain
from ..rewards.outcome import errors, solved, waste
from .questions import QuestionEnv, asks
from .retrieval import Corpus
from .sources.musique import read_corpus
from .tools import Finish, ToolError, tool
from .world import Document, Hop, make_world


class Search(QuestionEnv):
    """Questions of 1-3 hops over a corpus, with BM25 search, open, and answer with citations.

    Args:
        results: how many documents `search` returns when the call does not say.
        snippet: characters of a document's text shown in results; longer texts must be opened.
    """

    env_id = "palaestra/Search-v0"
    instruction = "Answer the question with the tools. Cite the documents you used."
    max_turns = 12
    formats: ClassVar = {"musique": "palaestra.envs.sources.musique:load"}
    metrics: ClassVar = ("f1", "support_f1")
    rubric = Rubric(
        Term("answer", solved, "outcome", 1.0),
        Term("evidence", evidence_gain, "process", 0.2, shares=("seen_hops",)),
        Term("errors", errors, "process", 0.05),
        Term("waste", waste, "process", 0.05),
        Term("chain", checklist(chain_items), "checklist", 0.2, gate="answer"),
    )

    def __init__(self, *, results: int = 3, snippet: int = 240, **options: Any):
        if results < 1 or snippet < 1:
            raise PalaestraError(f"results and snippet are above 0, got {results} and {snippet}")
        self.results, self.snippet = results, snippet
        super().__init__(**options)

    def begin(self, task: Task, rng: np.random.Generator) -> None:
        path = task.data.get("corpus_path")
        self.corpus = read_corpus(path) if path else _world_corpus(*task.data["world"])
        self.shown: tuple[str, ...] = ()
        self.open_facts()
        self.facts["support_f1"] = 0.0

    @tool
    def search(self, query: str, k: Annotated[int, Field(ge=1, le=20)] | None = None) -> str:
        """Search the documents. Returns the best matches as "[id] title: text".

        Args:
            query: words to look for
            k: how many documents to return
        """
        self.note_used(query)
        found = self.corpus.search(query, k or self.results)
        self._note_shown(found)
        read = {doc.id for doc in found if len(doc.text) <= self.snippet}
        self.note_seen(lambda hop: hop["doc_id"] in read and asks(query, hop["subject"]))
        return "\n".join(self._line(doc) for doc in found) or "No document matches."

    @tool
    def open(self, doc_id: str) -> str:
        """Read one document in full.

        Args:
            doc_id: the id in square brackets of a search result
        """
        doc = self.corpus.documents.get(doc_id.strip("[] "))
        if doc is None:
            raise ToolError(f"there is no document '{doc_id[:40]}'; ids stand in search results")
        self._note_shown([doc])
        self.note_seen(lambda hop: hop["doc_id"] == doc.id)
        return f"[{doc.id}] {doc.title}: {doc.text}"

    @tool
    def answer(self, text: str, citations: list[str] = []) -> str:  # noqa: B006
        """Give the final answer, as short as possible. Ends the episode.

        Args:
            text: the answer alone
            citations: ids of the documents that support it
        """
        self.note_answer(text)
        cited = list(dict.fromkeys(each.strip("[] ") for each in citations))
        gold = {hop["doc_id"] for hop in self.task.gold["chain"]}
        self.facts["cited"] = cited
        self.facts["cited_unseen"] = [doc_id for doc_id in cited if doc_id not in self.shown]
        self.facts["support_f1"] = round(set_f1(cited, gold), 6)
        to_the_point = len(cited) <= len(gold) + 1
        self.facts["supported"] = to_the_point and gold <= set(cited) <= set(self.shown)
        raise Finish

    def _line(self, doc: Document) -> str:
        cut = doc.text if len(doc.text) <= self.snippet else doc.text[: self.snippet] + " ..."
        return f"[{doc.id}] {doc.title}: {cut}"

    def _note_shown(self, shown: list[Document]) -> None:
        self.shown = tuple(dict.fromkeys([*self.shown, *(doc.id for doc in shown)]))

    # ---- the expert ------------------------------------------------------------------------

    def look_up(self, thought: str, hop: Hop) -> Message:
        """Search the subject in a world; open the gold document of a published question."""
        if "world" in self.task.data:
            return calling("search", thought, query=hop.subject)
        return calling("open", thought, doc_id=hop.doc_id)

    def slip(self, thought: str, hop: Hop, rng: np.random.Generator) -> Message:
        return calling("search", thought, query=hop.relation)

    def answering(self, thought: str, chain: Any) -> Message:
        cited = list(dict.fromkeys(hop.doc_id for hop in chain))
        answers = self.task.gold["answers"]
        finished = len(chain) == len(self.task.gold["chain"])
        text = answers[0] if finished else chain[-1].object
        return calling("answer", thought, text=text, citations=cited)


@functools.lru_cache(maxsize=512)
def _world_corpus(seed: int, split: str, index: int, names: Any) -> Corpus:
    return Corpus(make_world(seed, split, index, names).documents())
