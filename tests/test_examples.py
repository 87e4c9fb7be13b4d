"""Each example runs, does what its first line says, and fits on a page."""

import random
import runpy
import subprocess

import pytest
import torch
from builders import REPOSITORY, sentences
from markdown_pages import shell_commands
from torch.distributed.run import get_args_parser

import mocose_hf
from mocose_hf.cli.options import parse_command_line

EXAMPLES = REPOSITORY / "examples"


class TinyArguments(mocose_hf.MoCoSETrainingArguments):
    """The arguments of an example, for two small steps."""

    def __init__(self, output_dir, **fields):
        tiny = {"max_steps": 2, "max_seq_length": 32, "per_device_train_batch_size": 4, "use_cpu": True}
        steps = {"eval_steps": 1} if fields.get("load_best_model_at_end") else {"save_strategy": "no"}
        super().__init__(output_dir, **fields | tiny | steps | {"disable_tqdm": True, "report_to": "none"})


@pytest.fixture
def run_example(tmp_path, monkeypatch, encoder_dir):
    """Call an example's `main` with a tiny encoder for two steps, and return its names and what `main` returned."""

    def run(name, *argv):
        names = runpy.run_path(str(EXAMPLES / name))
        if "MoCoSETrainingArguments" in names:
            names["main"].__globals__["MoCoSETrainingArguments"] = TinyArguments
        if "SentenceTransformerTrainingArguments" in names:
            arguments = names["SentenceTransformerTrainingArguments"]
            names["main"].__globals__["SentenceTransformerTrainingArguments"] = lambda output_dir, **fields: arguments(
                output_dir, **fields | {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no"}
            )
        return names, names["main"](*argv)

    (tmp_path / "text.txt").write_text("\n".join(sentences(60)) + "\n")
    text = sentences(40)
    (tmp_path / "pairs.csv").write_text(
        "query,text\n" + "".join(f"{a},{b}\n" for a, b in zip(text[:20], text[20:], strict=True))
    )
    (tmp_path / "pairs.tsv").write_text("".join(f"{i % 6}\t{text[i]}\t{text[i + 20]}\n" for i in range(20)))
    monkeypatch.chdir(tmp_path)
    return run


def changed_weights(encoder_dir, folder) -> bool:
    """Return whether a plain encoder differs from the start."""
    from transformers import AutoModel

    start, end = (AutoModel.from_pretrained(str(path)).state_dict() for path in (encoder_dir, folder))
    return any(not torch.equal(start[name], end[name]) for name in start if "pooler" not in name)


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80 or path.name == "pretrain_encoder.py", path.name


def test_the_script_for_slurm_is_the_one_of_the_guide_and_its_command_parses():
    script = (EXAMPLES / "slurm.sbatch").read_text(encoding="utf-8")
    assert f"```bash\n{script}```" in (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).returncode == 0
    for name, value in (("$SLURM_NNODES", "2"), ("$SLURM_JOB_ID", "7"), ("$first_node", "node1")):
        script = script.replace(name, value)
    (words,) = (words for words in shell_commands(script) if words[:2] == ["srun", "torchrun"])
    arguments = get_args_parser().parse_args(words[2:])
    assert (arguments.nnodes, arguments.rdzv_endpoint) == ("2", "node1:29500")
    assert parse_command_line([*arguments.training_script_args, "--use_cpu"])


def test_a_recipe_trains_and_scores_the_best_checkpoint(run_example, encoder_dir, tmp_path):
    names, scores = run_example("train_with_a_recipe.py", str(encoder_dir), "text.txt", "pairs.tsv", "out")
    assert -100 <= scores["eval_dev_spearman"] <= 100
    assert (tmp_path / "out" / "modules.json").is_file()
    assert len(names["read_pairs"](str(EXAMPLES / "data" / "pairs.tsv"))) == 260


@pytest.mark.parametrize(("name", "data"), [("train_on_pairs.py", "pairs.csv"), ("train_on_a_stream.py", "text.txt")])
def test_pairs_and_streams_change_the_exported_encoder(name, data, run_example, encoder_dir, tmp_path):
    run_example(name, str(encoder_dir), data, "out")
    assert changed_weights(encoder_dir, tmp_path / "out")


def test_the_custom_augmentation_swaps_two_words_of_the_key_view(run_example, encoder_dir):
    names, trainer = run_example("custom_augmentation.py", str(encoder_dir), "text.txt", "out")
    assert names["swap_two_words"]("old dog", random.Random(0)) == "dog old"
    assert names["swap_two_words"]("dog", random.Random(0)) == "dog"
    batch = trainer.data_collator([{"text": "old dog", "sentence_id": 0}])
    assert batch["key_input_ids"].tolist() != batch["input_ids"].tolist()
    assert trainer.state.global_step == 2


def test_the_custom_policy_weighs_common_keys_less(run_example, encoder_dir):
    names, trainer = run_example("custom_queue_policy.py", str(encoder_dir), "text.txt", "out")
    model = trainer.model
    assert isinstance(model, names["DistinctNegatives"])
    rows, log_weights = model.queue_candidates(model.queue)
    in_use = log_weights.isfinite()
    similarity = rows[in_use].float() @ rows[in_use].float().sum(0)
    assert similarity.argmax() == log_weights[in_use].argmin()
    assert similarity.argmin() == log_weights[in_use].argmax()


def test_sentence_transformers_searches_with_the_result(run_example, encoder_dir):
    pytest.importorskip("sentence_transformers")
    run_example("train_on_a_stream.py", str(encoder_dir), "text.txt", "out")
    query = sentences(60)[7]
    _, found = run_example("use_in_sentence_transformers.py", "out", "text.txt", query)
    assert len(found) == 5
    assert found[0] == (pytest.approx(1, abs=1e-4), query)


def test_momentum_contrast_trains_in_sentence_transformers(run_example, encoder_dir, tmp_path):
    pytest.importorskip("sentence_transformers")
    argv = (str(encoder_dir), "pairs.csv", "out")
    _, trainer = run_example("momentum_in_sentence_transformers.py", *argv)
    assert trainer.state.global_step == 2
    assert int(trainer.loss.queue.num_filled) == 8
    assert changed_weights(encoder_dir, tmp_path / "out")
