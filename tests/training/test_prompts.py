"""Prompts that training puts before sentences, and that the saved model keeps."""

import json

import pytest
import torch
from builders import sentences, tiny_model
from resuming import Kill, Killed
from sentence_transformers import SentenceTransformer
from trainers import differing, make_trainer

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.errors import EXIT_BAD_INPUT, InputError
from mocose_hf.evaluation.held_out import held_out_task
from mocose_hf.evaluation.sentence_embeddings import embed
from mocose_hf.models.prompts import prompt_options, set_prompts
from run_mocose import main

PAIRS = {"text": sentences(24), "key_text": sentences(24, seed=5)}
ROLES = {"query_prompt": "king sees ", "key_prompt": "the old "}


@pytest.mark.parametrize("first_position", [None, 0])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_each_view_has_its_own_prompt(tokenizer, first_position, include_prompt):
    rows = [
        {"text": text, "key_text": key, "negative_text": key[::-1]} for text, key in zip(*PAIRS.values(), strict=True)
    ][:5]
    plain = SentenceCollator(tokenizer, first_position=first_position)
    own = SentenceCollator(
        tokenizer,
        first_position=first_position,
        prompt="king sees ",
        key_prompt="the old farmer ",
        include_prompt=include_prompt,
    )(rows)
    queries = plain([{"text": "king sees " + row["text"]} for row in rows])
    keys = plain([{"text": "the old farmer " + row["key_text"]} for row in rows])
    negatives = plain([{"text": "the old farmer " + row["negative_text"]} for row in rows])
    for expected, prefix in ((queries, ""), (keys, "key_"), (negatives, "negative_")):
        for name, value in expected.items():
            assert torch.equal(torch.as_tensor(own[prefix + name]), torch.as_tensor(value))
    lengths = [own.get(f"{prefix}prompt_length") for prefix in ("", "key_", "negative_")]
    assert lengths == ([None] * 3 if include_prompt else [3, 4, 4])  # [CLS] and the words


def test_one_text_gets_two_views_if_the_prompts_differ(tokenizer):
    rows = [{"text": text} for text in sentences(4)]
    batch = SentenceCollator(tokenizer, prompt="king sees ", key_prompt="")(rows)
    assert torch.equal(batch["key_input_ids"], SentenceCollator(tokenizer)(rows)["input_ids"])
    assert "key_input_ids" not in SentenceCollator(tokenizer, prompt="king sees ")(rows)


def test_token_views_keep_the_prompt_of_each_view(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, texts=PAIRS, deletion_rate=0.9, augment_view="both", **ROLES)
    batch = trainer.data_collator([{"text": text, "key_text": key} for text, key in zip(*PAIRS.values(), strict=True)])
    for name, prompt in (("input_ids", "king sees"), ("key_input_ids", "the old")):
        ids = tokenizer(prompt)["input_ids"][:-1]
        assert (batch[name][:, : len(ids)] == torch.tensor(ids)).all()


@pytest.mark.parametrize(
    ("given", "prompts", "default"),
    [
        ({"prompt": "king: "}, {"default": "king: "}, "default"),
        ({"prompt": ""}, None, None),
        ({"query_prompt": "king: "}, {"query": "king: ", "document": ""}, None),
        ({"key_prompt": "man: "}, {"query": "", "document": "man: "}, None),
        ({}, {"q": "dog "}, "q"),
    ],
)
def test_a_training_replaces_the_prompts_of_the_model(tmp_path, tokenizer, given, prompts, default):
    model = tiny_model(prompts={"q": "dog "}, default_prompt_name="q")
    trainer = make_trainer(tmp_path, tokenizer, model, **given)
    assert (model.config.prompts, model.config.default_prompt_name) == (prompts, default)
    collator = trainer.data_collator
    options = prompt_options(model.config, given.get("query_prompt"), given.get("key_prompt"))
    assert (collator.prompt, collator.key_prompt) == (options["prompt"], options["key_prompt"])


def test_held_out_pairs_are_scored_with_the_prompts_of_their_roles(tokenizer):
    model = tiny_model().eval()
    set_prompts(model.config, None, *ROLES.values())
    task = held_out_task(PAIRS["text"], PAIRS["key_text"], has_roles=True)
    found = embed(model, tokenizer, task.role_texts())
    for role, prompt in (("query", "king sees "), ("document", "the old ")):
        texts = PAIRS["text" if role == "query" else "key_text"]
        expected = model.encode([prompt + text for text in texts], tokenizer, prompt="")
        torch.testing.assert_close(found(texts, role), expected)


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("padding_free", [True, False])
def test_a_run_that_was_killed_ends_in_the_same_bits(tmp_path, tokenizer, padding_free, include_prompt):
    ends = []
    for folder, kills in (("whole", [None]), ("broken", [3, None])):
        for kill in kills:
            model = tiny_model(include_prompt=include_prompt, pooling_mode="mean")
            callbacks = [] if kill is None else [Kill(kill)]
            options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "padding_free": padding_free}
            options |= ROLES | {"texts": PAIRS, "callbacks": callbacks}
            trainer = make_trainer(tmp_path / folder, tokenizer, model, **options)
            if kill is not None:
                with pytest.raises(Killed):
                    trainer.train(resume_from_checkpoint=True)
                continue
            trainer.train(resume_from_checkpoint=True)
            ends.append(trainer.model.state_dict())
    assert differing(*ends) == []
    other = make_trainer(tmp_path / "whole", tokenizer, max_steps=6, texts=PAIRS, query_prompt="a ")
    with pytest.raises(InputError, match="`key_prompt` was the old  and is None now"):
        other.train(resume_from_checkpoint=True)


def test_packed_and_padded_batches_give_one_loss(tmp_path, tokenizer):
    rows = [{"text": text, "key_text": key} for text, key in zip(*PAIRS.values(), strict=True)][:6]
    losses = []
    for padding_free in (False, True):
        model = tiny_model(include_prompt=False, pooling_mode="mean")
        trainer = make_trainer(tmp_path, tokenizer, model, texts=PAIRS, padding_free=padding_free, **ROLES)
        losses.append(model.eval()(**trainer.data_collator(rows)).loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "a ", "key_prompt": "a "}, "leave out `prompt`, or both of these"),
        ({"query_prompt": "king " * 40}, "but `query_prompt` alone takes 42 tokens; raise it"),
    ],
)
def test_prompts_that_cannot_be_used_raise_an_error(tmp_path, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, tokenizer, **options)


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_the_command_saves_the_prompts(tmp_path, encoder_dir, streaming, capsys):
    text, out = tmp_path / "pairs.csv", tmp_path / "out"
    rows = [f"{text},{key}" for text, key in zip(*PAIRS.values(), strict=True)]
    text.write_text("\n".join(["text,key", *rows]) + "\n", encoding="utf-8")
    options = ["--model_name_or_path", str(encoder_dir), "--train_file", str(text), "--text_column", "text"]
    options += ["--key_column", "key", "--output_dir", str(out), "--use_cpu", "true", "--max_steps", "2"]
    options += ["--per_device_train_batch_size", "4", "--queue_size", "8", "--streaming", streaming]
    options += ["--query_prompt", "king sees ", "--key_prompt", "the old "]
    options += ["--dev_from_text", "8"] if streaming == "false" else []
    assert main([*options, "--prompt", "a "]) == EXIT_BAD_INPUT
    assert "--prompt is put before every sentence" in capsys.readouterr().err
    assert main(options) == 0
    saved = json.loads((out / "config_sentence_transformers.json").read_text())
    assert saved["prompts"] == {"query": "king sees ", "document": "the old "}
    encoder = SentenceTransformer(str(out), device="cpu")
    plain = encoder.encode(["king sees a cat"], convert_to_tensor=True)
    assert torch.equal(encoder.encode(["a cat"], prompt_name="query", convert_to_tensor=True), plain)
    assert torch.equal(encoder.encode_query(["a cat"], convert_to_tensor=True), plain)
