"""Finding documents: BM25 over titles and texts through `bm25s`, ties broken by order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .world import Document

_TOKEN = re.compile(r"\w+")


class Corpus:
    """An immutable collection of documents with a BM25 index (k1 1.5, b 0.75, Lucene's idf).

    The title is indexed twice, so that a document about a thing beats one that mentions it.
    """

    def __init__(self, documents: Sequence[Document]):
        import bm25s

        self.documents = {doc.id: doc for doc in documents}
        self._order = list(self.documents)
        self._index = bm25s.BM25()
        tokens = [tokenize(f"{doc.title} {doc.title} {doc.text}") for doc in documents]
        self._index.index(tokens, show_progress=False)

    def search(self, query: str, k: int) -> list[Document]:
        """The at most `k` best documents that share a word with the query, best first.

        Stopwords count only in a query that has nothing else, so that a film called "It" is found.
        """
        asked = tokenize(query)
        telling = [word for word in asked if word not in _STOPWORDS] or asked
        words = [word for word in telling if word in self._index.vocab_dict]
        if not words:
            return []
        scores = self._index.get_scores(words)
        best = np.lexsort((np.arange(len(scores)), -scores))[:k]
        return [self.documents[self._order[i]] for i in best if scores[i] > 0]

    def __deepcopy__(self, memo: dict[int, Any]) -> Corpus:
        return self  # immutable: sharing is copying


def tokenize(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


_STOPWORDS = frozenset(
    tokenize(
        "a an and are as at be but by for if in into is it no not of on or such that the their "
        "then there these they this to was will with "  # Lucene's list for English
        "what which who whom whose when where why how do does did"  # and the words that ask
    )
)
