"""Measure what a tokenizer does to training text: how many sentences are cut and how many tokens are unknown."""

from collections.abc import Sequence
from dataclasses import dataclass

MOST_CUT = 0.05
"""The share of sentences above which cutting them is worth a warning."""

MOST_UNKNOWN = 0.2
"""The share of tokens above which the vocabulary does not fit the text."""

SAMPLE_ROWS = 2_000
"""How many rows of a training set are measured at most."""

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class TokenCounts:
    """What a tokenizer does to some sentences.

    Args:
        sentences: How many were measured.
        cut: How many of them are longer than `max_seq_length`.
        tokens: Tokens that are left of all of them, without special tokens.
        unknown: How many of these are the unknown token.
        max_seq_length: The longest input in tokens, special tokens included.
        is_sample: Whether there are more sentences.
    """

    sentences: int
    cut: int
    tokens: int
    unknown: int
    max_seq_length: int
    is_sample: bool = False

    @property
    def cut_share(self) -> float:
        """The share of sentences that are cut, in [0, 1]."""
        return self.cut / max(self.sentences, 1)

    @property
    def unknown_share(self) -> float:
        """The share of tokens that are unknown, in [0, 1]."""
        return self.unknown / max(self.tokens, 1)

    def summary(self) -> str:
        """Return one line: both shares and the options that change them."""
        sample = f" (of {self.sentences:,} that were measured)" if self.is_sample else ""
        return (
            f"{self.cut_share:.1%} of the sentences{sample} are longer than {self.max_seq_length} tokens and are cut "
            f"(--max_seq_length); {self.unknown_share:.1%} of the tokens are unknown to the tokenizer "
            "(--model_name_or_path)."
        )

    def warnings(self) -> list[str]:
        """Return a warning for each share that is too large."""
        found = []
        if self.cut_share > MOST_CUT:
            found.append(
                f"`max_seq_length` {self.max_seq_length} cuts {self.cut_share:.1%} of the training sentences; raise "
                "it, or split long texts."
            )
        if self.unknown_share > MOST_UNKNOWN:
            found.append(
                f"{self.unknown_share:.1%} of the tokens of the training text are unknown to the tokenizer; start "
                "from an encoder whose vocabulary fits the language of the text."
            )
        return found


def count_tokens(texts: Sequence[str], tokenizer, max_seq_length: int, is_sample: bool = False) -> TokenCounts:
    """Tokenise texts as training does, and count.

    Args:
        texts: The sentences.
        tokenizer: A tokenizer of transformers.
        max_seq_length: The longest input in tokens, special tokens included.
        is_sample: Whether the texts are a part of the training set.
    """
    special = {getattr(tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "bos", "eos", "pad")} - {None}
    unknown_id = getattr(tokenizer, "unk_token_id", None)
    unknown_id = None if unknown_id in special else unknown_id  # GPT-2's vocabulary covers all text
    room = max_seq_length - len(tokenizer("")["input_ids"])
    cut = tokens = unknown = 0
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        rows = list(texts[start : start + _ROWS_AT_ONCE])
        for ids in tokenizer(rows, truncation=True, max_length=max_seq_length + 1)["input_ids"]:
            cut += len(ids) > max_seq_length
            kept = [token for token in ids if token not in special][:room]
            tokens += len(kept)
            unknown += kept.count(unknown_id)
    return TokenCounts(len(texts), cut, tokens, unknown, max_seq_length, is_sample)
