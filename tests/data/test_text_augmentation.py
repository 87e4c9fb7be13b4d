"""Typos and synonyms in the text of the key view, the same again for the same batch, anywhere."""

import builtins
import random
import re
import shutil
from collections import Counter

import pytest
import torch
from builders import sentences, tiny_model
from datasets import Dataset
from resuming import run
from same_state import differences
from tiny_wordnet import SYNONYMS, SYNSETS, write_wordnet
from torch.utils.data import DataLoader
from trainers import make_trainer, training_arguments

from mocose_hf import MoCoSETrainer, SentenceStream
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.text_augmentation import (
    QWERTY_NEIGHBOURS,
    Synonyms,
    Typos,
    build_key_augmentation,
    read_wordnet,
)

WORD = "Xhouses"


@pytest.fixture(params=[False, True], ids=["folder", "zip"])
def wordnet(request, tmp_path, monkeypatch):
    """A small WordNet where nltk looks for it; the folder or archive."""
    data = pytest.importorskip("nltk.data", reason="nltk is not installed: pip install mocose_hf[synonyms]")
    monkeypatch.setattr(data, "path", [str(tmp_path / "nltk")])
    data.clear_cache()
    read_wordnet.cache_clear()
    yield write_wordnet(tmp_path / "nltk", zipped=request.param)
    read_wordnet.cache_clear()


def slips(word: str) -> dict[str, set[str]]:
    """All that one slip can make of a word, by kind, letter by letter."""
    made = {"swap": set(), "drop": set(), "double": set(), "hit": set()}
    for i, letter in enumerate(word):
        made["drop"].add(word[:i] + word[i + 1 :])
        made["double"].add(word[:i] + letter + letter + word[i + 1 :])
        if i and word[i - 1] != letter:
            made["swap"].add(word[: i - 1] + letter + word[i - 1] + word[i + 1 :])
        for near in QWERTY_NEIGHBOURS.get(letter.lower(), ""):
            made["hit"].add(word[:i] + (near.upper() if letter.isupper() else near) + word[i + 1 :])
    return made


def test_neighbours_on_the_keyboard_are_mutual_and_those_of_a_picture_of_it():
    assert set(QWERTY_NEIGHBOURS) == set("abcdefghijklmnopqrstuvwxyz")
    for letter, near in QWERTY_NEIGHBOURS.items():
        assert letter not in near
        assert all(letter in QWERTY_NEIGHBOURS[other] for other in near)
    assert {k: "".join(sorted(QWERTY_NEIGHBOURS[k])) for k in "qgpmz"} == {
        "q": "aw",
        "g": "bfhtvy",
        "p": "lo",
        "m": "jkn",
        "z": "asx",
    }


def test_each_slip_is_one_of_four_and_they_are_equally_likely():
    generator, typos, kinds = random.Random(0), Typos(rate=1.0), slips(WORD)
    assert not any(a & b for x, a in kinds.items() for y, b in kinds.items() if x < y)
    counts = Counter()
    for _ in range(4000):
        made = typos(WORD, generator)
        counts[next(kind for kind, words in kinds.items() if made in words)] += 1
    assert len(counts) == 4
    assert all(abs(n - 1000) < 5 * 1000**0.5 for n in counts.values())
    assert {typos(WORD, generator) for _ in range(4000)} == set().union(*kinds.values())


@pytest.mark.parametrize("word", ["aaa", "猫猫猫", "éÉé", "Žluťoučký"])
def test_a_word_that_is_hit_always_changes(word):
    generator = random.Random(0)
    assert all(Typos(rate=1.0)(word, generator) != word for _ in range(200))


def test_short_words_digits_and_what_stands_between_words_stay():
    text = "a to  be, 1234\t(x2y) don't-go! 🐈\n"
    made = Typos(rate=1.0)(text, random.Random(0))
    assert re.sub("[^\\W\\d_]+", "", made) == re.sub("[^\\W\\d_]+", "", text)
    assert made.startswith("a to  be, 1234\t(x2y) ")
    assert made.endswith("'t-go! 🐈\n")


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_share_of_words_changed_is_the_rate(rate):
    text = " ".join(["horse"] * 20_000)
    changed = sum(word != "horse" for word in Typos(rate)(text, random.Random(1)).split())
    assert changed / 20_000 == pytest.approx(rate, abs=5 * (rate * (1 - rate) / 20_000) ** 0.5)


def test_synonyms_are_those_found_by_hand(wordnet):
    assert read_wordnet() == SYNONYMS


@pytest.mark.parametrize("wordnet", [False], indirect=True, ids=["folder"])
def test_synonyms_are_of_the_first_synset_of_nltk_that_has_one(wordnet):
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    with pytest.warns(UserWarning, match="multilingual"):
        reader = WordNetCorpusReader(str(wordnet), None)
    words = {name.partition("(")[0].lower() for part in SYNSETS.values() for names in part for name in names}
    for word in words:
        found = ()
        for synset in reader.synsets(word):
            if word in map(str.lower, synset.lemma_names()):
                others = [n for n in synset.lemma_names() if n.lower() != word and "_" not in n]
                found = found or tuple(dict.fromkeys(others))
        expected = found if word.isalpha() and word not in ("can", "in") else ()
        assert read_wordnet().get(word, ()) == expected, word


def test_words_are_replaced_in_their_case_and_function_words_and_inflected_ones_stay(wordnet):
    made = Synonyms(rate=1.0)("Cat in the can, cats; small RED river! Child.", random.Random(0))
    pattern = r"(Guy|Hombre|Bozo) in the can, cats; little Crimson river! (Kid|X-er)\."
    assert re.fullmatch(pattern, made)
    seen = {Synonyms(rate=1.0)("the child", random.Random(seed)) for seed in range(40)}
    assert seen == {"the kid", "the x-er"}


def test_the_share_of_words_with_synonyms_that_are_replaced_is_the_rate(wordnet):
    made = Synonyms(rate=0.25)(" ".join(["horse river"] * 20_000), random.Random(1)).split()
    assert made[1::2] == ["river"] * 20_000
    assert set(made[::2]) == {"horse", "mount"}
    assert made.count("mount") / 20_000 == pytest.approx(0.25, abs=0.015)


def test_what_synonyms_need_is_reported_with_the_command_that_gets_it(tmp_path, tokenizer, wordnet, monkeypatch):
    data = pytest.importorskip("nltk.data")
    options = {"key_augmentation": "synonyms"}
    make_trainer(tmp_path, tokenizer, **options)
    if wordnet.suffix == ".zip":
        wordnet.write_bytes(wordnet.read_bytes()[:200])
    else:
        (wordnet / "index.adj").write_text("old a 1 0 1 0 99999999\n")
    read_wordnet.cache_clear()
    data.clear_cache()
    with pytest.raises(ValueError, match=r"missing or damaged; run `python -m nltk\.downloader wordnet`\.$"):
        make_trainer(tmp_path, tokenizer, **options)
    shutil.rmtree(tmp_path / "nltk")
    with pytest.raises(ValueError, match=r"missing or damaged; run `python -m nltk\.downloader wordnet`\.$"):
        make_trainer(tmp_path, tokenizer, **options)

    importing = builtins.__import__

    def without_nltk(name, *args, **kwargs):
        if name.startswith("nltk"):
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_nltk)
    with pytest.raises(ValueError, match=r"needs nltk; run `pip install .*\[synonyms\]'`\.$"):
        build_key_augmentation("synonyms", 0.1)


def numbered(text: str, generator: random.Random) -> str:
    """An augmentation of the user's own, which shows what it was given."""
    return f"{text} {'a' if generator.random() < 0.5 else 'the'} {'cat' if generator.random() < 0.5 else 'dog'}"


def rows(count: int = 12) -> list[dict]:
    return [{"text": text, "sentence_id": i} for i, text in enumerate(sentences(count))]


def test_the_key_view_is_made_of_the_key_text_and_the_query_stays(tokenizer):
    collate = SentenceCollator(tokenizer, key_augmentation=numbered, seed=2)
    plain = SentenceCollator(tokenizer)(rows(40))
    batch = collate(rows(40))
    assert torch.equal(batch["input_ids"], plain["input_ids"])
    decoded = tokenizer.batch_decode(batch["key_input_ids"], skip_special_tokens=True)
    tails = {" ".join(text.split()[-2:]) for text in decoded}
    assert tails == {"a cat", "a dog", "the cat", "the dog"}
    assert [" ".join(text.split()[:-2]) for text in decoded] == sentences(40)
    paired = collate([row | {"key_text": key} for row, key in zip(rows(40), sentences(40, seed=1), strict=True)])
    decoded = tokenizer.batch_decode(paired["key_input_ids"], skip_special_tokens=True)
    assert [" ".join(text.split()[:-2]) for text in decoded] == sentences(40, seed=1)


def key_ids(batch: dict) -> list:
    return batch["key_input_ids"].tolist()


def test_changes_depend_on_seed_and_sentence_and_on_nothing_else(tokenizer):
    collate = SentenceCollator(tokenizer, key_augmentation=numbered, seed=1)
    state = random.getstate(), torch.get_rng_state()
    first = key_ids(collate(rows()))
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])
    collate(rows()[:3])
    random.seed(9)
    torch.manual_seed(9)
    assert key_ids(collate(rows())) == first
    assert key_ids(SentenceCollator(tokenizer, key_augmentation=numbered, seed=1)(rows())) == first
    others = [
        SentenceCollator(tokenizer, key_augmentation=numbered, seed=2)(rows()),
        collate([row | {"sentence_id": row["sentence_id"] + 12} for row in rows()]),
        collate([{"text": row["text"]} for row in rows()]),
    ]
    assert first not in [key_ids(other) for other in others]
    assert len({str(key_ids(other)) for other in others}) == 3


def test_worker_processes_make_the_same_texts(tokenizer):
    collate = SentenceCollator(tokenizer, key_augmentation=Typos(0.5))
    batches = [
        list(DataLoader(Dataset.from_list(rows(16)), batch_size=4, collate_fn=collate, num_workers=workers))
        for workers in (0, 2)
    ]
    assert [key_ids(batch) for batch in batches[0]] == [key_ids(batch) for batch in batches[1]]


def test_packed_key_views_are_those_of_padded_ones(tokenizer):
    padded = SentenceCollator(tokenizer, key_augmentation=numbered)(rows())
    packed = SentenceCollator(tokenizer, first_position=0, key_augmentation=numbered)(rows())
    kept = padded["key_input_ids"][padded["key_attention_mask"] == 1]
    assert torch.equal(packed["key_input_ids"][0], kept)


@pytest.mark.parametrize("packed", [False, True])
def test_a_stream_trains_with_changed_keys_and_resumes_to_the_same_bits(tmp_path, tokenizer, text_file, packed):
    def train(folder, resume=None, seed=0, workers=0, **fields):
        settings = {"save_strategy": "steps", "save_steps": 3, "max_steps": 9, "key_augmentation": "typos"}
        settings |= {"key_augmentation_rate": 0.5, "padding_free": packed, "dataloader_num_workers": workers}
        trainer = MoCoSETrainer(
            model=tiny_model(seed=seed, encoder_dropout_prob=0.1),
            args=training_arguments(folder, **settings | fields),
            train_dataset=SentenceStream(text_file, shuffle_buffer_size=8),
            processing_class=tokenizer,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = train(tmp_path / "whole", save_total_limit=None)
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    train(tmp_path / "resumed", resume=str(tmp_path / "resumed" / "checkpoint-3"), seed=5, workers=2)
    last = "checkpoint-9"
    assert whole.state.global_step == 9
    assert differences(tmp_path / "whole" / last, tmp_path / "resumed" / last) == []
    plain = train(tmp_path / "plain", key_augmentation=None, key_augmentation_rate=0.1)
    assert not torch.equal(plain.model.queue.rows, whole.model.queue.rows)


def test_epochs_change_a_sentence_in_different_ways(tmp_path, tokenizer):
    seen = []

    def note(text: str, generator: random.Random) -> str:
        seen.append((text, generator.random()))
        return text

    trainer = MoCoSETrainer(
        model=tiny_model(),
        args=training_arguments(tmp_path, num_train_epochs=3),
        train_dataset=Dataset.from_dict({"text": sentences(24)}),
        processing_class=tokenizer,
        key_augmentation=note,
    )
    trainer.train()
    assert len(seen) == 72
    assert len({drawn for _, drawn in seen}) == 72
    assert all(count == 3 for count in Counter(text for text, _ in seen).values())


def test_going_on_with_another_augmentation_is_refused(tmp_path, tokenizer):
    run(tmp_path, tokenizer, key_augmentation="typos")
    with pytest.raises(ValueError, match="`key_augmentation` was typos and is None now"):
        run(tmp_path, tokenizer)
    with pytest.raises(ValueError, match=r"`key_augmentation_rate` was 0\.1 and is 0\.2 now"):
        run(tmp_path, tokenizer, key_augmentation="typos", key_augmentation_rate=0.2)


def test_settings_that_contradict_each_other_are_refused(tmp_path, tokenizer):
    def trainer(own=None, data_collator=None, **fields):
        return MoCoSETrainer(
            model=tiny_model(),
            args=training_arguments(tmp_path, **fields),
            train_dataset=Dataset.from_dict({"text": sentences(24)}),
            processing_class=tokenizer,
            data_collator=data_collator,
            key_augmentation=own,
        )

    with pytest.raises(ValueError, match="given to the trainer and named in its arguments; leave out one"):
        trainer(numbered, key_augmentation="typos")
    with pytest.raises(ValueError, match="is done by the trainer's own collator; leave out `data_collator`"):
        trainer(numbered, SentenceCollator(tokenizer))
    with pytest.raises(ValueError, match="`key_augmentation_rate` is of a `key_augmentation` typos or synonyms"):
        trainer(key_augmentation_rate=0.5)
