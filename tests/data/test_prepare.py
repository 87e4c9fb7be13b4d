import gzip

import pyarrow.parquet as pq
import pytest

from mocose_hf.cli.prepare import main
from mocose_hf.data.documents import find_documents, read_blocks
from mocose_hf.data.prepare import prepare
from mocose_hf.data.sentences import read_sentences
from mocose_hf.errors import InputError

pytest.importorskip("sentencex")

MARKDOWN = """---
title: none of this
---
# A heading of some words

The first sentence has a [link](https://example.org). The second
one `continues` on a new line!

* An item of a list.

```python
code = "is left out"
```
"""

HTML = """<html><head><title>x</title><script>var a = "left out"</script></head><body><nav>Menu entry</nav>
<h2>A title</h2><p>One <b>bold</b> sentence. Another one.</p><ul><li>An item</li></ul><pre>code()</pre>
</body></html>"""


def write(path, content: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content", "blocks"),
    [
        ("a.txt", "One line.\nAnother line.\n", ["One line.", "Another line."]),
        ("b.txt", "A paragraph of\ntwo lines.\n\nAnother one.\n", ["A paragraph of two lines.", "Another one."]),
        (
            "c.md",
            MARKDOWN,
            [
                "A heading of some words",
                "The first sentence has a link. The second one continues on a new line!",
                "An item of a list.",
            ],
        ),
        ("d.html", HTML, ["A title", "One bold sentence. Another one.", "An item"]),
        ("e.csv", 'id,body\n1,"A row, with a comma"\n2,\n3,More\n', ["A row, with a comma", "More"]),
        ("f.jsonl", '{"body": "One"}\n{"body": "Two"}\n', ["One", "Two"]),
    ],
)
def test_the_text_of_each_format_is_read_without_markup(tmp_path, name, content, blocks):
    assert list(read_blocks(write(tmp_path / name, content), text_column="body")) == blocks


@pytest.mark.parametrize(
    ("body", "blocks"),
    [
        (
            "<p>Set <code>opt-level</code> to <code>3</code>, or <a href='x'>read</a>.</p>",
            ["Set opt-level to 3, or read."],
        ),
        ("<p>H<sub>2</sub>O<br>Next <em>line</em></p>", ["H2O Next line"]),
        ("<ul><li>Use <b>this</b> one:<ul><li>inner <i>item</i></li></ul></li></ul>", ["Use this one:", "inner item"]),
        ("<td><div>One</div><div>Two</div><!-- a comment --></td>", ["One Two"]),
        ("<div>No block at all</div><div>but two</div>", ["No block at all", "but two"]),
    ],
)
def test_inline_elements_of_html_keep_their_words(tmp_path, body, blocks):
    pytest.importorskip("bs4")
    assert list(read_blocks(write(tmp_path / "a.html", f"<html><body>{body}</body></html>"))) == blocks


def test_a_gzipped_file_is_read(tmp_path):
    path = tmp_path / "a.md.gz"
    path.write_bytes(gzip.compress(MARKDOWN.encode()))
    assert next(read_blocks(path)) == "A heading of some words"


def test_pdf_pages_are_read(tmp_path):
    PdfWriter = pytest.importorskip("pypdf").PdfWriter
    path = tmp_path / "empty.pdf"
    with PdfWriter() as writer:
        writer.add_blank_page(width=72, height=72)
        writer.write(path)
    assert list(read_blocks(path)) == []
    with pytest.raises(InputError, match="PDF"):
        list(read_blocks(write(tmp_path / "no.pdf", "no pdf")))


def test_folders_patterns_and_files_are_found_once(tmp_path):
    files = [write(tmp_path / "docs" / name, "Text of a file.\n") for name in ("a.md", "sub/b.txt", "sub/c.py")]
    found = find_documents([str(tmp_path / "docs"), str(tmp_path / "docs" / "**" / "*.txt"), str(files[0])])
    assert found == files[:2]
    for name in ("nothing/*.md", "none.txt", str(files[2])):
        with pytest.raises(InputError, match="inputs"):
            find_documents([name])


def test_each_reason_for_dropping_is_counted(tmp_path):
    base = "The quick brown fox jumps over the lazy dog near the old river bank today"
    lines = [
        f"{base}.",
        "Short.",
        f"{base}.",
        f"{base}s.",
        "1234567890 1234567890",
        "word " * 60,
        "Something else is here.",
    ]
    done = prepare([write(tmp_path / "a.txt", "\n".join(lines))], max_chars=200)
    assert done.texts == [f"{base}.", "Something else is here."]
    assert done.read == 7
    assert done.dropped == {
        "shorter than 15 characters": 1,
        "duplicate": 1,
        "near duplicate": 1,
        "mostly digits and signs": 1,
        "longer than 200 characters": 1,
    }
    assert f"{base}s." in prepare([tmp_path / "a.txt"], near_duplicates=None).texts


def test_sentences_end_after_abbreviations_only_if_they_end(tmp_path):
    path = write(tmp_path / "a.txt", "Dr. Smith went to the market. He came back e.g. by train in the evening.\n")
    assert prepare([path]).texts == ["Dr. Smith went to the market.", "He came back e.g. by train in the evening."]


def test_passages_join_paragraphs_up_to_the_limit(tmp_path):
    path = write(tmp_path / "a.txt", "A heading\n\nFirst paragraph here.\n\nSecond paragraph here.\n")
    assert prepare([path], unit="passage", max_chars=40).texts == [
        "A heading. First paragraph here.",
        "Second paragraph here.",
    ]


def test_other_languages_are_dropped_by_paragraph(tmp_path):
    english, german = "This is a sentence about the weather.", "Das ist ein Satz über das Wetter von gestern."
    done = prepare([write(tmp_path / "a.txt", f"{english}\n{german}\n")], languages=["en"])
    assert done.texts == [english]
    assert done.dropped == {"paragraph in another language (de)": 1}


@pytest.mark.parametrize("name", ["texts.parquet", "texts.txt"])
def test_the_output_is_a_training_file(tmp_path, capsys, name):
    write(tmp_path / "docs" / "a.md", MARKDOWN)
    output = tmp_path / name
    assert main([str(tmp_path / "docs"), "-o", str(output)]) == 0
    assert "written" in capsys.readouterr().out
    texts = [row["text"] for row in read_sentences(output).dataset]
    assert texts[1] == "The first sentence has a link."
    if name.endswith("parquet"):
        assert pq.read_table(output)["source"].to_pylist() == [str(tmp_path / "docs" / "a.md")] * len(texts)
    before = output.read_bytes()
    assert main([str(tmp_path / "docs"), "-o", str(output)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["none", "-o", "a.txt"], "none"),
        (["DOCS", "-o", "a.csv"], "output"),
        (["DOCS", "-o", "a.txt", "--min_chars", "9999"], "min_chars"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, capsys, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "docs" / "a.md", MARKDOWN)
    assert main([argument.replace("DOCS", "docs") for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]
