"""A development set made from the training text itself, for those who have no labels."""

import random
from collections.abc import Sequence
from dataclasses import replace

from mocose_hf.data.sentences import Sentences, texts_sha256
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


def split_text(text: str, seed: int = 0) -> tuple[str, str] | None:
    """Deal the words of a text out to two halves at random, each in the order of the text.

    Args:
        text: The text. One with hardly any spaces is dealt out in runs of four characters.
        seed: Which words go where depends on this and the text alone.

    Returns:
        None if the text is too short: fewer than `FEWEST_WORDS` words, or runs of characters.
    """
    units, joint = text.split(), " "
    if len(units) <= 2:  # a language without spaces
        units, joint = [text[start : start + 4] for start in range(0, len(text), 4)], ""
    if len(units) < FEWEST_WORDS:
        return None
    first = set(random.Random(f"{seed} {text}").sample(range(len(units)), len(units) // 2))
    halves = ([unit for i, unit in enumerate(units) if (i in first) == side] for side in (True, False))
    query, rest = (joint.join(half).strip() for half in halves)
    return query, rest


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
        if key_texts is not None or split_text(texts[row]) is not None:
            chosen.append(row)
    return sorted(chosen)


def held_out_task(
    texts: Sequence[str], key_texts: Sequence[str] | None = None, source: str = "", seed: int = 0
) -> RetrievalTask:
    """Make a retrieval task of texts that no model was trained on.

    Half of the words of each text are to find the other half among the other halves of all. The two share no words but
    those that the text repeats, so finding a text by its own words, as training on two views of it teaches, earns
    nothing. Of pairs, the text is to find its partner.

    Args:
        texts: N texts, each long enough for `split_text` unless there are partners.
        key_texts: N partners, as a title has its body.
        source: Where the text is from.
        seed: What the halves are drawn by.

    Raises:
        InputError: If fewer than two different texts are to be found.
    """
    pairs = zip(texts, key_texts, strict=True) if key_texts is not None else (split_text(t, seed) for t in texts)
    queries: dict[str, int] = {}
    corpus: dict[str, int] = {}
    entries: dict[tuple[int, int], float] = {}
    for query, text in pairs:
        entries[queries.setdefault(query, len(queries)), corpus.setdefault(text, len(corpus))] = 1.0
    if len(corpus) < 2:
        raise InputError(
            f"{source}: a development set from text needs two different texts of {FEWEST_WORDS} words or more; "
            "leave out --dev_from_text."
        )
    judgements = Judgements.from_entries([(*pair, grade) for pair, grade in entries.items()])
    # Training puts the default prompt before both views of a text, so both halves get it too.
    return RetrievalTask(NAME, list(queries), list(corpus), judgements, source=source, has_roles=False)
