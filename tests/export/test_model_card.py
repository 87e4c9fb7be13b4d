"""The model card: its facts, and hostile text in it."""

import html
import re

import pytest

from mocose_hf.export.model_card import RunRecord, build_model_card, markdown_code, write_model_card


def test_model_card_has_scores_command_seed_data_and_versions(tmp_path):
    record = RunRecord(
        start="some/encoder",
        command="run_mocose.py --seed 7",
        seed=7,
        data="text.txt: 3 rows read, dropped: none; 3 sentences.",
        data_sha256="abc123",
        scores=[("start", {"dev_spearman": 70.0}), ("best, step 5", {"dev_spearman": 71.234, "dev_uniformity": -2.0})],
        settings={"queue_size": 512},
    )
    write_model_card(tmp_path, build_model_card(record, "cls"))
    text = (tmp_path / "README.md").read_text()
    facts = ("some/encoder", "run_mocose.py --seed 7", "Seed: 7", "abc123", "71.234", "`queue_size` | `512`", "torch ")
    assert [part for part in facts if part not in text] == []
    assert text.startswith("---\n")
    assert "base_model: some/encoder" in text


def test_model_card_shows_html_and_marks_as_text():
    hostile = "<img src=x onerror=alert(1)> `a` | *b* \n<script>c</script>\n```\n"
    record = RunRecord(
        start=hostile,
        command=f"run_mocose.py --train_file {hostile}",
        seed=7,
        data=f"{hostile}: 3 rows read.",
        data_sha256="abc123",
        scores=[(hostile, {"dev_spearman": 70.0})],
        settings={"queue_window": hostile},
    )
    card = build_model_card(record, "cls")
    assert "<img" not in card
    assert "<script" not in card
    assert "&lt;script&gt;" in card
    rows = [line for line in card.splitlines() if line.startswith("|") and "img" in line]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 3]


@pytest.mark.parametrize("text", ["a|b", "`x`", "<b>", "a & b", "plain"])
def test_markdown_code_has_no_open_mark(text):
    shown = markdown_code(text)
    assert not re.search(r"(?<!\\)\|", shown)
    assert "<b>" not in shown
    assert html.unescape(re.sub(r"</?code>|\\|^`|`$", "", shown)) == text
