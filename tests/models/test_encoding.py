"""Embedding sentences: in their order, in batches of like length, in the precision asked for."""

import numpy as np
import pytest
import torch
from builders import WORDS, sentences, tiny_model
from torch.nn import functional as F

from mocose_hf.errors import InputError


class Spy:
    """Keeps the token ids of each forward, and the dtypes that the first layer computes in."""

    def __init__(self, model):
        self.batches, self.dtypes = [], set()
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        layer = model.encoder.encoder.layer[0].intermediate.dense
        layer.register_forward_hook(lambda module, args, output: self.dtypes.add(output.dtype))

    def _before(self, module, args, kwargs):
        self.batches.append(kwargs["input_ids"])

    def tokens(self) -> int:
        """Return how many tokens were computed, padding and all."""
        return sum(batch.numel() for batch in self.batches)


@pytest.fixture
def model():
    return tiny_model().mocose


def one_by_one(model, texts: list[str], tokenizer) -> torch.Tensor:
    """Run the model on each sentence alone."""
    model.eval()
    with torch.no_grad():
        outputs = [model(**tokenizer(text, return_tensors="pt")).pooler_output for text in texts]
    return torch.cat(outputs)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_embeddings_come_in_the_order_of_the_sentences(model, tokenizer, batch_size):
    texts = [*sentences(19), "bread", "bread", "a " * 30]
    embeddings = model.encode(texts, tokenizer, batch_size=batch_size)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, one_by_one(model, texts, tokenizer), atol=1e-6, rtol=0)
    swapped = model.encode(texts[::-1], tokenizer, batch_size=batch_size)
    torch.testing.assert_close(swapped.flip(0), embeddings, atol=1e-6, rtol=0)


def test_batches_are_of_like_length_in_tokens(model, tokenizer):
    """A word that the tokenizer does not know is one token however long, so characters would sort otherwise."""
    short = [f"{'x' * (20 + i)}" for i in range(8)]  # 3 tokens with [CLS] and [SEP]
    long = ["a " * 9 + word for word in WORDS[:8]]  # 12
    texts = [text for both in zip(short, long, strict=True) for text in both]
    assert min(map(len, short)) > min(map(len, long)) - 5
    spy = Spy(model)
    model.encode(texts, tokenizer, batch_size=4)
    assert [tuple(batch.shape) for batch in spy.batches] == [(4, 12), (4, 12), (4, 3), (4, 3)]


def test_less_is_padded_than_in_the_order_of_the_file(model, tokenizer):
    texts = sentences(60, seed=4)
    spy = Spy(model)
    model.encode(texts, tokenizer, batch_size=8)
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]

    def padded(lengths: list[int]) -> int:
        batches = [lengths[start : start + 8] for start in range(0, 60, 8)]
        return sum(len(batch) * max(batch) for batch in batches)

    assert spy.tokens() == padded(sorted(lengths, reverse=True)) < 0.8 * padded(lengths)
    assert sum(int((batch != tokenizer.pad_token_id).sum()) for batch in spy.batches) == sum(lengths)


def test_bfloat16_is_computed_in_and_float32_returned(model, tokenizer):
    texts = sentences(30, seed=2)
    exact = model.encode(texts, tokenizer, batch_size=8)
    spy = Spy(model)
    rounded = model.encode(texts, tokenizer, batch_size=8, autocast_dtype=torch.bfloat16)
    assert spy.dtypes == {torch.bfloat16}
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert F.cosine_similarity(rounded, exact).min() > 0.999
    assert torch.equal(model.encode(texts, tokenizer, batch_size=8), exact)  # nothing is left of it
    assert spy.dtypes == {torch.bfloat16, torch.float32}


def test_weights_in_bfloat16_give_float32_as_well(model, tokenizer):
    texts = sentences(12, seed=2)
    exact = model.encode(texts, tokenizer)
    half = model.to(torch.bfloat16).encode(texts, tokenizer)
    assert half.dtype == torch.float32
    assert F.cosine_similarity(half, exact).min() > 0.99


@pytest.mark.parametrize("options", [{}, {"normalize_embeddings": True}, {"autocast_dtype": torch.bfloat16}])
def test_no_sentences_give_no_rows(model, tokenizer, options):
    spy = Spy(model)
    assert model.encode([], tokenizer, **options).shape == (0, 32)
    assert spy.batches == []


def test_a_sentence_is_cut_at_the_length_asked_for(model, tokenizer):
    spy = Spy(model)
    long = " ".join(WORDS[:20])
    cut = model.encode([long, "a cat"], tokenizer, max_seq_length=6)
    assert spy.batches[0].shape == (2, 6)
    expected = one_by_one(model, [" ".join(WORDS[:4]), "a cat"], tokenizer)  # and [CLS] and [SEP]
    torch.testing.assert_close(cut, expected, atol=1e-6, rtol=0)
    assert not torch.allclose(cut[0], model.encode([long], tokenizer)[0], atol=1e-3)


def test_a_sentence_is_cut_at_the_length_of_the_encoder(model, tokenizer):
    spy = Spy(model)
    tokenizer.model_max_length, kept = 10**9, tokenizer.model_max_length
    try:
        model.encode(["a " * 500], tokenizer)
    finally:
        tokenizer.model_max_length = kept
    assert spy.batches[0].shape == (1, 40)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_left(tokenizer, training):
    model = tiny_model(encoder_dropout_prob=0.5).mocose.train(training)
    texts = sentences(6)
    first = model.encode(texts, tokenizer)
    assert model.training == training
    assert torch.equal(first, model.encode(texts, tokenizer))


def test_the_mode_is_restored_if_a_forward_fails(model, tokenizer):
    model.train()

    def fail(*args):
        raise MemoryError

    hook = model.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        model.encode(["a cat"], tokenizer)
    hook.remove()
    assert model.training


def test_embeddings_have_length_1_if_asked_for(model, tokenizer):
    texts = sentences(6)
    plain, unit = model.encode(texts, tokenizer), model.encode(texts, tokenizer, normalize_embeddings=True)
    assert plain.norm(dim=1).sub(1).abs().min() > 0.1
    torch.testing.assert_close(unit, plain / plain.norm(dim=1, keepdim=True))


def test_the_progress_bar_counts_sentences_if_asked_for(model, tokenizer, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    model.encode(sentences(7), tokenizer, batch_size=2)
    assert "Encoding" not in capsys.readouterr().err
    model.encode(sentences(7), tokenizer, batch_size=2, show_progress_bar=True)
    assert "7/7" in capsys.readouterr().err


def test_the_types_of_the_result_are_those_of_sentence_transformers(model, tokenizer):
    texts = sentences(3)
    expected = model.encode(texts, tokenizer)
    array = model.encode(texts, tokenizer, convert_to_numpy=True)
    assert isinstance(array, np.ndarray)
    assert torch.equal(torch.from_numpy(array), expected)
    assert model.encode(texts[0], tokenizer, convert_to_numpy=True).shape == (32,)
    both = model.encode(texts, tokenizer, convert_to_numpy=True, convert_to_tensor=True)
    assert torch.equal(both, expected)
    listed = model.encode(texts, tokenizer, convert_to_numpy=False, convert_to_tensor=False)
    assert isinstance(listed, list)
    assert torch.equal(torch.stack(listed), expected)


def test_truncation_precedes_normalisation(model, tokenizer):
    texts = sentences(3)
    cut = model.encode(texts, tokenizer, truncate_dim=8, normalize_embeddings=True)
    torch.testing.assert_close(cut, F.normalize(model.encode(texts, tokenizer)[:, :8], dim=-1))


def test_a_loaded_model_finds_its_tokenizer(model, tokenizer, tmp_path):
    texts = sentences(3)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="`tokenizer`"):
        model.encode(texts)
    with pytest.raises(InputError, match="finds no tokenizer"):
        type(model).from_pretrained(tmp_path).encode(texts)
    tokenizer.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(texts), model.encode(texts, tokenizer))
