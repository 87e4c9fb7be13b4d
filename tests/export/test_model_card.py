"""The model card: its facts and metadata, no path of the machine, and hostile text in it."""

import html
import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from mocose_hf.export.model_card import RunRecord, build_model_card, markdown_code, without_folders, write_model_card


def test_model_card_has_scores_command_seed_data_and_versions(tmp_path):
    record = RunRecord(
        start="some/encoder",
        command="run_mocose.py --seed 7",
        seed=7,
        source="/home/me/text.txt",
        data="3 rows read, dropped: none; 3 sentences.",
        data_sha256="abc123",
        scores=[("start", {"dev_spearman": 70.0}), ("best, step 5", {"dev_spearman": 71.234, "dev_uniformity": -2.0})],
        changed_settings={"queue_size": 512},
    )
    write_model_card(tmp_path, build_model_card(record, "cls"))
    text = (tmp_path / "README.md").read_text()
    facts = (
        "some/encoder",
        "run_mocose.py --seed 7",
        "Seed: 7",
        "abc123",
        "71.234",
        "text.txt: 3 rows",
        "`queue_size` | `512`",
        "torch ",
    )
    assert [part for part in facts if part not in text] == []
    assert text.startswith("---\n")
    assert "base_model: some/encoder" in text


def full_record(**more) -> RunRecord:
    facts = {
        "start": "some/encoder",
        "command": "mocose train --train_file=/home/me/secret/notes.txt --output_dir '/home/me/my runs/out'",
        "seed": 7,
        "source": "/home/me/secret/notes.txt",
        "data": "3 sentences.",
        "data_sha256": "abc123",
        "scores": [
            ("start", {"dev_spearman": 70.0}),
            ("last, step 5", {"dev_spearman": 71.23456, "shop_mrr_at_10": 9.5}),
        ],
        "changed_settings": {"deepspeed": "/home/me/zero2.json"},
        "task_scores": {
            "sts12_spearman": 60.0,
            "mr_test_accuracy": 80.0,
            "uniformity": -2.0,
            "trec_spearman": float("nan"),
        },
        "name": "my run",
        "license": "apache-2.0",
        "language": ["en", "de"],
        "dataset": "some/texts",
    }
    return RunRecord(**facts | more)


def test_the_metadata_is_what_huggingface_hub_reads():
    text = build_model_card(full_record(repo_id="me/model"), "mean")
    card = ModelCard(text)
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert (data.base_model, data.datasets) == ("some/encoder", "some/texts")
    assert (data.license, data.language, data.model_name) == ("apache-2.0", ["en", "de"], "model")
    found = {(r.task_type, r.dataset_type, r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert found == {
        ("semantic-similarity", "unknown", "development pairs", "spearman_cosine"): 71.2346,
        ("information-retrieval", "unknown", "shop", "mrr_at_10"): 9.5,
        ("semantic-similarity", "sts12", "sts12", "spearman_cosine"): 60.0,
        ("text-classification", "mr", "mr", "test_accuracy"): 80.0,
    }
    assert ModelCard(str(card)).data.to_dict() == data.to_dict()
    assert 'SentenceTransformer("me/model")' in text


def test_a_local_start_is_no_base_model_and_an_unknown_repository_has_a_placeholder(tmp_path):
    text = build_model_card(full_record(start=str(tmp_path), has_whole_model=False), "mean")
    assert ModelCard(text).data.base_model is None
    assert f"from `{tmp_path.name}`" in text
    name = re.search(r'SentenceTransformer\("(.+)"\)', text)[1]
    validate_repo_id(name)
    assert name == "your-name/my-run"
    assert "put the folder of this file in place of the name" in text
    assert "MoCoSEForPreTraining" not in text


def test_a_card_names_files_without_their_folders(tmp_path):
    text = build_model_card(full_record(start=str(tmp_path / "encoder")), "mean")
    assert "/home" not in text
    assert str(tmp_path) not in text
    assert "notes.txt: 3 sentences" in text
    assert "mocose train --train_file=notes.txt --output_dir out" in text
    assert (
        without_folders("mocose train --model some/encoder ~/a.txt /") == "mocose train --model some/encoder a.txt /"
    )


def test_model_card_shows_html_and_marks_as_text():
    hostile = "<img src=x onerror=alert(1)> `a` | *b* \n<script>c</script>\n```\n"
    record = RunRecord(
        start=hostile,
        command=f"run_mocose.py --train_file {hostile}",
        seed=7,
        source=hostile,
        data="3 rows read.",
        data_sha256="abc123",
        scores=[(hostile, {"dev_spearman": 70.0})],
        changed_settings={"queue_window": hostile},
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
