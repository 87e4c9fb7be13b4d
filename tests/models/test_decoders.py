"""Causal models as sentence encoders: loading, padding, packing, the end of a sentence, export, resume."""

import copy
import functools
import json

import pytest
import torch
from abilities import find_abilities, tiny_family_model
from builders import REPOSITORY, sentences
from decoders import BIDIRECTIONAL, DECODERS, decoder_tokenizer, save_decoder
from families import FAMILIES
from packing import loss_and_gradients
from resuming import Kill, Killed
from sentence_transformers import SentenceTransformer
from tokenizers.processors import ByteLevel, Sequence, TemplateProcessing
from trainers import differing, make_trainer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining, load_tokenizer
from mocose_hf.cli.main import dispatch
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.errors import EXIT_BAD_INPUT
from mocose_hf.export.sentence_encoder import export_sentence_encoder
from mocose_hf.models.encoder_checks import validate_encoder
from mocose_hf.models.sentence_end import append_eos, ends_with_special_token
from mocose_hf.models.sequence_packing import Packing, bounds_for_attention
from run_mocose import main

PACKED = [family for family in DECODERS if family != "gemma2"]
CONFIGS = {**DECODERS, **{f"{family}, both directions": make for family, make in BIDIRECTIONAL.items()}}


def model_of(name: str, **config) -> MoCoSEForPreTraining:
    torch.manual_seed(0)
    settings = {"pooling_mode": "lasttoken", "queue_size": 8, "queue_init_size": 8} | config
    return MoCoSEForPreTraining(MoCoSEConfig(encoder_config=CONFIGS[name](), **settings)).eval()


@pytest.fixture
def bare(tokenizer):
    """A tokenizer as decoders have them, with padding on the left by `[SEP]`, its end of a sentence."""
    return decoder_tokenizer(tokenizer, pad_token="[SEP]")


@pytest.mark.parametrize("family", DECODERS)
def test_a_checkpoint_with_a_language_head_starts_a_training(tmp_path, tokenizer, family, told):
    directory = save_decoder(tmp_path, DECODERS[family](), tokenizer)
    settings = {"pooling_mode": "lasttoken", "queue_size": 8, "queue_init_size": 8}
    model = MoCoSEForPreTraining.from_encoder_pretrained(directory, **settings).eval()
    assert "so both views of a sentence are nearly equal; set `encoder_dropout_prob`" in told.text
    assert "`crop_share` or `deletion_rate`" in told.text
    loaded = load_tokenizer(directory)
    assert loaded.padding_side == "right"
    if family != "qwen2":  # transformers gives its tokenizers a token to pad with
        assert loaded.pad_token == "[SEP]"
        assert "has no `pad_token`, so [SEP] pads batches" in told.text

    texts = sentences(5)
    whole = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        for text in texts:
            batch = loaded(text, return_tensors="pt")
            expected = whole.base_model(**batch).last_hidden_state[:, -1]
            torch.testing.assert_close(model.encode([text], loaded), expected)
    assert model.target["encoder"].embed_tokens is model.mocose.encoder.embed_tokens
    model.save_pretrained(tmp_path / "whole")
    again = MoCoSEForPreTraining.from_pretrained(tmp_path / "whole").eval()
    assert again.target["encoder"].embed_tokens.weight is again.mocose.encoder.embed_tokens.weight
    assert torch.equal(again.encode(texts, loaded), model.encode(texts, loaded))

    export_sentence_encoder(model, loaded, tmp_path / "export")
    exported = SentenceTransformer(str(tmp_path / "export"), device="cpu")
    torch.testing.assert_close(exported.encode(texts, convert_to_tensor=True), model.encode(texts, loaded))
    plain, saved = AutoModel.from_pretrained(tmp_path / "export"), AutoTokenizer.from_pretrained(tmp_path / "export")
    batch = saved(texts, padding=True, return_tensors="pt")
    last = batch["attention_mask"].sum(1) - 1
    with torch.no_grad():
        states = plain(**batch).last_hidden_state[torch.arange(5), last]
    torch.testing.assert_close(states, model.encode(texts, loaded))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_embedding_does_not_depend_on_the_padding_and_its_side(bare, name):
    model, texts = model_of(name), sentences(6, seed=3)
    with torch.no_grad():
        for mode in ("lasttoken", "mean"):
            model.config.pooling_mode = mode
            alone = torch.cat([model.mocose(**bare(text, return_tensors="pt")).pooler_output for text in texts])
            for side in ("left", "right"):
                batch = bare(texts, padding=True, padding_side=side, return_tensors="pt")
                together = model.mocose(**batch).pooler_output
                torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.split(",")[0] in PACKED])
def test_a_packed_batch_gives_loss_and_gradients_of_the_padded_one(bare, name):
    model = model_of(name)
    rows = [{"text": text} for text in sentences(6, seed=3)]
    padded = SentenceCollator(bare)(rows)
    assert padded["input_ids"].shape[1] > 5  # longer than the sliding windows
    loss, gradients = loss_and_gradients(model, padded)
    packed = SentenceCollator(bare, first_position=model.allow_padding_free())(rows)
    assert packed["position_ids"].min() == 0
    again, others = loss_and_gradients(model, packed)
    assert again == pytest.approx(loss, abs=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5 * max(1.0, one.abs().max().item()), rtol=0)


@pytest.mark.parametrize("family", PACKED)
def test_a_packed_token_sees_those_before_it_in_its_sentence_alone(bare, family):
    model = tiny_family_model(family, share_embeddings=False).eval()
    encoder, first = model.mocose.encoder, model.allow_padding_free()
    batch = SentenceCollator(bare, first_position=first)([{"text": text} for text in sentences(3, seed=3)])
    bounds, longest = batch["cu_seq_lens_q"], batch["max_length_q"]
    embeddings = encoder.embed_tokens(batch["input_ids"]).detach().requires_grad_()
    packing = Packing.of(bounds, longest, batch["input_ids"].shape[1])
    options = {"position_ids": batch["position_ids"]} | bounds_for_attention(encoder, bounds, packing)
    hidden = encoder(inputs_embeds=embeddings, use_cache=False, **options).last_hidden_state[0]
    weights = torch.arange(1.0, hidden.shape[1] + 1)
    sentence = torch.searchsorted(bounds[1:], torch.arange(len(hidden)), right=True)
    for token in range(len(hidden)):
        (gradient,) = torch.autograd.grad((hidden[token] * weights).sum(), embeddings, retain_graph=True)
        seen = gradient[0].abs().sum(1) > 0
        allowed = (sentence == sentence[token]) & (torch.arange(len(hidden)) <= token)
        assert not (seen & ~allowed).any()
        assert seen[token]
        if family in ("llama", "gemma"):  # without a sliding window, it sees all of them
            assert torch.equal(seen, allowed)


def test_scores_that_the_attention_would_not_cap_are_not_packed():
    assert model_of("gemma2").allow_padding_free() is None


def test_caches_for_generating_text_are_not_built(bare):
    model, caches = model_of("qwen3"), []
    forward = type(model.mocose.encoder).forward

    @functools.wraps(forward)  # its signature says that there is a cache
    def spy(self, *args, **options):
        output = forward(self, *args, **options)
        caches.append(output.past_key_values)
        return output

    model.mocose.encoder.forward = spy.__get__(model.mocose.encoder)
    model(**SentenceCollator(bare)([{"text": text} for text in sentences(3)]))
    model.encode(sentences(2), bare)
    assert caches == [None] * len(caches)
    assert len(caches) == 2


@pytest.mark.parametrize("name", DECODERS)
def test_first_token_pooling_raises_an_error(name):
    with pytest.raises(ValueError, match=r"`pooling_mode` is cls, .* set `pooling_mode` to mean or lasttoken"):
        validate_encoder(model_of(name).mocose.encoder, "cls")


@pytest.mark.parametrize("family", BIDIRECTIONAL)
def test_a_bidirectional_switch_of_the_configuration_survives_start_save_and_export(tmp_path, tokenizer, family):
    directory = save_decoder(tmp_path / "start", BIDIRECTIONAL[family](), tokenizer)
    settings = {"pooling_mode": "cls", "queue_size": 8, "queue_init_size": 8}
    model = MoCoSEForPreTraining.from_encoder_pretrained(directory, **settings).eval()
    loaded, texts = load_tokenizer(directory), sentences(6, seed=3)
    model.save_pretrained(tmp_path / "whole")
    again = MoCoSEForPreTraining.from_pretrained(tmp_path / "whole").eval()
    assert torch.equal(again.encode(texts, loaded), model.encode(texts, loaded))
    export_sentence_encoder(again, loaded, tmp_path / "export")
    first, last = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("start", "export"))
    for name in ("is_causal", "use_bidirectional_attention", "sliding_window"):
        assert last.get(name) == first.get(name)
    exported = SentenceTransformer(str(tmp_path / "export"), device="cpu")
    torch.testing.assert_close(exported.encode(texts, convert_to_tensor=True), model.encode(texts, loaded))


def test_dropout_makes_two_views(bare):
    model = model_of("llama", encoder_dropout_prob=0.2, head_dropout_prob=0.0).train()
    batch = SentenceCollator(bare)([{"text": text} for text in sentences(3)])
    assert not torch.equal(model(**batch).query_embeddings, model(**batch).query_embeddings)


def test_resized_words_stay_shared(bare):
    model = model_of("qwen2")
    model.resize_token_embeddings(126)
    online, target = (encoder.get_input_embeddings() for encoder in model.encoders())
    assert online is target
    assert online.weight.shape == (126, 32)
    model(**SentenceCollator(bare)([{"text": text} for text in sentences(3)])).loss.backward()


def test_a_tokenizer_ends_sentences_with_its_end_token(tmp_path, bare):
    assert not ends_with_special_token(bare)
    bare.backend_tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    ids = bare("a cat")["input_ids"]
    assert append_eos(bare)
    assert bare("a cat")["input_ids"] == [*ids, 3]
    assert bare("a cat " * 9, truncation=True, max_length=5)["input_ids"][-1] == 3
    assert append_eos(bare)
    assert bare("a cat")["input_ids"] == [*ids, 3]
    bare.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path))("a cat")["input_ids"] == [*ids, 3]


@pytest.mark.parametrize("kind", ["none", "bytes", "template", "bytes and template"])
def test_an_end_token_follows_whatever_a_tokenizer_adds(bare, kind):
    template = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    kinds = {"none": [], "bytes": [ByteLevel()], "template": [template], "bytes and template": [ByteLevel(), template]}
    bare.backend_tokenizer.post_processor = (
        Sequence(kinds[kind]) if len(kinds[kind]) > 1 else (kinds[kind] or [None])[0]
    )
    ids = bare("a cat")["input_ids"]
    assert append_eos(bare)
    assert bare("a cat")["input_ids"] == [*ids, 3]


def test_a_tokenizer_without_an_end_token_stays_as_it_is(bare):
    bare.eos_token = None
    assert not append_eos(bare)
    assert not ends_with_special_token(bare)


@pytest.mark.parametrize("padding_free", [False, True])
def test_a_run_that_was_killed_ends_in_the_same_bits(tmp_path, bare, padding_free):
    ends = []
    for folder, kills in (("whole", [None]), ("broken", [3, None])):
        for kill in kills:
            model = model_of("qwen3", encoder_dropout_prob=0.1)
            callbacks = [] if kill is None else [Kill(kill)]
            options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "padding_free": padding_free}
            trainer = make_trainer(tmp_path / folder, bare, model, callbacks=callbacks, token_cutoff=0.2, **options)
            if kill is not None:
                with pytest.raises(Killed):
                    trainer.train(resume_from_checkpoint=True)
                continue
            trainer.train(resume_from_checkpoint=True)
            ends.append(copy.deepcopy(trainer.model.state_dict()))
    assert differing(*ends) == []


def test_the_commands_train_score_search_and_merge(tmp_path, tokenizer, capsys):
    start = save_decoder(tmp_path / "start", DECODERS["qwen3"](), tokenizer)
    text, pairs, out = tmp_path / "text.txt", tmp_path / "pairs.tsv", tmp_path / "out"
    lines = sentences(24)
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs.write_text("".join(f"{i % 6}\t{lines[i]}\t{lines[i + 1]}\n" for i in range(12)), encoding="utf-8")
    options = ["--model_name_or_path", start, "--train_file", str(text), "--output_dir", str(out), "--use_cpu", "true"]
    options += ["--per_device_train_batch_size", "4", "--queue_size", "8", "--queue_init_size", "8"]
    options += ["--max_steps", "2", "--padding_free", "true", "--deletion_rate", "0.2"]
    assert main([*options, "--pooling_mode", "cls"]) == EXIT_BAD_INPUT
    assert "--pooling_mode is cls" in capsys.readouterr().err
    assert main([*options, "--pooling_mode", "lasttoken", "--validation_file", str(pairs)]) == 0
    assert AutoTokenizer.from_pretrained(out)("a cat")["input_ids"][-1] == 3
    assert SentenceTransformer(str(out), device="cpu").encode(lines).shape == (24, 32)
    assert json.loads((out / "1_Pooling" / "config.json").read_text())["pooling_mode_lasttoken"]
    assert dispatch(["search", str(out), str(text), lines[0]]) == 0
    assert lines[0] in capsys.readouterr().out
    assert dispatch(["merge", str(out), str(out), "--weight", "0.5", "-o", str(tmp_path / "merged")]) == 0
    merged, trained = (SentenceTransformer(str(path), device="cpu") for path in (tmp_path / "merged", out))
    torch.testing.assert_close(
        merged.encode(lines, convert_to_tensor=True), trained.encode(lines, convert_to_tensor=True)
    )


@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS])
def test_the_table_of_the_documents_is_what_the_families_can_do(tokenizer, family):
    """`python tools/write_families.py` writes it."""
    lines = (REPOSITORY / "docs" / "families.md").read_text(encoding="utf-8").splitlines()
    cells = [family, *find_abilities(family, tokenizer)]
    assert f"| {' | '.join(cells)} |" in lines
