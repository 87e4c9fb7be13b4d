"""Count the truncated sentences and the unknown tokens of training text."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_TRUNCATED_SHARE = 0.05
"""The share of truncated sentences above which the run warns."""

MAX_UNKNOWN_SHARE = 0.2
"""The share of unknown tokens above which the vocabulary does not fit the text."""

SAMPLE_ROWS = 2_000
"""The largest number of training rows that are counted."""

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class TokenCounts:
    """Counts over the sentences of a training set, or of a sample of it.

    Args:
        sentences: Number of sentences that were counted.
        truncated: Number of sentences longer than `max_seq_length`.
        tokens: Number of tokens after truncation, without special tokens.
        unknown: Number of unknown tokens among them.
        max_seq_length: The longest input in tokens, special tokens included.
        is_sample: Whether the training set has more sentences.
    """

    sentences: int
    truncated: int
    tokens: int
    unknown: int
    max_seq_length: int
    is_sample: bool = False

    @property
    def truncated_share(self) -> float:
        """The share of sentences that are truncated, in [0, 1]."""
        return self.truncated / max(self.sentences, 1)

    @property
    def unknown_share(self) -> float:
        """The share of tokens that are unknown, in [0, 1]."""
        return self.unknown / max(self.tokens, 1)

    def summary(self) -> str:
        """Return one line with both shares and the arguments that change them."""
        sample = f" (in a sample of {self.sentences:,})" if self.is_sample else ""
        return (
            f"{self.truncated_share:.1%} of the sentences{sample} are longer than {self.max_seq_length} tokens and "
            f"are truncated (`max_seq_length`); {self.unknown_share:.1%} of the tokens are unknown to the tokenizer "
            "(`model_name_or_path`)."
        )

    def warnings(self) -> list[str]:
        """Return a warning for each share that is too large."""
        warnings = []
        if self.truncated_share > MAX_TRUNCATED_SHARE:
            warnings.append(
                f"`max_seq_length` {self.max_seq_length} truncates {self.truncated_share:.1%} of the training "
                "sentences; raise it, or split long texts."
            )
        if self.unknown_share > MAX_UNKNOWN_SHARE:
            warnings.append(
                f"{self.unknown_share:.1%} of the tokens of the training text are unknown to the tokenizer; start "
                "from an encoder whose vocabulary fits the language of the text."
            )
        return warnings


def count_tokens(texts: Sequence[str], tokenizer, max_seq_length: int, is_sample: bool = False) -> TokenCounts:
    """Tokenise texts as training does, and count truncated sentences and unknown tokens.

    Args:
        texts: The sentences.
        tokenizer: A tokenizer of transformers.
        max_seq_length: The longest input in tokens, special tokens included.
        is_sample: Whether the texts are only a part of the training set.
    """
    special = {getattr(tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "bos", "eos", "pad")} - {None}
    unknown_id = getattr(tokenizer, "unk_token_id", None)
    unknown_id = None if unknown_id in special else unknown_id  # GPT-2's vocabulary covers all text
    room = max_seq_length - len(tokenizer("")["input_ids"])
    truncated = tokens = unknown = 0
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        rows = list(texts[start : start + _ROWS_AT_ONCE])
        for ids in tokenizer(rows, truncation=True, max_length=max_seq_length + 1)["input_ids"]:
            truncated += len(ids) > max_seq_length
            kept = [token for token in ids if token not in special][:room]
            tokens += len(kept)
            unknown += kept.count(unknown_id)
    return TokenCounts(len(texts), truncated, tokens, unknown, max_seq_length, is_sample)
