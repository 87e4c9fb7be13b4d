"""Random views of a sentence that crop, delete or repeat its tokens.

A view is a list of token positions, which applies to token ids, token types and all other columns alike. Special
tokens such as [CLS] and [SEP] stay at both ends.

Sources: cropping is from Contriever (https://arxiv.org/abs/2112.09118, section 3.1), deletion from TSDAE
(https://arxiv.org/abs/2104.06979, section 3), and repetition from ESimCSE (https://arxiv.org/abs/2109.04380,
section 3.1), which repeats words instead of tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenViews:
    """Draw a view of a sentence: first a crop, then deletions, then repetitions.

    Args:
        crop_share: s in (0, 1]. The view is a span of n′ of the n tokens at a uniform position; n′ is uniform between
            ⌈s·n⌉ and n. 1 keeps all tokens.
        deletion_rate: Probability in [0, 1) that a token is deleted; at least one token stays.
        repetition_rate: r in [0, 1]. The number of repeated tokens is uniform from 0 to min(n, max(2, ⌊r·n⌋)). 0
            repeats none.
    """

    crop_share: float = 1.0
    deletion_rate: float = 0.0
    repetition_rate: float = 0.0

    @property
    def is_active(self) -> bool:
        """Whether a view can differ from the sentence."""
        return self.crop_share < 1.0 or self.deletion_rate > 0.0 or self.repetition_rate > 0.0

    def draw(self, special: Sequence[int], longest: int, generator: random.Random) -> list[int]:
        """Return the positions of a view's tokens in the sentence, in order.

        Args:
            special: One number for each token of the sentence, nonzero for special tokens.
            longest: The longest view in tokens, special tokens included; longer views are truncated.
            generator: The source of randomness.
        """
        ordinary = [position for position, is_special in enumerate(special) if not is_special]
        if not ordinary:
            return list(range(len(special)))
        before = [position for position in range(len(special)) if special[position] and position < ordinary[0]]
        after = [position for position in range(len(special)) if special[position] and position > ordinary[0]]
        kept = self._repeat(self._delete(self._crop(ordinary, generator), generator), generator)
        return before + kept[: max(1, longest - len(before) - len(after))] + after

    def _crop(self, positions: list[int], generator: random.Random) -> list[int]:
        if self.crop_share == 1.0:
            return positions
        shortest = max(1, -int(-self.crop_share * len(positions) // 1))
        length = generator.randint(shortest, len(positions))
        first = generator.randint(0, len(positions) - length)
        return positions[first : first + length]

    def _delete(self, positions: list[int], generator: random.Random) -> list[int]:
        if self.deletion_rate == 0.0:
            return positions
        kept = [position for position in positions if generator.random() >= self.deletion_rate]
        return kept or [generator.choice(positions)]

    def _repeat(self, positions: list[int], generator: random.Random) -> list[int]:
        if self.repetition_rate == 0.0:
            return positions
        most = min(len(positions), max(2, int(self.repetition_rate * len(positions))))
        twice = set(generator.sample(range(len(positions)), generator.randint(0, most)))
        return [position for i, position in enumerate(positions) for _ in range(1 + (i in twice))]
