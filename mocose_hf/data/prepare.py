"""Make sentences or passages of documents, and drop what does not help a training."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mocose_hf.data.documents import read_blocks
from mocose_hf.errors import InputError, install_command
from mocose_hf.files import replacing

UNITS = ("sentence", "passage")

_PERMUTATIONS = 64
_SHINGLE = 5
_CLOSING = ".!?…。！？:"


@dataclass
class Preparation:
    """Texts and an account of them.

    Args:
        texts: The texts that were kept.
        sources: The file of each.
        read: Texts before anything was dropped.
        dropped: How many were dropped, by reason.
    """

    texts: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def sample(self, count: int, seed: int = 0) -> list[str]:
        """Return texts drawn at random, in their order."""
        places = sorted(random.Random(seed).sample(range(len(self.texts)), min(count, len(self.texts))))
        return [self.texts[place] for place in places]

    def write(self, path: str | Path) -> None:
        """Write columns `text` and `source` as .parquet, or the texts alone, one a line, as .txt."""
        path = Path(path)
        with replacing(path) as unfinished:
            if path.suffix == ".txt":
                unfinished.write_text("".join(f"{text}\n" for text in self.texts), encoding="utf-8")
            else:
                pq.write_table(pa.table({"text": self.texts, "source": self.sources}), unfinished)


def prepare(
    paths: Iterable[Path],
    unit: str = "sentence",
    text_column: str = "text",
    language: str = "en",
    min_chars: int = 15,
    max_chars: int = 1000,
    languages: Collection[str] = (),
    near_duplicates: float | None = 0.8,
) -> Preparation:
    """Split documents, and drop short, long, repeated and nearly repeated texts.

    Args:
        paths: Files, as `find_documents` returns them.
        unit: "sentence"; or "passage": paragraphs, and shorter ones joined up to `max_chars` characters.
        text_column: The column of the texts in tables.
        language: ISO 639-1 code of the language by whose rules sentences are split.
        min_chars, max_chars: Shortest and longest text to keep, in characters.
        languages: ISO 639-1 codes of the languages to keep, judged by paragraph; empty to keep all.
        near_duplicates: Estimated Jaccard similarity of character 5-grams, in (0, 1], from which the later of two
            texts is dropped; None to keep them.

    Raises:
        InputError: If a file cannot be read or a library is missing.
    """
    done, seen = Preparation(), set()
    is_near_duplicate = _near_duplicate_finder(near_duplicates)
    for path in paths:
        blocks = _of_languages(read_blocks(path, text_column), languages, done.dropped)
        for text in _split(blocks, unit, language, max_chars):
            done.read += 1
            key = text.casefold()
            if len(text) < min_chars:
                done.dropped[f"shorter than {min_chars} characters"] += 1
            elif len(text) > max_chars:
                done.dropped[f"longer than {max_chars} characters"] += 1
            elif sum(map(str.isalpha, text)) < len(text) / 2:
                done.dropped["mostly digits and signs"] += 1
            elif key in seen:
                done.dropped["duplicate"] += 1
            elif is_near_duplicate(key):
                done.dropped["near duplicate"] += 1
            else:
                seen.add(key)
                done.texts.append(text)
                done.sources.append(str(path))
    return done


def _split(blocks: Iterable[str], unit: str, language: str, max_chars: int) -> Iterator[str]:
    if unit == "passage":
        yield from _join(blocks, max_chars)
        return
    try:
        from sentencex import segment
    except ImportError as error:
        raise InputError(f"unit: splitting sentences needs sentencex; run: {install_command('prepare')}") from error
    for block in blocks:
        yield from (sentence.strip() for sentence in segment(language, block) if sentence.strip())


def _join(blocks: Iterable[str], max_chars: int) -> Iterator[str]:
    """Join consecutive blocks; a heading gets a full stop, so that it does not run into the text."""
    passage = ""
    for block in blocks:
        if passage and len(passage) + len(block) + 2 > max_chars:
            yield passage
            passage = ""
        separator = "" if not passage else " " if passage[-1] in _CLOSING else ". "
        passage = f"{passage}{separator}{block}"
    if passage:
        yield passage


def _of_languages(blocks: Iterable[str], languages: Collection[str], dropped: Counter[str]) -> Iterator[str]:
    if not languages:
        yield from blocks
        return
    try:
        from py3langid import classify
    except ImportError as error:
        raise InputError(f"languages: telling languages needs py3langid; run: {install_command('prepare')}") from error
    for block in blocks:
        found = str(classify(block)[0])
        if found in languages:
            yield block
        else:
            dropped[f"paragraph in another language ({found})"] += 1


def _near_duplicate_finder(threshold: float | None):
    """Return a function that says whether a text is like one that it was given before."""
    if threshold is None:
        return lambda text: False
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        command = install_command("prepare")
        raise InputError(f"near_duplicates: they need datasketch; run: {command}; or set none") from error
    index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
    sketches: list[MinHash] = []

    def is_near_duplicate(text: str) -> bool:
        shingles = {text[start : start + _SHINGLE].encode() for start in range(max(1, len(text) - _SHINGLE + 1))}
        sketch = MinHash(num_perm=_PERMUTATIONS)
        sketch.update_batch(list(shingles))
        if any(sketch.jaccard(sketches[place]) >= threshold for place in index.query(sketch)):
            return True
        index.insert(len(sketches), sketch)
        sketches.append(sketch)
        return False

    return is_near_duplicate
