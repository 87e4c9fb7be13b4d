"""A page to search a file and to compare sentences in the browser, served to this machine alone."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from mocose_hf.search.encoder import SentenceEncoder
from mocose_hf.search.index import Hit, SearchIndex
from mocose_hf.templates import html_environment

HOST = "127.0.0.1"
LONGEST_INPUT = 2_000
"""Characters of an input that are read; the rest is cut off."""


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"


@dataclass(frozen=True)
class Engine:
    """An encoder and the texts that it searches.

    Args:
        name: What the page calls it.
        encoder: The encoder.
        index: The index of the texts by this encoder.
    """

    name: str
    encoder: SentenceEncoder
    index: SearchIndex

    def search(self, query: str, top_k: int) -> list[Hit]:
        """Return the nearest texts, the nearest first."""
        return self.index.search(self.encoder.encode([query], ("query",)), top_k)[0]

    def similarity(self, first: str, second: str) -> float:
        """Return the cosine of two sentences."""
        embeddings = self.encoder.encode([first, second])
        return float(embeddings[0] @ embeddings[1])


class DemoServer(ThreadingHTTPServer):
    """Serve the page at `http://127.0.0.1:port/`.

    Args:
        engines: One encoder, or two to compare.
        port: The port; 0 for any free one.
        top_k: Results per query.
    """

    daemon_threads = True

    def __init__(self, engines: Sequence[Engine], port: int = 7860, top_k: int = 10):
        super().__init__((HOST, port), _Handler)
        self.engines, self.top_k = engines, top_k
        self.lock = threading.Lock()  # the encoders compute for one request at a time
        self.template = html_environment(__package__).get_template("demo.html")

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_port}/"

    def render(self, query: str = "", first: str = "", second: str = "") -> str:
        """Return the page with the answers to what was asked."""
        results, similarities = [], []
        with self.lock:
            if query:
                results = [(engine.name, engine.search(query, self.top_k)) for engine in self.engines]
            if first and second:
                similarities = [(engine.name, engine.similarity(first, second)) for engine in self.engines]
        known = {hit.row for hit in results[0][1]} if len(results) > 1 else set()
        return self.template.render(
            query=query,
            first=first,
            second=second,
            results=results,
            similarities=similarities,
            known=known,
            count=len(self.engines[0].index),
            longest=LONGEST_INPUT,
        )


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if host not in (HOST, "localhost"):  # a page elsewhere may have a name that leads here
            self.send_error(HTTPStatus.FORBIDDEN, "This page is served to its own machine alone.")
            return
        address = urlsplit(self.path)
        if address.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        given = parse_qs(address.query)
        inputs = {name: given.get(name, [""])[0].strip()[:LONGEST_INPUT] for name in ("query", "first", "second")}
        page = self.server.render(**inputs).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header(
            "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"
        )
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args) -> None:
        """Write nothing: queries are private."""
