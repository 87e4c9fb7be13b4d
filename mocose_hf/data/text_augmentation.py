"""Text augmentation of the key view: misspellings, or synonyms from WordNet.

MoCoSE (https://arxiv.org/abs/2202.13093, section 5) compares both with dropout. It also compares paraphrases and
back-translations; these are texts of the user's own, in the column that `key_column` names.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from zipfile import BadZipFile

from mocose_hf.errors import install_command

TextAugmentation = Callable[[str, random.Random], str]
"""Returns an altered text, drawn with the generator; it keeps no state between calls."""

_WORD = re.compile(r"[^\W\d_]{3,}")
"""A run of three letters or more, of any script."""

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Return for each letter the letters on adjacent keys; each row is half a key to the right of the row above."""
    neighbours = {}
    for row, keys in enumerate(_ROWS):
        for column, key in enumerate(keys):
            adjacent = [(row, column - 1), (row, column + 1), (row - 1, column), (row - 1, column + 1)]
            adjacent += [(row + 1, column - 1), (row + 1, column)]
            inside = [(r, c) for r, c in adjacent if 0 <= r < len(_ROWS) and 0 <= c < len(_ROWS[r])]
            neighbours[key] = "".join(_ROWS[r][c] for r, c in inside)
    return neighbours


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
"""English function words; WordNet has unrelated homonyms of some, such as the tin "can"."""


@dataclass(frozen=True)
class Typos:
    """Misspell words of three letters or more.

    A misspelled word gets one of four typos, chosen uniformly among those that change it, at a random position: two
    adjacent letters swapped, a letter dropped, a letter doubled, or a letter replaced by a neighbour on a QWERTY
    keyboard in the same case.

    Args:
        rate: The probability in (0, 1] that a word is misspelled.
    """

    rate: float = 0.1

    def __call__(self, text: str, generator: random.Random) -> str:
        """Return the text with misspellings."""
        return _WORD.sub(lambda match: self._misspell(match[0], generator), text)

    def _misspell(self, word: str, generator: random.Random) -> str:
        if generator.random() >= self.rate:
            return word
        indices = range(len(word))
        typos: list[tuple[Callable, Sequence[int]]] = [(_drop, indices), (_double, indices)]
        typos.append((_swap, [i for i in indices[1:] if word[i - 1] != word[i]]))
        typos.append((_hit_neighbour, [i for i in indices if word[i].lower() in QWERTY_NEIGHBOURS]))
        typo, possible = generator.choice([(typo, possible) for typo, possible in typos if possible])
        return typo(word, generator.choice(possible), generator)


def _drop(word: str, index: int, generator: random.Random) -> str:
    return word[:index] + word[index + 1 :]


def _double(word: str, index: int, generator: random.Random) -> str:
    return word[: index + 1] + word[index:]


def _swap(word: str, index: int, generator: random.Random) -> str:
    return word[: index - 1] + word[index] + word[index - 1] + word[index + 1 :]


def _hit_neighbour(word: str, index: int, generator: random.Random) -> str:
    letter = generator.choice(QWERTY_NEIGHBOURS[word[index].lower()])
    return word[:index] + (letter.upper() if word[index].isupper() else letter) + word[index + 1 :]


@dataclass(frozen=True)
class Synonyms:
    """Replace English words by synonyms from WordNet, see `read_wordnet`.

    Words of fewer than three letters, inflected forms and function words have no synonyms. A synonym takes the case of
    the first letter.

    Args:
        rate: The probability in (0, 1] that a word with synonyms is replaced.
    """

    rate: float = 0.1

    def __call__(self, text: str, generator: random.Random) -> str:
        """Return the text with synonyms."""
        return _WORD.sub(lambda match: self._replace(match[0], generator), text)

    def _replace(self, word: str, generator: random.Random) -> str:
        synonyms = read_wordnet().get(word.lower())
        if not synonyms or generator.random() >= self.rate:
            return word
        synonym = generator.choice(synonyms)
        first = synonym[0].upper() if word[0].isupper() else synonym[0].lower()
        return first + synonym[1:]


@lru_cache(maxsize=1)
def read_wordnet() -> dict[str, tuple[str, ...]]:
    """Return the synonyms of each English word that has any, in WordNet's spelling.

    The synonyms are the other single words of the word's first synset that has any. Nouns come before verbs,
    adjectives and adverbs, and the senses of each are ordered by frequency. The files are those of
    `python -m nltk.downloader wordnet` (https://wordnet.princeton.edu/documentation/wndb5wn). They are read at once
    and closed, so that DataLoader workers do not share an open file.

    Raises:
        ValueError: If nltk or the files are missing or damaged, with the command that gets them.
    """
    try:
        from nltk.data import find
    except ImportError as error:
        command = install_command("synonyms")
        raise ValueError(f"`key_augmentation` synonyms needs nltk; run `{command}`.") from error
    try:
        synonyms: dict[str, tuple[str, ...]] = {}
        for part in ("noun", "verb", "adj", "adv"):
            data, index = (_lines(find(f"corpora/wordnet/{kind}.{part}")) for kind in ("data", "index"))
            _read_part(data, index, synonyms)
    except (LookupError, OSError, ValueError, BadZipFile) as error:
        raise ValueError(
            "`key_augmentation` synonyms needs the files of WordNet, which are missing or damaged; run "
            "`python -m nltk.downloader wordnet`."
        ) from error
    return synonyms


def _read_part(data: Iterable[list[str]], index: Iterable[list[str]], synonyms: dict[str, tuple[str, ...]]) -> None:
    """Add the synonyms in one part of speech for words that have none yet."""
    synsets = {}
    for fields in data:
        names = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        synsets[fields[0]] = [name.partition("(")[0] for name in names]  # adjectives may end in a marker such as (a)
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
    """Return the fields of each line of a WordNet file, without the indented lines of its licence."""
    with file.open() as opened:
        text = opened.read().decode()
    return (line.split() for line in text.splitlines() if not line.startswith(" "))


KEY_AUGMENTATIONS: dict[str, Callable[[float], TextAugmentation]] = {"synonyms": Synonyms, "typos": Typos}
"""The classes by the names that `key_augmentation` takes."""


def build_key_augmentation(name: str, rate: float) -> TextAugmentation:
    """Return an augmentation by its name in `KEY_AUGMENTATIONS`.

    Raises:
        ValueError: If nltk or the files of WordNet are missing or damaged.
    """
    augmentation = KEY_AUGMENTATIONS[name](rate)
    if isinstance(augmentation, Synonyms):
        read_wordnet()  # fails now rather than in a DataLoader worker
    return augmentation
