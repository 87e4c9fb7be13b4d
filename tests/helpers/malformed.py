"""A corpus of malformed inputs: what each holds, what is to be said of it, and where."""

import gzip
import io
import json
import random
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from builders import sentences
from safetensors.torch import load_file, save_file
from torch import tensor

from mocose_hf.training.checkpoint import read_manifest, write_manifest

GOOD = sentences(80)
TEXT = "\n".join(GOOD).encode() + b"\n"


def parquet(values, kind=None, names=("text",), **options) -> bytes:
    """Write one column, under each of the names."""
    buffer = io.BytesIO()
    column = pa.array(values, kind)
    pq.write_table(pa.Table.from_arrays([column] * len(names), names=list(names)), buffer, **options)
    return buffer.getvalue()


def txt(row: bytes, line: int = 40) -> bytes:
    """Put a bad line among good ones."""
    return b"".join(text.encode() + b"\n" for text in GOOD[: line - 1]) + row + b"\n" + TEXT


def table(row: bytes, line: int = 40, header: bytes = b"text,id") -> bytes:
    mark = b"\t" if b"\t" in header else b","
    rows = [text.encode() + mark + b"1\n" for text in GOOD]
    return header + b"\n" + b"".join(rows[: line - 2]) + row + b"\n" + b"".join(rows[line - 2 :])


def jsonl(row: bytes, line: int = 40) -> bytes:
    rows = [json.dumps({"text": text}).encode() + b"\n" for text in GOOD]
    return b"".join(rows[: line - 1]) + row + b"\n" + b"".join(rows[line - 1 :])


def damaged(content: bytes, start: int, count: int = 40) -> bytes:
    return content[:start] + b"\xff" * count + content[start + count :]


def zipped(*names: str) -> bytes:
    """Return a zip archive of empty files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return buffer.getvalue()


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"
WHOLE_PARQUET = parquet(GOOD)
TXT, TXT_GZ, CSV, TSV, JSONL, PARQUET = (
    f"bad.{suffix}" for suffix in ("txt", "txt.gz", "csv", "tsv", "jsonl", "parquet")
)
HOLDS, ICONV_16 = ", line 40: `text` holds", "iconv -f UTF-16"
WORDS = TEXT.decode()
NOT_UTF8 = ", line 40: not UTF-8 at byte "
ZERO, SHOULD = "binary data, a zero byte", "should be UTF-8 text"
NOT_GZIP, NOT_PARQUET, NO_JSON = ": not a complete gzip file (", ": not a complete parquet file (", "not valid JSON ("
AGAIN, WHOLE, NAME_TEXT, MEND = "make it again", "one complete object", "name a text column", "mend the quotes"
NO_TEXT, NAME_ONE = "no column `text`, the columns are: ", "give --text_column"
BLANK = {"whole": ": all ", "streaming": ": 0 rows to train on"}
FEW = {"whole": ": 1 different sentences", "streaming": ": 1 rows to train on"}
MORE = {"whole": "needs one sentence a line", "streaming": "give more"}

TEXTS = {
    # name of the case: file name, content, what follows the file name in the message, a word of the remedy
    "Latin-1 in line 40": (TXT, txt("Käfer".encode("latin-1")), f"{NOT_UTF8}2", "iconv"),
    "Windows-1252 quotes": (TXT, txt(b"\x93a cat\x94"), f"{NOT_UTF8}1", "(CP1252): give --encoding cp1252, or "),
    "Windows-1252, first only letters": (
        TXT,
        txt(b"K\xe4fer") + b"the cat\x92s\n",
        f"{NOT_UTF8}2",
        "iconv -f CP1252 ",
    ),
    "KOI8-R": (TXT, txt("кот и пёс".encode("koi8-r")), f"{NOT_UTF8}1", "find out its encoding"),
    "Polish in ISO 8859-2": (TXT, txt("mówiłem żołądka książka".encode("iso8859-2")), NOT_UTF8, "find out its"),
    "UTF-8 with a damaged line": (
        TXT,
        "Käfer\n".encode() * 39 + b"a K\xc3\n" + TEXT,
        f"{NOT_UTF8}4",
        "mend it, or drop it",
    ),
    "Shift JIS": (TXT, txt("日本語".encode("shift-jis")), f"{NOT_UTF8}1", "iconv"),
    "UTF-8 whose last character is cut": (TXT, txt("a Kä".encode()[:-1]), f"{NOT_UTF8}4", "iconv"),
    "overlong encoding of a slash": (TXT, txt(b"a\xc0\xaf"), f"{NOT_UTF8}2", "iconv"),
    "lone surrogate": (TXT, txt(b"a\xed\xa0\x80"), f"{NOT_UTF8}2", "iconv"),
    "surrogate pair as two characters": (TXT, txt(b"\xed\xa0\xbd\xed\xb8\x80"), f"{NOT_UTF8}1", "iconv"),
    "character above U+10FFFF": (TXT, txt(b"\xf4\x90\x80\x80"), f"{NOT_UTF8}1", "iconv"),
    "zero byte in line 40": (TXT, txt(b"a\0cat"), f", line 40: {ZERO}", SHOULD),
    "UTF-16 LE, marked": (TXT, b"\xff\xfe" + WORDS.encode("utf-16-le"), ", line 1: UTF-16", ICONV_16),
    "UTF-16 BE, marked": (TXT, b"\xfe\xff" + WORDS.encode("utf-16-be"), ", line 1: UTF-16", ICONV_16),
    "UTF-16 LE": (
        TXT,
        WORDS.encode("utf-16-le"),
        f", line 1: {ZERO}; the file should be UTF-8",
        "looks like UTF-16LE: give",
    ),
    "UTF-16 BE": (
        TXT,
        WORDS.encode("utf-16-be"),
        f", line 1: {ZERO}; the file should be UTF-8",
        "looks like UTF-16BE: give",
    ),
    "UTF-32, marked": (TXT, b"\xff\xfe\0\0" + WORDS.encode("utf-32-le"), ", line 1: UTF-32", "iconv -f UTF-32"),
    "UTF-32 BE": (TXT, WORDS.encode("utf-32-be"), f", line 1: {ZERO}", "looks like UTF-32BE: give"),
    "UTF-16 csv": (CSV, "text\na cat\n".encode("utf-16"), ", line 1: UTF-16", ICONV_16),
    "PNG": (TXT, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ", line 1: ", "UTF-8"),
    "zip": (TXT, b"PK\x03\x04\x14\0\0\0\x08\0", ", line 1: a zip archive", SHOULD),
    "ELF": (TXT, b"\x7fELF\x02\x01\x01\0", ", line 1: a program", SHOULD),
    "gzip named txt": (TXT, gzip.compress(TEXT, mtime=0), ", line 1: a gzip file", "the ending .gz"),
    "parquet named jsonl": (JSONL, WHOLE_PARQUET, ", line 1: a parquet file", "the ending .parquet"),
    "parquet named txt": (TXT, WHOLE_PARQUET, ", line 1: a parquet file", "the ending .parquet"),
    "HTML": (TXT, b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", ", line 1: an HTML page", "download"),
    "HTML named csv.gz": ("bad.csv.gz", b"<html lang=en>\n", ": an HTML page", "download"),
    "HTML named parquet": (PARQUET, b"<!doctype html><p>", ": an HTML page", "download"),
    "git-lfs pointer": (TXT, LFS_POINTER, ", line 1: a git-lfs pointer", "git lfs pull"),
    "git-lfs pointer named txt.gz": (TXT_GZ, LFS_POINTER, ": a git-lfs pointer", "git lfs pull"),
    "git-lfs pointer named parquet": (PARQUET, LFS_POINTER, ": a git-lfs pointer", "git lfs pull"),
    "XML": (TXT, b'<?xml version="1.0"?>\n<doc/>\n', ", line 1: an XML document", "one sentence a line"),
    "PDF": (TXT, b"%PDF-1.7\n", ", line 1: a PDF file", "extract its text"),
    "csv named txt": (
        TXT,
        table(b"b,1"),
        ": a comma-separated table with the columns text, id",
        "rename it to bad.csv",
    ),
    "csv with quotes named txt": (
        TXT,
        b'"id","text"\n1,"a, b"\n2,"c"\n3,"d"\n',
        ": a comma-separated table",
        "bad.csv",
    ),
    "csv of semicolons named txt": (TXT, b"id;text\n1;a\n2;b\n3;c\n", ": a semicolon-separated table", "bad.csv"),
    "csv without header named txt": (
        TXT,
        b"1,a\n2,b\n3,c\n4,d\n" * 3,
        ": a comma-separated table without a header",
        "a first line",
    ),
    "tsv named txt": (TXT, b"1\ta cat\n2\ta dog\n3\ta bird\n4\ta cow\n", ": a tab-separated table", "bad.tsv"),
    "csv named txt.gz": (TXT_GZ, gzip.compress(table(b"b,1")), ": a comma-separated table", "rename it to bad.csv.gz"),
    "jsonl named txt": (TXT, jsonl(b'{"text": "b"}'), ": JSON, one object a line", "rename it to bad.jsonl"),
    "xlsx": (
        "bad.xlsx",
        zipped("[Content_Types].xml", "xl/workbook.xml"),
        ": an Excel workbook",
        "save the sheet as CSV",
    ),
    "docx": ("bad.docx", zipped("word/document.xml"), ": a Word document", "save its text"),
    "ods named csv": (CSV, zipped("mimetype", "content.xml"), ", line 1: an OpenDocument file", "save it as CSV"),
    "tar.gz": ("bad.tar.gz", gzip.compress(bytes(257) + b"ustar" + bytes(300)), ": a tar archive", "unpack it"),
    "xz": ("bad.txt.xz", b"\xfd7zXZ\0\0\0", ": an xz file", "unxz"),
    "JSON array": ("bad.json", b'[{"text": "a"}]', ": a JSON array", "jq -c '.[]' "),
    "a line of 40 MB": (TXT_GZ, gzip.compress(b"a" * 40_000_000, 1), ", line 1: longer than 32 MiB", "one sentence"),
    "gzip with rubbish behind": (TXT_GZ, gzip.compress(b"a cat\n") + b"rubbish", NOT_GZIP, AGAIN),
    "gzip of another sum": (TXT_GZ, gzip.compress(b"a cat\n")[:-8] + bytes(8), NOT_GZIP, AGAIN),
    "gzip cut in its header": (TXT_GZ, gzip.compress(TEXT)[:6], NOT_GZIP, AGAIN),
    "zip named gz": (
        TXT_GZ,
        b"PK\x03\x04\x14\0\0\0\x08\0",
        ": a zip archive, but the file should be a gzip",
        "unpack it",
    ),
    "gzip of nothing": (TXT_GZ, gzip.compress(b""), ": the file is empty", "needs one sentence a line"),
    "empty file named gz": ("bad.jsonl.gz", b"", ": the file is empty", "needs one sentence a line"),
    "gzip of a gzip": (TXT_GZ, gzip.compress(gzip.compress(TEXT, mtime=0)), ", line 1: a gzip file", SHOULD),
    "a byte order mark alone": (TXT, b"\xef\xbb\xbf", BLANK, MORE),
    "a byte order mark alone, csv": (CSV, b"\xef\xbb\xbf", f", line 1: {NO_TEXT}", NAME_ONE),
    "blanks of Unicode alone": (TXT, "\u3000\n\u2003\x0c\n".encode() * 40, BLANK, MORE),
    "one line of 10 MB": (TXT, b"a cat " * 1_700_000, FEW, "per_device_train_batch_size"),
    "10 MB of Latin-1": (TXT, b"a c\xe4t " * 1_500_000, ", line 1: not UTF-8 at byte 4", "iconv"),
    "a list of 4 MB": (JSONL, b'{"text": [' + b"1," * 2_000_000 + b"1]}", ", line 1: `text` holds '[1, 1", NAME_TEXT),
    "csv without header": (CSV, table(b"x,1").partition(b"\n")[2], f", line 1: {NO_TEXT}", "header line"),
    "csv of semicolons": (
        CSV,
        b"id;text\n1;a\n",
        f", line 1: {NO_TEXT}id;text; ",
        "separated by semicolons; write commas",
    ),
    "csv of tabs": (
        CSV,
        b"id\ttext\n1\ta\n",
        f", line 1: {NO_TEXT}",
        "separated by tabs; give its name the ending .tsv",
    ),
    "jsonl named csv": (CSV, jsonl(b'{"text": "b"}'), ", line 1: JSON, not a header", "the ending .jsonl"),
    "csv named parquet": (PARQUET, table(b"a,1"), NOT_PARQUET, "give its name the ending"),
    "text named gz": (TXT_GZ, TEXT, NOT_GZIP, "drop .gz from its name"),
    "csv with a blank header": (CSV, b"\ntext\na\n", f", line 1: {NO_TEXT}", NAME_ONE),
    "csv with the column twice": (CSV, table(b"a,1", header=b"text,text"), ", line 1: ", "`text`"),
    "csv header with a line feed": (CSV, b'"te\nxt",id\na,1\n', f", line 1: {NO_TEXT}", NAME_ONE),
    "csv header with an open quote": (CSV, b'"text\na\nb\n', ", line 1: ", MEND),
    "csv row with a field more": (CSV, table(b"a, b,1"), ", line 40: 3 fields", "quote fields"),
    "csv row with a field less": (CSV, table(b"a"), ", line 40: 1 fields", "quote fields"),
    "csv row behind a line feed": (CSV, b'text,id\n"a\nb",1\n\nc\n', ", line 5: 1 fields", "quote fields"),
    "csv bytes behind a line feed": (CSV, b'text,id\n"a\nb\xe4",1\n', ", line 3: not UTF-8 at byte 2", "iconv"),
    "csv with an open quote in line 40": (CSV, table(b'"a,1'), ", line 40: ", MEND),
    "csv with text behind a quote": (CSV, table(b'"a" "b",1'), ", line 40: ", MEND),
    "csv field above the limit": (
        CSV,
        table(b"x" * 2**24 + b"x,1"),
        ", line 40: a field of more than",
        "never closed",
    ),
    "csv of carriage returns": (CSV, b"text\ra\rb\r", ", line 1: new-line character", MEND),
    "csv with a zero byte": (CSV, table(b"a\0,1"), f", line 40: {ZERO}", SHOULD),
    "tsv row with a field less": (TSV, table(b"a", header=b"text\tid"), ", line 40: 1 fields", "separator"),
    "tsv row with a field more": (TSV, table(b"a\tb\t1", header=b"text\tid"), ", line 40: 3 fields", "separator"),
    "tsv of commas": (
        TSV,
        b"text,id\na,1\n",
        f", line 1: {NO_TEXT}text,id; ",
        "separated by commas; give its name the ending .csv",
    ),
    "tsv with a lone carriage return": (TSV, table(b"a\rb\t1", header=b"text\tid"), ", line 40: ", MEND),
    "jsonl array": (JSONL, json.dumps([{"text": t} for t in GOOD]).encode(), ", line 1: not a JSON object", "write {"),
    "jsonl over several lines": (JSONL, b'{\n "text": "a"\n}\n', f", line 1: {NO_JSON}", WHOLE),
    "jsonl with a comma inside": (JSONL, jsonl(b'{"text": "a",}'), f", line 40: {NO_JSON}", WHOLE),
    "jsonl comma behind": (JSONL, jsonl(b'{"text": "a"},'), f", line 40: {NO_JSON}Extra data", WHOLE),
    "jsonl of two objects": (JSONL, jsonl(b'{"text": "a"}{"text": "b"}'), f", line 40: {NO_JSON}", WHOLE),
    "jsonl in single quotes": (JSONL, jsonl(b"{'text': 'a'}"), f", line 40: {NO_JSON}", WHOLE),
    "jsonl with a tab": (JSONL, jsonl(b'{"text": "a\tb"}'), f", line 40: {NO_JSON}", WHOLE),
    "jsonl with a mark inside": (JSONL, jsonl(b'\xef\xbb\xbf{"text": "a"}'), f", line 40: {NO_JSON}", WHOLE),
    "jsonl of NaN": (JSONL, jsonl(b'{"text": NaN}'), f"{HOLDS} 'nan'", NAME_TEXT),
    "jsonl of a nested text": (JSONL, jsonl(b'{"text": {"text": "a"}}'), f"{HOLDS}", NAME_TEXT),
    "jsonl of true": (JSONL, jsonl(b'{"text": true}'), f"{HOLDS} 'True'", NAME_TEXT),
    "jsonl of null alone": (JSONL, b'{"text": null}\n' * 70, BLANK, MORE),
    "jsonl of a bare string": (JSONL, jsonl(b'"a cat"'), ", line 40: not a JSON object", "write {"),
    "jsonl without the key": (JSONL, jsonl(b'{"Text": "a"}'), f", line 40: {NO_TEXT}Text; ", NAME_ONE),
    "jsonl of an empty object": (JSONL, jsonl(b"{}"), f", line 40: {NO_TEXT}", NAME_ONE),
    "jsonl key with a line feed": (JSONL, jsonl(b'{"te\\nxt": "a"}'), f", line 40: {NO_TEXT}", NAME_ONE),
    "jsonl nested 900 deep": (JSONL, jsonl(b'{"text": ' + b"[" * 900 + b"]" * 900 + b"}"), ", line 40: ", "; "),
    "jsonl nested 50,000 deep": (JSONL, jsonl(b'{"a":' * 50_000), f", line 40: {NO_JSON}", WHOLE),
    "jsonl of 4,000 digits": (JSONL, jsonl(b'{"text": ' + b"9" * 4000 + b"}"), f"{HOLDS} '999", NAME_TEXT),
    "jsonl of 9,000 digits": (JSONL, jsonl(b'{"text": ' + b"9" * 9000 + b"}"), f", line 40: {NO_JSON}", WHOLE),
    "jsonl with half a pair": (JSONL, jsonl(b'{"text": "a", "\\ud800": 1}'), ", line 40: half of a surrogate", "mend"),
    "parquet cut to half": (PARQUET, WHOLE_PARQUET[: len(WHOLE_PARQUET) // 2], NOT_PARQUET, AGAIN),
    "parquet of another magic": (PARQUET, WHOLE_PARQUET[:-4] + b"PARX", NOT_PARQUET, AGAIN),
    "parquet with a footer too long": (PARQUET, WHOLE_PARQUET[:-8] + b"\xff\xff\xff\x7fPAR1", NOT_PARQUET, AGAIN),
    "parquet with a damaged page": (PARQUET, damaged(WHOLE_PARQUET, 30), NOT_PARQUET, AGAIN),
    "parquet without columns": (PARQUET, parquet([], pa.string(), names=()), f": {NO_TEXT}", NAME_ONE),
    "parquet column with a line feed": (PARQUET, parquet(GOOD, names=["te\nxt"]), f": {NO_TEXT}", NAME_ONE),
    "parquet with the column twice": (PARQUET, parquet(GOOD, names=["text", "text"]), ": ", "`text`"),
    "parquet of nulls": (PARQUET, parquet([None] * 80, pa.string()), BLANK, MORE),
    "parquet of lists": (PARQUET, parquet([["a"]] * 80), ", row 1: `text` holds", NAME_TEXT),
    "parquet of records": (PARQUET, parquet([{"a": "b"}] * 80), ", row 1: `text` holds", NAME_TEXT),
    "parquet of bytes": (PARQUET, parquet([b"a"] * 80), ", row 1: `text` holds", NAME_TEXT),
    "parquet of dates too late": (PARQUET, parquet([2**30] * 80, pa.date32()), ", row 1: ", NAME_TEXT),
    "parquet of endless durations": (PARQUET, parquet([2**62] * 80, pa.duration("s")), ", row 1: ", NAME_TEXT),
    "parquet of times nowhere": (
        PARQUET,
        parquet([2**50] * 80, pa.timestamp("us", tz="No/Where")),
        ", row 1: ",
        NAME_TEXT,
    ),
    "parquet of Latin-1": (
        PARQUET,
        parquet(pa.array([b"\xff"] * 80).view(pa.string())),
        ", after row 0: bytes that",
        "again",
    ),
    "parquet in a cut gzip": ("bad.parquet.gz", gzip.compress(WHOLE_PARQUET)[:-9], NOT_GZIP, AGAIN),
    "parquet named gz": (
        "bad.parquet.gz",
        WHOLE_PARQUET,
        ": a parquet file, but the file should be a gzip",
        "ending .parquet",
    ),
    "arrow named parquet": (PARQUET, b"ARROW1\0\0" + bytes(100), ": an Arrow file", "save it as parquet"),
    "empty": ("bad.txt", b"", ": the file is empty", "needs one sentence a line"),
    "only blank lines": ("bad.txt", b"\n  \n\t\n", BLANK, MORE),
    "csv of a header alone": ("bad.csv", b"text\n", BLANK, MORE),
    "parquet without rows": ("bad.parquet", parquet([]), BLANK, MORE),
    "Latin-1": ("bad.txt", "a cat\nKäfer\n".encode("latin-1"), ", line 2: not UTF-8 at byte 2", "iconv -f LATIN1"),
    "Latin-1 csv": ("bad.csv", "text\nKäfer\n".encode("latin-1"), ", line 2: not UTF-8", "iconv -f LATIN1"),
    "UTF-16, little end first": ("bad.txt", b"\xff\xfe" + "a cat\n".encode("utf-16-le"), ", line 1: UTF-16", "iconv"),
    "UTF-16, big end first": ("bad.txt", b"\xfe\xff" + "a cat\n".encode("utf-16-be"), ", line 1: UTF-16", "iconv"),
    "UTF-16 without mark": ("bad.txt", "a cat\n".encode("utf-16-le"), ", line 1: binary data", "should be UTF-8"),
    "binary": ("bad.txt", b"a cat\n\x00\x01\x02\n", ", line 2: binary data", "should be UTF-8 text"),
    "missing column": ("bad.csv", b"id,sentence\n1,a\n", ", line 1: no column `text`", "--text_column"),
    "missing column, tsv": ("bad.tsv", b"id\tsentence\n1\ta\n", ", line 1: no column `text`", "--text_column"),
    "missing column, jsonl": ("bad.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', ", line 2: no column", "--text_column"),
    "missing column, parquet": (
        "bad.parquet",
        parquet(["a"], names=["sentence"]),
        ": no column `text`",
        "--text_column",
    ),
    "csv of two lines without header": (
        "bad.csv",
        b"a cat sees,1\na dog,2\n",
        ", line 1: no column `text`",
        "header line",
    ),
    "csv line of other length": ("bad.csv", b"text,id\na,1\na, b,2\n", ", line 3: 3 fields", "quote fields"),
    "csv with an open quote": ("bad.csv", b'text\n"a cat\n', ", line 2: ", "mend the quotes"),
    "csv with text behind a quote in line 3": ("bad.csv", b'text\na\n"b" c\nd\n', ", line 3: ", "mend the quotes"),
    "truncated jsonl": ("bad.jsonl", b'{"text": "a"}\n{"text": "a ca', ", line 2: not valid JSON", "complete object"),
    "json array": ("bad.jsonl", b'["text"]\n', ", line 1: not a JSON object", 'write {"text": "a sentence"}'),
    "json array over lines": ("bad.jsonl", b'[\n{"text": "a"}\n]\n', ", line 1: not valid JSON", "complete object"),
    "number": ("bad.jsonl", b'{"text": "a"}\n{"text": 5}\n', ", line 2: `text` holds '5'", "name a text column"),
    "list": ("bad.jsonl", b'{"text": ["a"]}\n', ", line 1: `text` holds", "name a text column"),
    "numbers in parquet": ("bad.parquet", parquet([1, 2]), ", ", "name a text column"),
    "json nested too deep": (
        "bad.jsonl",
        b'{"text": ' + b"[" * 100_000,
        ", line 1: not valid JSON",
        "complete object",
    ),
    "json number too long": ("bad.jsonl", b'{"text": "a", "id": ' + b"1" * 5000 + b"}\n", ", line 1: ", "JSON"),
    "half a surrogate pair": ("bad.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n', ", line 2: ", "; "),
    "truncated gzip": (
        "bad.txt.gz",
        gzip.compress(TEXT[:500], mtime=0)[:-20],
        ": not a complete gzip file",
        "make it again",
    ),
    "damaged gzip": (
        "bad.txt.gz",
        gzip.compress(TEXT, mtime=0)[:20] + b"\xff" * 20 + gzip.compress(TEXT, mtime=0)[40:],
        ": not a complete gzip",
        "again",
    ),
    "plain file named gz": ("bad.txt.gz", b"a cat\n", ": not a complete gzip file", "make it again"),
    "truncated parquet": ("bad.parquet", WHOLE_PARQUET[:-50], ": not a complete parquet file", "make it again"),
    "text named parquet": ("bad.parquet", b"a cat\n", ": not a complete parquet file", "make it again"),
    "damaged parquet": (
        "bad.parquet",
        WHOLE_PARQUET[:60] + b"\xff" * 200 + WHOLE_PARQUET[260:],
        ": not a complete parquet file",
        "make it again",
    ),
    "wrong suffix": ("bad.doc", b"a cat\n", ": the name should end in .txt, .csv, ", "rename it"),
    "no suffix": ("bad", b"a cat\n", ": the name should end in .txt, .csv, ", "rename it"),
    "gz of a wrong suffix": ("bad.tar.gz", gzip.compress(TEXT, mtime=0), ": the name should end in", "rename it"),
    "fewer sentences than a batch": (
        "bad.txt",
        b"a cat\na dog\na cat\n",
        {"whole": ": 2 different sentences, but one batch takes 64", "streaming": ": 3 rows to train on"},
        "per_device_train_batch_size",
    ),
}

GOOD_PAIRS = b"1.0\ta cat\tthe dog\n5.0\ta cat\ta cat\n"
PAIRS = {
    # name of the case: content, what follows the file name in the message, a word of the remedy
    "a field less": (GOOD_PAIRS + b"2\ta\n", ", line 3: 2 tab-separated fields", "write score, sentence, sentence"),
    "a field more": (
        GOOD_PAIRS + b"2\ta\tb\tc\n",
        ", line 3: 4 tab-separated fields",
        "write score, sentence, sentence",
    ),
    "spaces for tabs": (
        GOOD_PAIRS + b"2 a b\n",
        ", line 3: 1 tab-separated fields",
        "write score, sentence, sentence",
    ),
    "carriage returns": (GOOD_PAIRS + b"2\ta\tb\r3\tc\td\r", ", line 3: 5 tab-separated fields", "write score"),
    "nan": (GOOD_PAIRS + b"nan\ta\tb\n", ", line 3: the score 'nan' is no number", "mend the line"),
    "inf": (GOOD_PAIRS + b"-inf\ta\tb\n", ", line 3: the score '-inf' is no number", "mend the line"),
    "a score too large to be one": (
        GOOD_PAIRS + b"1e999\ta\tb\n",
        ", line 3: the score '1e999' is no number",
        "mend the line",
    ),
    "a decimal comma": (GOOD_PAIRS + b"2,5\ta\tb\n", ", line 3: the score '2,5' is no number", "mend the line"),
    "a quoted score": (GOOD_PAIRS + b'"2"\ta\tb\n', ", line 3: the score '\"2\"' is no number", "mend the line"),
    "no score": (GOOD_PAIRS + b"\ta\tb\n", ", line 3: the score '' is no number", "mend the line"),
    "a score of 1 MB": (GOOD_PAIRS + b"x" * 1_000_000 + b"\ta\tb\n", ", line 3: the score 'xxx", "mend the line"),
    "a blank first sentence": (GOOD_PAIRS + b"2\t \tb\n", ", line 3: ", "drop"),
    "a blank second sentence": (GOOD_PAIRS + b"2\ta\t\n", ", line 3: ", "drop"),
    "Latin-1": (GOOD_PAIRS + b"2\tK\xe4fer\tb\n", ", line 3: not UTF-8 at byte 4", "iconv"),
    "a zero byte": (GOOD_PAIRS + b"2\ta\0\tb\n", f", line 3: {ZERO}", SHOULD),
    "two columns": (b"1.0\ta\tb\n2.0\ta\n", ", line 2: 2 tab-separated fields, but 3 are needed", "write score, sent"),
    "four columns": (b"1.0\ta\tb\n2.0\ta\tb\tc\n", ", line 2: 4 tab-separated fields, but 3", "write score, sentence"),
    "score that is no number": (b"1.0\ta\tb\n\nhigh\ta\tb\n", ", line 3: the score 'high' is no number", "mend"),
    "header": (
        b"like\tfirst\tsecond\n1.0\ta\tb\n",
        ", line 1: the score 'like' is no number",
        "drop it if it is a header",
    ),
    "score in the last column": (b"a\tb\tlike\nc\td\t1.0\n", ", line 1: the score 'a' is no number", "column 3 seems"),
    "score in the last column, no header": (
        b"c\td\t1.0\n",
        ", line 1: the score 'c' is no number",
        "reorder the columns",
    ),
    "ten columns": (b"a\tb\tc\td\te\tf\tg\th\ti\tj\n", ", line 1: 10 tab-separated fields", "add a header line"),
    "commas": (b"1.0,a,b\n", ", line 1: 1 tab-separated fields, but 3 are needed", "write score, sentence"),
    "one score": (b"1.0\ta\tb\n1.0\tc\td\n", ": 2 scored pairs of one score", "give pairs of different scores"),
    "empty": (b"", ": the file is empty", "needs"),
}


def bomb(levels: int) -> str:
    """Return a YAML mapping in one line that grows tenfold with each level."""
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "{" + ", ".join(["a0: &a0 [x]", *lists]) + "}"


RUNS = "!!python/object/apply:os.mkdir [marker]"
NO_YAML, MEND_LINE = "not valid YAML or JSON", "mend"
CONFIGS_AFTER_LINE_1 = {
    # name of the case: content from line 2 on, the line of the error, a word of the message
    "a tab": ("seed: 1\n\tuse_cpu: true\n", 3, NO_YAML),
    "a brace left open": ("seed: {\n", 3, NO_YAML),
    "a path of Windows": ('cache_dir: "C:\\Users"\n', 2, NO_YAML),
    "an alias of nothing": ("learning_rate: *x\n", 2, NO_YAML),
    "a second document": ("---\nseed: 2\n", 2, NO_YAML),
    "a control character": ("seed: \x07\n", 2, NO_YAML),
    "code for a value": (f"seed: {RUNS}\n", 2, "`seed`"),
    "code in a mapping": (f"lr_scheduler_kwargs: {{a: {RUNS}}}\n", 2, "lr_scheduler_kwargs"),
    "code in a list": (f"report_to: [[{RUNS}]]\n", 2, "report_to"),
    "a name of Python": ("lr_scheduler_kwargs: {a: !!python/name:os.system ''}\n", 2, "lr_scheduler_kwargs"),
    "bytes": ("lr_scheduler_kwargs: {a: !!binary aGk=}\n", 2, "lr_scheduler_kwargs"),
    "a date": ("lr_scheduler_kwargs: {a: !!timestamp 2020-01-01}\n", 2, "lr_scheduler_kwargs"),
    "a set": ("lr_scheduler_kwargs: {a: !!set {b, c}}\n", 2, "lr_scheduler_kwargs"),
    "a number that is none": ("lr_scheduler_kwargs: {a: !!int b}\n", 2, "lr_scheduler_kwargs"),
    "a list for a key inside": ("lr_scheduler_kwargs: {[a, b]: 1}\n", 2, "lr_scheduler_kwargs"),
    "a list that holds itself": ("seed: &a [*a, 1]\n", 2, "seed"),
    "a mapping that holds itself": ("lr_scheduler_kwargs: &a {b: *a}\n", 2, "lr_scheduler_kwargs"),
    "aliases that multiply": (f"lr_scheduler_kwargs: {bomb(6)}\n", 2, "alias"),
    "an empty list": ("seed: []\n", 2, "`seed`"),
    "two values": ("seed: [1, 2]\n", 2, "keep one"),
    "a nested mapping": ("seed: {a: 1}\n", 2, "--seed"),
    "nested 3,000 deep": (f"seed: {'[' * 3000}{']' * 3000}\n", 2, "nested"),
    "a number for a key": ("1: 2\n", 2, "unknown option `1`"),
    "a list for a key": ("? [a, b]\n: 1\n", 2, "write `option: value`"),
    "null for a key": ("~: 2\n", 2, "unknown option `~`"),
    "a key with a line feed": ('"se\\ned": 1\n', 2, "did you mean `seed`?"),
    "a key twice in two spellings": ("max-steps: 1\nmax_steps: 2\n", 3, "stands twice"),
    "a merge": ("<<: {seed: 1}\n", 2, "unknown option `<<`"),
}

CONFIGS = {
    name: (f"use_cpu: true\n{text}", line, word) for name, (text, line, word) in CONFIGS_AFTER_LINE_1.items()
} | {
    # name of the case: content, the line of the error, a word of the message
    "unknown key": ("seed: 1\nqueue_sise: 9\n", 2, "did you mean `queue_size`?"),
    "bad value": ("seed: 1\ntemperature: warm\n", 2, "invalid float value: 'warm'"),
    "key twice": ("seed: 1\nseed: 2\n", 2, "drop one"),
    "not YAML": ("seed: [1\nuse_cpu: true\n", 2, "mend the line"),
    "a list": ("- seed\n", 1, "write one `option: value` a line"),
}

VALUES = [
    *[("learning_rate", value) for value in ("-1", "nan", "inf", "abc", "", "0x1", "½")],
    *[("max_steps", value) for value in ("0", "1.5", "nan", "", "1e3", "²")],
    *[("per_device_train_batch_size", value) for value in ("-1", "", "1.0", "9" * 20)],
    *[("queue_size", value) for value in ("-1", "nan", str(10**13), "9" * 30)],
    *[("warmup_steps", value) for value in ("-1", "nan", "inf")],
    *[("weight_decay", value) for value in ("-1", "nan", "inf")],
    *[("adam_beta1", value) for value in ("2", "-1", "nan")],
    *[("adam_epsilon", value) for value in ("-1", "nan")],
    *[("logging_steps", value) for value in ("-1", "0", "nan", "inf")],
    *[("save_steps", value) for value in ("-1", "nan", "inf")],
    *[("temperature", value) for value in ("inf", "1e-400", "", "²")],
    *[("seed", value) for value in ("", "1e3", "²", "9" * 30)],
    *[("data_seed", str(2**70)), ("max_grad_norm", "nan"), ("ema_decay", "nan"), ("head_dropout_prob", "nan")],
    *[("projection_dim", "0"), ("projection_dim", str(10**14)), ("dataloader_num_workers", "-1")],
    *[("max_seq_length", "9" * 20), ("neftune_noise_alpha", "nan"), ("use_cpu", "maybe"), ("optim_args", "bad")],
    *[("lr_scheduler_kwargs", value) for value in ("{bad", '{"a": 1}', "[1]")],
    *[("accelerator_config", value) for value in ("{bad", "none.json", '{"x": 1}')],
    *[("lr_scheduler_type", value) for value in ("nope", "cosine_with_min_lr", "warmup_stable_decay")],
    *[("pooling_mode", ""), ("optim", "nope"), ("save_strategy", "nope"), ("gradient_checkpointing_kwargs", "{bad")],
    *[("train_file", "x" * 300 + ".txt"), ("validation_file", "x" * 300), ("resume_from_checkpoint", "x" * 300)],
]


def change(name: str, **entries):
    """Return what changes entries of a JSON file in a directory."""

    def changed(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return changed


def write(name: str, content: bytes):
    return lambda directory: (directory / name).write_bytes(content)


WEIGHTS = "model.safetensors"


def turn_weights(directory: Path) -> None:
    path = directory / WEIGHTS
    save_file({name: value.t().contiguous() for name, value in load_file(path).items()}, path, {"format": "pt"})


def bring_code(directory: Path) -> None:
    (directory / "evil.py").write_text("import os\nos.mkdir('marker')\n")
    change("config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"})(directory)


def add_words(directory: Path) -> None:
    words = [f"word{i}" for i in range(200)]
    path = directory / "vocab.txt"
    path.write_text("\n".join([*path.read_text().split("\n")[:5], *words, *path.read_text().split("\n")[5:]]))
    (directory / "tokenizer.json").unlink()


MODELS = {
    **{
        f"config of {text[:9]!r}": write("config.json", text)
        for text in (b"", b"[]", b"null", b"5", b"\xff\0", b"[" * 9999)
    },
    **{
        f"tokenizer of {text[:9]!r}": write("tokenizer.json", text)
        for text in (b"", b"[]", b"{}", b"null", b"{no", b"\xff")
    },
    **{f"modules of {text[:9]!r}": write("modules.json", text) for text in (b"{}", b"[1]", b"5", b"\xff", b"[{}]")},
    **{f"type {kind}": change("config.json", model_type=kind) for kind in ("evil", "t5", "vit", 5, ["bert"])},
    **{f"width {width}": change("config.json", hidden_size=width) for width in (64, 33, 0, -1, "wide", None)},
    "no heads": change("config.json", num_attention_heads=0),
    "another vocabulary": change("config.json", vocab_size=10),
    "padding beyond it": change("config.json", pad_token_id=500),
    "no activation": change("config.json", hidden_act="none such"),
    "no number type": change("config.json", dtype="none such"),
    "a length that is a word": change("tokenizer_config.json", model_max_length="long"),
    "no padding": change("tokenizer_config.json", pad_token=None),
    "more words than rows": add_words,
    "weights of 0xff": write(WEIGHTS, b"\xff" * 5000),
    "weights of nothing": write(WEIGHTS, b""),
    "weights of text": write(WEIGHTS, TEXT),
    "weights turned": turn_weights,
    "weights of other names": lambda directory: save_file({"x": tensor(1.0)}, directory / WEIGHTS, {"format": "pt"}),
    "a layer without weights": change("config.json", num_hidden_layers=3),
    "code": bring_code,
}


def vouched(spoil):
    """Return what spoils a checkpoint and then makes its manifest anew."""

    def spoiled(directory: Path) -> None:
        run = read_manifest(directory)
        spoil(directory)
        write_manifest(directory, run)

    return spoiled


def flip_bit(name: str):
    def flipped(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        content[len(content) // 2] ^= 1
        (directory / name).write_bytes(content)

    return flipped


def add_rubbish(directory: Path) -> None:
    change("manifest.json", run=read_manifest(directory) | {"seed": "a\nb" * 2000})(directory)


FILES = [WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "train_metrics.json"]
LISTED = {"size": 1, "sha256": ""}
CHECKPOINTS = {
    **{f"manifest {text[:5]!r}": write("manifest.json", text) for text in (b"", b"{", b"[]", b"\xff", b"[" * 9999)},
    **{f"a bit of {name}": flip_bit(name) for name in FILES},
    **{f"no {name}": lambda directory, name=name: (directory / name).unlink() for name in [*FILES, "manifest.json"]},
    **{f"{name} {text}, vouched": vouched(write(name, text)) for name in FILES for text in (b"[]", b"{\xff")},
    "a file with a line feed": change("manifest.json", files={"a\nb": LISTED, "trainer_state.json": LISTED}),
    "a file of a long name": change("manifest.json", files={"a" * 5000: LISTED, "trainer_state.json": LISTED}),
    "a run of nothing": change("manifest.json", run={}),
    "a seed of rubbish": add_rubbish,
    "a step that is a word, vouched": vouched(change("trainer_state.json", global_step="two")),
    "a step below 0, vouched": vouched(change("trainer_state.json", global_step=-1)),
}

PIECES = [
    b"\0",
    b"\n",
    b"\r",
    b'"',
    b"\t",
    b",",
    b"[",
    b"{",
    b"}",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\u",
    b": ",
    b"&a ",
    b"*a ",
]
PIECES += [b"!!python/object/apply:os.mkdir ", b"!!int ", b"- ", b"? ", b"\\ud800", b"NaN", b"\xed\xa0\x80"]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Flip, insert, remove, double or cut off bytes, one to three times."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        at, count = chance.randrange(len(content) + 1), chance.choice([1, 1, 2, 5, 50])
        kind = chance.choice(["flip", "insert", "remove", "double", "cut", "piece", "piece"])
        if kind == "flip":
            content[at : at + 1] = chance.randbytes(1)
        elif kind == "double":
            content[at:at] = content[at : at + count]
        elif kind in ("remove", "cut"):
            del content[at : len(content) if kind == "cut" else at + count]
        else:
            content[at:at] = chance.randbytes(count) if kind == "insert" else chance.choice(PIECES)
    return bytes(content)
