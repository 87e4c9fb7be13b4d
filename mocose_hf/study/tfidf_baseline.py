"""TF-IDF as an encoder of sentences: the floor that a trained one should be above."""

from collections.abc import Iterable

import torch
from torch import Tensor

from mocose_hf.errors import InputError


class TfidfModel:
    """Embed sentences by the words in them, weighted by how rare they are in a corpus.

    What it gives has a column for each word that stands in the sentences to embed, so embeddings of two calls are not
    to be compared.

    Args:
        vectorizer: A fitted `sklearn.feature_extraction.text.TfidfVectorizer`.
    """

    def __init__(self, vectorizer):
        self._vectorizer = vectorizer

    @classmethod
    def of(cls, corpus: Iterable[str]) -> "TfidfModel":
        """Make it of the sentences that an encoder would be trained on.

        Raises:
            InputError: Where scikit-learn is not installed.
        """
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError as error:
            raise InputError(
                "the TF-IDF baseline needs scikit-learn, which is not installed; run pip install "
                "'mocose_hf[evaluation]'."
            ) from error
        return cls(TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit(corpus))

    def encode(self, sentences: list[str], tokenizer=None, **options) -> Tensor:
        """Return the weights of the words of N sentences, (N, words) float32; a sentence of unknown words is zero."""
        weights = self._vectorizer.transform(sentences)
        there = weights.getnnz(axis=0) > 0
        return torch.from_numpy(weights[:, there].toarray()).float()
