import threading
from html import unescape
from http.client import HTTPConnection
from urllib.parse import quote

import pytest
from builders import sentences

from mocose_hf import MoCoSEForPreTraining, export_sentence_encoder
from mocose_hf.cli.demo import build_parser, build_server, main
from mocose_hf.search.demo import LONGEST_INPUT

HOSTILE = "<script>alert('x')</script>\"'"


@pytest.fixture(scope="module")
def server(tmp_path_factory, encoder_dir, tokenizer):
    folder = tmp_path_factory.mktemp("demo")
    for name, seed in (("start", 1), ("trained", 2)):
        model = MoCoSEForPreTraining.from_encoder_pretrained(encoder_dir, queue_size=16, pooling_mode="mean")
        model.mocose.encoder.embeddings.word_embeddings.weight.data.mul_(seed)
        export_sentence_encoder(model, tokenizer, folder / name)
    corpus = folder / "texts.txt"
    corpus.write_text("\n".join([*sentences(30), f"a {HOSTILE} dog"]) + "\n", encoding="utf-8")
    options = [str(folder / "trained"), str(corpus), "--start", str(folder / "start"), "--port", "0", "--top_k", "31"]
    running = build_server(build_parser().parse_args(options))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def get(server, path: str, host: str | None = None) -> tuple[int, str, dict]:
    connection = HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.getheaders())


def test_the_page_asks_for_a_query(server):
    status, page, headers = get(server, "/")
    assert status == 200
    assert "31 texts" in page
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_a_search_shows_both_encoders(server):
    text = sentences(30)[3]
    status, page, _ = get(server, f"/?query={quote(text)}")
    assert status == 200
    assert page.count("<ol>") == 2
    assert page.count("1.000") >= 2
    assert page.count(f">{text} <") >= 2


def test_two_sentences_are_compared(server):
    first, second = sentences(30)[:2]
    _, page, _ = get(server, f"/?first={quote(first)}&second={quote(second)}")
    assert page.count("cosine") == 2
    expected = [f"{engine.similarity(first, second):.3f}" for engine in server.engines]
    assert all(cosine in page for cosine in expected)


def test_input_and_texts_cannot_change_the_page(server):
    _, page, _ = get(server, f"/?query={quote(HOSTILE)}")
    assert "<script" not in page
    assert f"a {HOSTILE} dog" in unescape(page)


def test_long_input_is_cut(server):
    _, page, _ = get(server, f"/?first={'a' * 9000}&second=dog")
    assert f'value="{"a" * LONGEST_INPUT}"' in page


@pytest.mark.parametrize(("path", "host", "status"), [("/etc/passwd", None, 404), ("/", "example.org:80", 403)])
def test_other_paths_and_hosts_get_nothing(server, path, host, status):
    assert get(server, path, host)[0] == status


def test_only_this_machine_is_served(server):
    assert server.server_address[0] == "127.0.0.1"


def test_bad_input_ends_in_one_line(tmp_path, capsys):
    assert main(["none", str(tmp_path / "none.txt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
