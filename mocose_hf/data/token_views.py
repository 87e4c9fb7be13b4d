"""Views of a sentence that keep, drop or repeat some of its tokens.

A view is a list of places in the sentence, so that token ids, token types and all other columns follow it alike.
Special tokens such as [CLS] and [SEP] keep their places at both ends.

Sources: independent cropping is that of Contriever (https://arxiv.org/abs/2112.09118, section 3.1), deletion that of
TSDAE (https://arxiv.org/abs/2104.06979, section 3), and repetition that of ESimCSE (https://arxiv.org/abs/2109.04380,
section 3.1), there of words and here of tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenViews:
    """Draw a view of a sentence: first a crop, then deletions, then repetitions.

    Args:
        crop_share: s in (0, 1]: the view is a span of n′ of the n tokens, n′ uniform between s·n (rounded up) and n,
            at a uniform place. 1 keeps all.
        deletion_rate: Probability in [0, 1) with which each token is deleted; at least one token stays.
        repetition_rate: r in [0, 1]: a number of tokens, uniform from 0 to max(2, ⌊r·n⌋) but at most n, stands
            twice. 0 repeats none.
    """

    crop_share: float = 1.0
    deletion_rate: float = 0.0
    repetition_rate: float = 0.0

    @property
    def is_active(self) -> bool:
        """Whether a view can differ from the sentence."""
        return self.crop_share < 1.0 or self.deletion_rate > 0.0 or self.repetition_rate > 0.0

    def draw(self, special: Sequence[int], longest: int, generator: random.Random) -> list[int]:
        """Return the places of a view's tokens in the sentence, in order.

        Args:
            special: One number for each token of the sentence, other than 0 for special tokens.
            longest: Most tokens of the view, special ones included; what a repetition adds beyond is cut off.
            generator: What to draw from.
        """
        ordinary = [place for place, is_special in enumerate(special) if not is_special]
        if not ordinary:
            return list(range(len(special)))
        before = [place for place in range(len(special)) if special[place] and place < ordinary[0]]
        after = [place for place in range(len(special)) if special[place] and place > ordinary[0]]
        kept = self._repeat(self._delete(self._crop(ordinary, generator), generator), generator)
        return before + kept[: max(1, longest - len(before) - len(after))] + after

    def _crop(self, places: list[int], generator: random.Random) -> list[int]:
        if self.crop_share == 1.0:
            return places
        shortest = max(1, -int(-self.crop_share * len(places) // 1))
        length = generator.randint(shortest, len(places))
        first = generator.randint(0, len(places) - length)
        return places[first : first + length]

    def _delete(self, places: list[int], generator: random.Random) -> list[int]:
        if self.deletion_rate == 0.0:
            return places
        kept = [place for place in places if generator.random() >= self.deletion_rate]
        return kept or [generator.choice(places)]

    def _repeat(self, places: list[int], generator: random.Random) -> list[int]:
        if self.repetition_rate == 0.0:
            return places
        most = min(len(places), max(2, int(self.repetition_rate * len(places))))
        twice = set(generator.sample(range(len(places)), generator.randint(0, most)))
        return [place for i, place in enumerate(places) for _ in range(1 + (i in twice))]
