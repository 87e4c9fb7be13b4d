"""What training may change in the text of the key view: misspellings, or synonyms out of WordNet.

MoCoSE (https://arxiv.org/abs/2202.13093, section 5) compares both with dropout. Paraphrases and back-translations,
which it compares too, are texts made beforehand: a column of the user's own, named by `key_column`.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from zipfile import BadZipFile

TextAugmentation = Callable[[str, random.Random], str]
"""Makes another text of a text, with a generator to draw from; it keeps nothing from one call to the next."""

_WORD = re.compile(r"[^\W\d_]{3,}")
"""Three letters or more, of any script, up to what is no letter."""

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Return, for each letter, those whose keys touch its own: beside it, and half a key's width aside in other rows.

    A key of the second row lies half a key to the right of the one of the same number in the first, and so does the
    third row to the second.
    """
    near = {}
    for row, keys in enumerate(_ROWS):
        for column, key in enumerate(keys):
            places = [(row, column - 1), (row, column + 1), (row - 1, column), (row - 1, column + 1)]
            places += [(row + 1, column - 1), (row + 1, column)]
            near[key] = "".join(_ROWS[r][c] for r, c in places if 0 <= r < len(_ROWS) and 0 <= c < len(_ROWS[r]))
    return near


QWERTY_NEIGHBOURS = _neighbours()
"""The letters next to each letter on a QWERTY keyboard, such as "adwezx" for s."""

_FUNCTION_WORDS = frozenset(
    """
    about above after again against all and any are because been before being below between both but can could did
    does doing down during each every few for from further had has have having her here hers herself him himself his
    how into its itself just may might more most must myself nor not now off once only other ought our ours ourselves
    out over own same shall she should some such than that the their theirs them themselves then there these they this
    those through too under until very was were what when where which while who whom why will with would yet you your
    yours yourself yourselves
    """.split()  # noqa: SIM905
)
"""English words whose meaning is their place in the sentence; WordNet has namesakes of some, such as the tin can."""


@dataclass(frozen=True)
class Typos:
    """Misspell words of three letters or more, each with the same probability, and leave all else as it is.

    A word gets one of four slips, those that change it being equally likely, at a place drawn among those where it
    does: two neighbours swapped, a letter left out, a letter doubled, or one replaced by a neighbour on a QWERTY
    keyboard, in its case.

    Args:
        rate: The probability, in (0, 1].
    """

    rate: float = 0.1

    def __call__(self, text: str, generator: random.Random) -> str:
        """Return the text with misspellings."""
        return _WORD.sub(lambda found: self._misspell(found[0], generator), text)

    def _misspell(self, word: str, generator: random.Random) -> str:
        if generator.random() >= self.rate:
            return word
        everywhere = range(len(word))
        slips = [(_drop, everywhere), (_double, everywhere)]
        slips.append((_swap, [i for i in everywhere[1:] if word[i - 1] != word[i]]))
        slips.append((_hit_neighbour, [i for i in everywhere if word[i].lower() in QWERTY_NEIGHBOURS]))
        slip, places = generator.choice([(slip, places) for slip, places in slips if places])
        return slip(word, generator.choice(places), generator)


def _drop(word: str, place: int, generator: random.Random) -> str:
    return word[:place] + word[place + 1 :]


def _double(word: str, place: int, generator: random.Random) -> str:
    return word[: place + 1] + word[place:]


def _swap(word: str, place: int, generator: random.Random) -> str:
    return word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :]


def _hit_neighbour(word: str, place: int, generator: random.Random) -> str:
    hit = generator.choice(QWERTY_NEIGHBOURS[word[place].lower()])
    return word[:place] + (hit.upper() if word[place].isupper() else hit) + word[place + 1 :]


@dataclass(frozen=True)
class Synonyms:
    """Replace English words that have synonyms in WordNet, each with the same probability, and leave all else.

    Words of fewer than three letters, inflected forms and function words have none; see `read_wordnet`. The case of
    the first letter is kept.

    Args:
        rate: The probability, in (0, 1].
    """

    rate: float = 0.1

    def __call__(self, text: str, generator: random.Random) -> str:
        """Return the text with synonyms."""
        return _WORD.sub(lambda found: self._replace(found[0], generator), text)

    def _replace(self, word: str, generator: random.Random) -> str:
        synonyms = read_wordnet().get(word.lower())
        if not synonyms or generator.random() >= self.rate:
            return word
        chosen = generator.choice(synonyms)
        first = chosen[0].upper() if word[0].isupper() else chosen[0].lower()
        return first + chosen[1:]


@lru_cache(maxsize=1)
def read_wordnet() -> dict[str, tuple[str, ...]]:
    """Return the synonyms of each English word that has some, as WordNet writes them.

    These are the other single words of the first synset of the word, in WordNet's order, that has such: nouns come
    before verbs, adjectives and adverbs, and the senses of each by frequency. The files are those that
    `python -m nltk.downloader wordnet` fetches (https://wordnet.princeton.edu/documentation/wndb5wn); they are read
    once, as no file may stay open that worker processes would share.

    Raises:
        ValueError: In one line, with the command that helps, where nltk or the files are missing or damaged.
    """
    try:
        from nltk.data import find
    except ImportError as error:
        raise ValueError("`key_augmentation` synonyms needs nltk; run `pip install mocose_hf[synonyms]`.") from error
    try:
        synonyms: dict[str, tuple[str, ...]] = {}
        for part in ("noun", "verb", "adj", "adv"):
            data, index = (_lines(find(f"corpora/wordnet/{kind}.{part}")) for kind in ("data", "index"))
            _read_part(data, index, synonyms)
    except (LookupError, OSError, ValueError, BadZipFile) as error:
        raise ValueError(
            "`key_augmentation` synonyms needs the files of WordNet, which are not there or not whole; run "
            "`python -m nltk.downloader wordnet`."
        ) from error
    return synonyms


def _read_part(data: Iterable[list[str]], index: Iterable[list[str]], synonyms: dict[str, tuple[str, ...]]) -> None:
    """Add the synonyms of a part of speech for words that have none yet."""
    synsets = {}
    for fields in data:
        names = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        synsets[fields[0]] = [name.partition("(")[0] for name in names]  # adjectives may have a marker, such as (a)
    for fields in index:
        word = fields[0]
        if word in synonyms or word in _FUNCTION_WORDS or not _WORD.fullmatch(word):
            continue
        for offset in fields[-int(fields[2]) :]:
            others = dict.fromkeys(n for n in synsets[offset] if n.lower() != word and n.replace("-", "").isalpha())
            if others:
                synonyms[word] = tuple(others)
                break


def _lines(file) -> Iterator[list[str]]:
    """Give the fields of each line of a file that nltk found, without those of the licence, which are indented."""
    with file.open() as opened:
        text = opened.read().decode()
    return (line.split() for line in text.splitlines() if not line.startswith(" "))


KEY_AUGMENTATIONS = {"synonyms": Synonyms, "typos": Typos}
"""By the names that `key_augmentation` takes."""


def build_key_augmentation(name: str, rate: float) -> TextAugmentation:
    """Return the augmentation of this name in `KEY_AUGMENTATIONS`, ready to be used.

    Raises:
        ValueError: Where what it needs is missing.
    """
    made = KEY_AUGMENTATIONS[name](rate)
    if isinstance(made, Synonyms):
        read_wordnet()
    return made
