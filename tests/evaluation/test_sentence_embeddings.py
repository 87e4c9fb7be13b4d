"""Looking up embeddings, and dealing sentences out to processes."""

import embed_on_processes
import pytest
import torch
from builders import sentences, tiny_model
from processes import start_processes

from mocose_hf.evaluation.sentence_embeddings import SentenceEmbeddings, _share, embed


def random_texts(count: int, seed: int) -> list[str]:
    """Different texts of 1 to 40 characters."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 41, (count,), generator=generator).tolist()
    return [f"{i}".ljust(length, "x") for i, length in enumerate(lengths)]


# One process


def test_each_sentence_is_looked_up_by_itself_however_often():
    matrix = torch.arange(8.0).reshape(4, 2)
    embeddings = SentenceEmbeddings(["a", "b", "c", "d"], matrix)
    assert embeddings(["c", "a", "c", "c", "d"]).tolist() == [[4, 5], [0, 1], [4, 5], [4, 5], [6, 7]]
    assert embeddings(["b"]).tolist() == [[2, 3]]
    assert embeddings([]).shape == (0, 2)
    assert embeddings.matrix is matrix
    with pytest.raises(KeyError, match="e"):
        embeddings(["a", "e"])


def test_what_is_looked_up_can_be_changed():
    embeddings = SentenceEmbeddings(["a", "b"], torch.ones(2, 3))
    embeddings(["a"]).zero_()
    assert embeddings.matrix.sum() == 6


def test_different_sentences_are_embedded_once_in_order_of_first_sight(tokenizer):
    model = embed_on_processes.Noting()
    made = sentences(5)
    embeddings = embed(model, tokenizer, iter([made[3], made[0], made[3], made[1], made[0]]), batch_size=2)
    assert model.encoded == [[made[3], made[0], made[1]]]
    expected = tiny_model().encode([made[0], made[1], made[3]], tokenizer)
    torch.testing.assert_close(embeddings([made[0], made[1], made[3]]), expected, atol=1e-6, rtol=0)


class Constant:
    """Gives every sentence the same embedding, but for the scale and rounding errors of float32."""

    def encode(self, sentences, tokenizer, **options):
        generator = torch.Generator().manual_seed(0)
        rows = torch.linspace(1, 2, len(sentences))[:, None] * torch.linspace(-1, 1, 384)
        return rows * (1 + 1e-7 * torch.randn(rows.shape, generator=generator))


def test_embeddings_of_one_direction_have_no_scores():
    with pytest.raises(FloatingPointError, match=r"^All 20 sentences have the same embedding, .*`pooling_mode`\.$"):
        embed(Constant(), None, sentences(20), needs_spread=True)
    assert embed(Constant(), None, sentences(20)).matrix.shape == (20, 384)
    assert embed(Constant(), None, ["one"], needs_spread=True).matrix.shape == (1, 384)


def test_an_embedding_that_differs_is_found_among_many():
    class AllButTheLast(Constant):
        def encode(self, sentences, tokenizer, **options):
            rows = super().encode(sentences, tokenizer)
            rows[-1, 0] += 1e-3
            return rows

    made = [str(i) for i in range(5000)]
    assert embed(AllButTheLast(), None, made, needs_spread=True).matrix.shape == (5000, 384)


# Shares


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_shares_are_of_one_size_hold_every_sentence_and_each_is_found_again(count):
    for number in [*range(14), 64, 65]:
        texts = random_texts(number, seed=number)
        shares = [_share(texts, index, count) for index in range(count)]
        size = -(-number // count)
        assert [len(share) for share, _ in shares] == [size] * count
        dealt = [text for share, _ in shares for text in share]
        assert set(dealt) == set(texts)
        for _, row_of in shares:
            found = dealt if row_of is None else [dealt[row] for row in row_of.tolist()]
            assert found == texts


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shares_take_the_same_time(count):
    """All have as many characters, but for what one text of the longest has."""
    texts = random_texts(101, seed=1)
    characters = [sum(map(len, _share(texts, index, count)[0])) for index in range(count)]
    assert max(characters) - min(characters) <= 40
    assert min(characters) > 400


def test_alone_nothing_is_put_in_another_order():
    texts = random_texts(9, seed=2)
    assert _share(texts, 0, 1) == (texts, None)


# Two processes


@pytest.fixture(scope="module")
def two_processes(encoder_dir, tmp_path_factory) -> list[dict]:
    """What each of two processes ends with."""
    folder = tmp_path_factory.mktemp("processes")
    start_processes("embed_on_processes.py", 2, encoder_dir, folder, log_folder=folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_have_the_embeddings_and_scores_of_one(two_processes, encoder_dir):
    one = embed_on_processes.embed_and_score(str(encoder_dir))
    assert one["rows"].shape == (52, 32)
    assert one["matrix"].shape == (42, 32)
    for process in two_processes:
        for name in ("rows", "matrix"):
            torch.testing.assert_close(process[name], one[name], atol=1e-6, rtol=0)
        assert process["metrics"] == pytest.approx(one["metrics"], abs=1e-4)
    assert torch.equal(two_processes[0]["matrix"], two_processes[1]["matrix"])
    assert two_processes[0]["metrics"] == two_processes[1]["metrics"]


@pytest.mark.slow
def test_each_of_two_processes_encodes_its_half_alone(two_processes):
    texts, pairs = set(embed_on_processes.TEXTS), embed_on_processes.scored_pairs()
    for call, wanted in enumerate((texts, {*pairs["sentence1"], *pairs["sentence2"]})):
        halves = [process["encoded"][call] for process in two_processes]
        assert [len(half) for half in halves] == [(len(wanted) + 1) // 2] * 2
        assert set(halves[0]) | set(halves[1]) == wanted
        assert len(set(halves[0]) & set(halves[1])) == len(wanted) % 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_embedding_that_is_not_finite_is_refused(value):
    class Bad:
        def encode(self, sentences, tokenizer, **options):
            rows = torch.ones(len(sentences), 4)
            rows[1, 2] = value
            return rows

    with pytest.raises(FloatingPointError, match="The embeddings of 1 of 3 sentences are not finite"):
        embed(Bad(), None, ["a", "b", "c", "a"])
