import io
import json
import sys

import numpy as np
import pytest
import torch
from builders import sentences
from torch.nn import functional as F

from mocose_hf import MoCoSEForPreTraining, export_sentence_encoder
from mocose_hf.cli.search import main
from mocose_hf.search import index as index_module
from mocose_hf.search.encoder import SentenceEncoder
from mocose_hf.search.index import SearchIndex


def vectors(count: int, seed: int = 0, width: int = 16) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def build(directory, count: int = 200, **options) -> tuple[SearchIndex, torch.Tensor]:
    embeddings = vectors(count)
    rows = [(number, f"text {number}") for number in range(1, count + 1)]
    index = SearchIndex.build(
        directory, rows, lambda texts: torch.stack([embeddings[int(t.split()[1]) - 1] for t in texts]), "f", **options
    )
    return index, embeddings


@pytest.fixture
def model_dir(encoder_dir, tokenizer, tmp_path):
    model = MoCoSEForPreTraining.from_encoder_pretrained(encoder_dir, queue_size=16, pooling_mode="mean")
    export_sentence_encoder(model, tokenizer, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(["", *sentences(40)]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_an_exact_search_gives_what_a_full_sort_gives(tmp_path, monkeypatch, block):
    monkeypatch.setattr(index_module, "_BLOCK", block)
    index, embeddings = build(tmp_path / "index")
    queries = vectors(5, seed=1)
    for query, hits in zip(queries, index.search(queries, top_k=9), strict=True):
        scores = (embeddings @ query).numpy()
        expected = np.argsort(-scores)[:9]
        assert [hit.row for hit in hits] == [int(place) + 1 for place in expected]
        assert [hit.text for hit in hits] == [f"text {place + 1}" for place in expected]
        np.testing.assert_allclose([hit.score for hit in hits], scores[expected], atol=1e-6)


def test_more_results_than_texts_gives_all_texts(tmp_path):
    index, _ = build(tmp_path / "index", count=3)
    assert len(index.search(vectors(1, seed=1), top_k=50)[0]) == 3


def test_a_graph_finds_nearly_what_an_exact_search_finds(tmp_path):
    pytest.importorskip("usearch")
    index, _ = build(tmp_path / "index", count=2000, approximate=True)
    queries = vectors(50, seed=1)
    pairs = zip(index.search(queries), index.search(queries, exact=True), strict=True)
    shared = [len({hit.row for hit in graph} & {hit.row for hit in exact}) for graph, exact in pairs]
    assert np.mean(shared) >= 9


def test_an_index_opens_again_only_for_the_same_fingerprint(tmp_path):
    build(tmp_path / "index")
    assert len(SearchIndex.open(tmp_path / "index", "f")) == 200
    assert SearchIndex.open(tmp_path / "index", "g") is None
    (tmp_path / "index" / "embeddings.npy").write_bytes(b"damaged")
    assert SearchIndex.open(tmp_path / "index", "f") is None
    assert SearchIndex.open(tmp_path / "none", "f") is None


def test_a_build_that_fails_keeps_the_old_index(tmp_path):
    build(tmp_path / "index")

    def fail(texts):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        SearchIndex.build(tmp_path / "index", [(1, "a")], fail, "g")
    assert len(SearchIndex.open(tmp_path / "index", "f")) == 200
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_the_encoder_embeds_as_the_trained_model_does(model_dir, tokenizer):
    texts = sentences(10)
    found = SentenceEncoder.load(str(model_dir)).encode(texts)
    model = MoCoSEForPreTraining.from_encoder_pretrained(model_dir, queue_size=16)
    torch.testing.assert_close(found, model.mocose.encode(texts, tokenizer, normalize_embeddings=True))


def test_a_text_is_its_own_best_result(model_dir, corpus, capsys):
    text = sentences(40)[17]
    assert main([str(model_dir), str(corpus), *text.split(), "--json", "--top_k", "3"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["query"] == text
    assert len(answer["results"]) == 3
    assert answer["results"][0] == {"score": pytest.approx(1.0, abs=1e-5), "row": 19, "text": text}


def test_the_index_is_kept_beside_the_model_until_model_or_file_change(model_dir, corpus, capsys):
    command = [str(model_dir), str(corpus), "dog"]
    built = []
    for change in (None, None, "corpus", None, "model"):
        if change == "corpus":
            corpus.write_text(corpus.read_text(encoding="utf-8") + "one more line\n", encoding="utf-8")
        if change == "model":
            weights = model_dir / "model.safetensors"
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(content)
        assert main(command) == 0
        built.append("Indexed" in capsys.readouterr().err)
    assert built == [True, False, True, False, True]
    assert len(list((model_dir / "search").iterdir())) == 1


def test_queries_come_from_standard_input(model_dir, corpus, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("red dog\n\nold river\n"))
    assert main([str(model_dir), str(corpus), "--json", "--top_k", "1"]) == 0
    assert [json.loads(line)["query"] for line in capsys.readouterr().out.splitlines()] == ["red dog", "old river"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [(("no-model", "CORPUS"), "no-model"), (("MODEL", "none.txt"), "none.txt"), (("MODEL", "empty.txt"), "corpus")],
)
def test_bad_input_ends_in_one_line(model_dir, corpus, tmp_path, capsys, arguments, field):
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    names = {"MODEL": str(model_dir), "CORPUS": str(corpus), "empty.txt": str(tmp_path / "empty.txt")}
    assert main([*(names.get(argument, argument) for argument in arguments), "dog"]) == 2
    error = capsys.readouterr().err
    assert field in error
    assert error.count("\n") == 1
    assert not (model_dir / "search").exists() or not list((model_dir / "search").iterdir())
