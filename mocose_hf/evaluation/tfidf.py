"""TF-IDF in the place of an encoder: the baseline that a trained encoder has to beat on its own texts."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from scipy import sparse
from torch import Tensor

from mocose_hf.evaluation.optional_libraries import validate_sklearn

WORDS = {"token_pattern": r"(?u)\b\w+\b"}
"""Options of scikit-learn's `TfidfVectorizer` that count all words, even those of one letter."""

BASELINES: dict[str, dict[str, Any]] = {
    "TF-IDF, words": WORDS,
    "TF-IDF, characters 3-5": {"analyzer": "char_wb", "ngram_range": (3, 5)},
}
"""The options of `TfidfModel` by name of the baseline."""

MAX_CHARACTERS = 20_000_000
"""Longer texts get no baseline, because their n-grams would take gigabytes."""


class TfidfModel:
    """Embed texts by their words or n-grams, weighted by how rare these are in a corpus.

    Args:
        corpus: The texts that the frequencies are counted on.
        options: As scikit-learn's `TfidfVectorizer` takes them.

    Raises:
        InputError: If scikit-learn is not installed.
    """

    def __init__(self, corpus: Iterable[str], **options):
        validate_sklearn("TF-IDF")
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(**(options or WORDS))
        try:
            self._vectorizer.fit(dict.fromkeys(corpus))
        except ValueError:  # no text has a word
            self._vectorizer = None

    def __call__(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return the embeddings of N texts, (N, terms); a text without a known term is a row of zeros."""
        if self._vectorizer is None:
            return sparse.csr_matrix((len(texts), 1))
        return self._vectorizer.transform(texts).tocsr()

    def encode(self, sentences: list[str], tokenizer=None, **options) -> Tensor:
        """Return dense embeddings, (N, terms that occur in the N sentences) float32.

        The columns differ from call to call, so embeddings of two calls must not be compared. `tokenizer` and
        `options` are ignored; they are those of `MoCoSEModel.encode`.
        """
        embeddings = self(sentences)
        occurs = embeddings.getnnz(axis=0) > 0
        return torch.from_numpy(embeddings[:, occurs].toarray()).float()
