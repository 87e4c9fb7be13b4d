"""TF-IDF in the place of an encoder: the baseline that a trained one has to beat on its own texts."""

import importlib.util
from collections.abc import Iterable, Sequence

from scipy import sparse

from mocose_hf.errors import InputError

BASELINES = {
    "TF-IDF, words": {"token_pattern": r"(?u)\b\w+\b"},
    "TF-IDF, characters 3-5": {"analyzer": "char_wb", "ngram_range": (3, 5)},
}
"""Name of each baseline, and the options of scikit-learn's `TfidfVectorizer` that make it."""

MOST_CHARACTERS = 20_000_000
"""Texts longer than this together are left to the encoder: their n-grams would take gigabytes."""


class TfidfEmbeddings:
    """Sparse embeddings of texts, weighted by how rare words or n-grams are among these texts.

    Args:
        texts: All texts that it will be called with.
        options: As scikit-learn's `TfidfVectorizer` takes them.

    Raises:
        InputError: If scikit-learn is not installed.
    """

    def __init__(self, texts: Iterable[str], **options):
        if not has_sklearn():
            raise InputError(
                "TF-IDF needs scikit-learn, which is not installed; run pip install 'mocose_hf[evaluation]'."
            )
        from sklearn.feature_extraction.text import TfidfVectorizer

        different = list(dict.fromkeys(texts))
        self._rows = {text: row for row, text in enumerate(different)}
        try:
            self._matrix = TfidfVectorizer(**options).fit_transform(different).tocsr()
        except ValueError:  # no text holds a word
            self._matrix = sparse.csr_matrix((len(different), 1))

    def __call__(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return the embeddings of N texts, (N, terms); a text without any term is a row of zeros."""
        return self._matrix[[self._rows[text] for text in texts]]


def has_sklearn() -> bool:
    """Return whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None
