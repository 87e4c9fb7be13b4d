"""A development set made from the training text itself, for those who have no labels."""

import random
from collections.abc import Sequence
from dataclasses import replace

from mocose_hf.data import Sentences, texts_sha256
from mocose_hf.errors import InputError
from mocose_hf.evaluation.retrieval import Judgements, RetrievalTask

NAME = "dev_from_text"
"""The first part of the names of the figures."""

FEWEST_WORDS = 4
"""A text of fewer words is not held out, unless it has hardly any spaces."""


def hold_out(sentences: Sentences, count: int, source: str, seed: int = 0) -> Sentences:
    """Keep some rows of the training text for a development set.

    Args:
        sentences: The training text.
        count: How many rows to keep from training.
        source: Where the text is from.
        seed: What the rows are drawn by. It is not the seed of the run, so that all runs have one development set.

    Returns:
        The rest of the training text, with the task made of the rows as `held_out`.

    Raises:
        InputError: If no rows are left to train on, or fewer than two can be used.
    """
    columns = sentences.dataset.to_dict()
    texts, key_texts = columns["text"], columns.get("key_text")
    chosen = choose_held_out(texts, key_texts, count, seed)
    if len(chosen) == len(texts):
        raise InputError(f"{source}: all {len(texts):,} rows would be held out; give a lower --dev_from_text.")
    own = [texts[row] for row in chosen], key_texts and [key_texts[row] for row in chosen]
    task = held_out_task(*own, source=f"{source}, {len(chosen):,} rows held out", seed=seed)
    left = sorted(set(range(len(texts))) - set(chosen))
    dataset = sentences.dataset.select(left)
    sha256 = texts_sha256(dataset["text"], dataset["key_text"] if key_texts is not None else None)
    dropped = sentences.dropped | {"held out": len(chosen)}
    return replace(sentences, dataset=dataset, dropped=dropped, sha256=sha256, held_out=task)


def crop_text(text: str, seed: int = 0) -> str | None:
    """Cut a third to a half out of a text: consecutive words, or characters if there are hardly any spaces.

    Args:
        text: The text, without spaces around it.
        seed: Where and how much is cut depends on this and the text alone.

    Returns:
        None if the text is too short: fewer than `FEWEST_WORDS` words and no long run of characters either.
    """
    words = text.split()
    if len(words) >= FEWEST_WORDS:
        units, joint = words, " "
    elif len(text) >= 4 * FEWEST_WORDS and len(words) <= 2:  # a language without spaces
        units, joint = list(text), ""
    else:
        return None
    draw = random.Random(f"{seed} {text}")
    length = max(2, round(len(units) * draw.uniform(1 / 3, 1 / 2)))
    start = draw.randrange(len(units) - length + 1)
    return joint.join(units[start : start + length]).strip()


def choose_held_out(texts: Sequence[str], key_texts: Sequence[str] | None, count: int, seed: int) -> list[int]:
    """Draw the rows that are kept from training.

    Args:
        texts: N texts.
        key_texts: Their partners if the text is pairs; any row of pairs can be held out.
        count: How many rows to draw.
        seed: What they are drawn by, apart from N: the same rows for all runs on the same text.

    Returns:
        Their numbers, in ascending order; fewer than `count` if fewer can be used.
    """
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    chosen = []
    for row in order:
        if len(chosen) == count:
            break
        if key_texts is not None or crop_text(texts[row]) is not None:
            chosen.append(row)
    return sorted(chosen)


def held_out_task(
    texts: Sequence[str], key_texts: Sequence[str] | None = None, source: str = "", seed: int = 0
) -> RetrievalTask:
    """Make a retrieval task of texts that no model was trained on.

    A crop of each text is to find the text among all of them. Of pairs, the text is to find its partner.

    Args:
        texts: N texts, each long enough for `crop_text` unless there are partners.
        key_texts: N partners, as a title has its body.
        source: Where the text is from.
        seed: What the crops are drawn by.

    Raises:
        InputError: If fewer than two different texts are to be found.
    """
    sides = (texts, key_texts) if key_texts is not None else ([crop_text(text, seed) for text in texts], texts)
    queries: dict[str, int] = {}
    corpus: dict[str, int] = {}
    entries: dict[tuple[int, int], float] = {}
    for query, text in zip(*sides, strict=True):
        entries[queries.setdefault(query, len(queries)), corpus.setdefault(text, len(corpus))] = 1.0
    if len(corpus) < 2:
        raise InputError(
            f"{source}: a development set from text needs two different texts of {FEWEST_WORDS} words or more; "
            "leave out --dev_from_text."
        )
    judgements = Judgements.of([(*pair, grade) for pair, grade in entries.items()])
    return RetrievalTask(NAME, list(queries), list(corpus), judgements, source=source)
