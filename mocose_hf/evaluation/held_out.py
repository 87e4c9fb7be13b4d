"""A development set without labels, held out from the training text."""

import random
from collections.abc import Sequence
from dataclasses import replace

from mocose_hf.data.sentences import TEXT_COLUMNS, Sentences, texts_sha256
from mocose_hf.errors import InputError
from mocose_hf.evaluation.retrieval import Judgements, RetrievalTask

NAME = "dev_from_text"
"""The name of the task, which begins the names of its metrics."""

MIN_WORDS = 4
"""A text of fewer words is not held out."""


def hold_out(sentences: Sentences, count: int, source: str, seed: int = 0, *, has_roles: bool = False) -> Sentences:
    """Hold out rows of the training text for a development set.

    Args:
        sentences: The training text.
        count: Number of rows to hold out.
        source: Name of the text in errors and notices.
        seed: Seed of the draw. It is not the seed of the run, so that all runs share one development set.
        has_roles: As in `held_out_task`.

    Returns:
        The rest of the training text, with the task in `held_out`.

    Raises:
        InputError: If no rows are left for training, or fewer than two can be used.
    """
    columns = sentences.dataset.to_dict()
    texts, key_texts = columns["text"], columns.get("key_text")
    chosen = choose_held_out(texts, key_texts, count, seed)
    if len(chosen) == len(texts):
        raise InputError(f"{source}: all {len(texts):,} rows would be held out; give a lower `dev_from_text`.")
    chosen_keys = [key_texts[row] for row in chosen] if key_texts is not None else None
    source = f"{source}, {len(chosen):,} rows held out"
    task = held_out_task([texts[row] for row in chosen], chosen_keys, source=source, seed=seed, has_roles=has_roles)
    remaining = sorted(set(range(len(texts))) - set(chosen))
    dataset = sentences.dataset.select(remaining)
    sha256 = texts_sha256(*(dataset[name] if name in dataset.column_names else None for name in TEXT_COLUMNS))
    dropped = sentences.dropped | {"held out": len(chosen)}
    return replace(sentences, dataset=dataset, dropped=dropped, sha256=sha256, held_out=task)


def split_text(text: str, seed: int = 0) -> tuple[str, str] | None:
    """Split the words of a text at random into two halves, each in the order of the text.

    Args:
        text: The text. If it has hardly any spaces, runs of four characters stand for words.
        seed: Seed of the split, together with the text.

    Returns:
        None if the text has fewer than `MIN_WORDS` words.
    """
    units, joint = text.split(), " "
    if len(units) <= 2:  # a language without spaces
        units, joint = [text[start : start + 4] for start in range(0, len(text), 4)], ""
    if len(units) < MIN_WORDS:
        return None
    first = set(random.Random(f"{seed} {text}").sample(range(len(units)), len(units) // 2))
    halves = ([unit for i, unit in enumerate(units) if (i in first) == side] for side in (True, False))
    query, rest = (joint.join(half).strip() for half in halves)
    return query, rest


def choose_held_out(texts: Sequence[str], key_texts: Sequence[str] | None, count: int, seed: int) -> list[int]:
    """Draw the rows that are held out.

    Args:
        texts: N texts.
        key_texts: The other texts of pairs; any pair can be held out.
        count: Number of rows to draw.
        seed: Seed of the draw.

    Returns:
        The row numbers in ascending order; fewer than `count` if fewer can be used.
    """
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    chosen: list[int] = []
    for row in order:
        if len(chosen) == count:
            break
        if key_texts is not None or split_text(texts[row]) is not None:
            chosen.append(row)
    return sorted(chosen)


def held_out_task(
    texts: Sequence[str],
    key_texts: Sequence[str] | None = None,
    source: str = "",
    seed: int = 0,
    *,
    has_roles: bool = False,
) -> RetrievalTask:
    """Build a retrieval task from held-out texts.

    One half of the words of each text is the query, and the other half is the relevant text among the other halves of
    all texts. The two halves share only words that the text repeats, so word overlap, which training on two views of
    a text rewards, does not help. For pairs, the text is the query and its partner is the relevant text.

    Args:
        texts: N texts, each long enough for `split_text` unless they are pairs.
        key_texts: N partners of the texts.
        source: Name of the text in errors and notices.
        seed: Seed of the split.
        has_roles: Whether training puts prompts of their own before queries and keys, so that scores do so too.

    Raises:
        InputError: If there are fewer than two different texts to rank.
    """
    pairs = zip(texts, key_texts, strict=True) if key_texts is not None else (split_text(t, seed) for t in texts)
    queries: dict[str, int] = {}
    corpus: dict[str, int] = {}
    entries: dict[tuple[int, int], float] = {}
    for query, text in pairs:
        entries[queries.setdefault(query, len(queries)), corpus.setdefault(text, len(corpus))] = 1.0
    if len(corpus) < 2:
        raise InputError(
            f"{source}: a development set from text needs two different texts of {MIN_WORDS} words or more; "
            "leave out `dev_from_text`."
        )
    judgements = Judgements.from_entries([(*pair, grade) for pair, grade in entries.items()])
    return RetrievalTask(NAME, list(queries), list(corpus), judgements, source=source, has_roles=has_roles)
