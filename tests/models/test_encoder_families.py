"""Every encoder family of transformers trains, packs or pads, and exports bit for bit, or is refused in one line."""

import copy
import json
import math
from contextlib import nullcontext

import pytest
import torch
from builders import random_batch, sentences, tiny_bert_config, tiny_model
from processes import start_processes
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from trainers import make_trainer
from transformers import AutoModel, AutoModelForPreTraining, BertModel, BertTokenizer, PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.errors import EXIT_BAD_INPUT
from mocose_hf.export.sentence_encoder import export_sentence_encoder
from mocose_hf.models.encoder_checks import has_idle_parameters, validate_autocast, validate_encoder
from mocose_hf.models.encoding import NO_LIMIT
from mocose_hf.models.loading import PretrainedEncoder, save_tokenizer, validate_tokenizer
from mocose_hf.models.pooling import POOLING_MODES
from mocose_hf.models.views import takes_embeddings
from run_mocose import main

SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embed_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "d_inner", "n_inner", "feed_forward_size"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim"), 48),
    **dict.fromkeys(("head_dim", "d_head", "d_kv", "attention_head_size"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 40),
    **dict.fromkeys(("bos_token_id", "cls_token_id"), 2),
    **dict.fromkeys(("eos_token_id", "sep_token_id"), 3),
    "vocab_size": 120,
    "embedding_size": 16,
    "pad_token_id": 0,
    "mask_token_id": 4,
    "unk_token_id": 1,
}
"""Small values by the names that the families give to sizes."""

FURTHER_SIZES = {
    "canine": {"num_hash_buckets": 64, "type_vocab_size": 2},
    "ctrl": {"dff": 48},
    "funnel": {"architectures": ["FunnelModel"], "block_sizes": [1, 1], "block_repeats": [1, 1]},
    "perceiver": {"d_latents": 32, "num_latents": 4, "num_self_attends_per_block": 1},
    "longformer": {"attention_window": 8},
    "layoutlm": {"max_2d_position_embeddings": 40},
    "lilt": {"hidden_size": 48, "max_2d_position_embeddings": 40},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 8},
    "mobilebert": {"intra_bottleneck_size": 16, "true_hidden_size": 16},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [5, 8], "hash_seed": 0},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20},
    "squeezebert": {"embedding_size": 32},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
"""What some families need beside `SIZES`."""

COMPOSITE = {"emu3", "layoutlmv2", "llama4", "mllama", "modernvbert", "t5gemma", "ultravbert"}
"""Families whose parts have sizes of their own, or need other libraries; their configuration alone is refused."""

HUGE = {"mistral4"}
"""Causal families that build no tiny model from `SIZES`."""

REFUSED = {
    "bart": "encoder-decoder",
    "canine": "no table of token embeddings",
    "convbert": "lets padding change",
    "dpr": "no last hidden state",
    "fnet": "lets padding change",
    "funnel": "lets padding change",
    "lxmert": "`visual_feats`",
    "markuplm": "more than text",
    "layoutlmv3": "more than text",
    "mbart": "encoder-decoder",
    "mt5": "encoder-decoder",
    "mvp": "encoder-decoder",
    "neomme": "more than text",
    "nystromformer": "lets padding change",
    "perceiver": "takes `inputs`",
    "reformer": r"shape \(1, 4, 64\)",
    "t5": "encoder-decoder",
    "tapas": "fails on a batch",
    "umt5": "encoder-decoder",
    "yoso": "lets padding change",
}
"""Families that cannot embed sentences, each with the reason in its error message."""

CAUSAL = {
    *("bloom", "clip_text_model", "ctrl", "gemma", "gemma2", "gemma3_text", "gpt2", "llama", "mamba", "mistral"),
    *("mixtral", "molmo2_text", "opt", "qwen2", "qwen3", "rwkv"),
}
"""Families whose tokens see those before them alone; of most only a few stand here for many alike."""

CLS_REFUSED = CAUSAL | {"mra"}
"""Families whose first token ignores the others: causal ones, and one that needs CUDA kernels."""

PACKED = {
    *("albert", "bert", "bert-generation", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "esmc"),
    *("ctrl", "gemma", "gemma3_text", "gpt2", "llama", "mistral", "mixtral", "molmo2_text", "opt", "qwen2", "qwen3"),
    *("eurobert", "gte", "jina_embeddings_v3", "layoutlm", "modernbert", "nomic_bert", "roberta", "ultrabert"),
    *("roberta-prelayernorm", "roc_bert", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}

IDLE = {"esm", "lilt", "longformer", "luke", "mra", "visual_bert", "xlnet"}
"""Families with parameters that take no part in a sentence embedding."""


def encoder_families() -> list[str]:
    """Return the model types that transformers offers for text encoding and masked words, and some more."""
    names = {
        *modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
        *(set(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES) - set(_DECODERS)),
        *("bert-generation", "dpr", "lxmert", "perceiver", "splinter", "visual_bert", "xlnet"),
    }
    return sorted((names | CAUSAL) - HUGE)


_DECODERS = {
    **modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    **modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}


def tiny_config(family: str, **fields) -> PreTrainedConfig:
    """Return a configuration of a family with small sizes."""
    kind = CONFIG_MAPPING[family]
    known = {*kind().to_dict(), *kind.attribute_map}
    sizes = {name: value for name, value in SIZES.items() if name in known}
    return kind(**sizes | FURTHER_SIZES.get(family, {}) | fields)


@pytest.fixture
def save_encoder(tmp_path, tokenizer):
    """Save a tiny encoder of a family with a tokenizer, and return the directory."""

    def save(family: str, **fields) -> str:
        torch.manual_seed(0)
        AutoModel.from_config(tiny_config(family, **fields)).save_pretrained(tmp_path)
        save_tokenizer(tokenizer, tmp_path)
        return str(tmp_path)

    return save


def start(directory: str, **config) -> MoCoSEForPreTraining:
    """Start a training from a saved encoder, with an embedding layer for each branch."""
    settings = {"queue_size": 8, "queue_init_size": 8, "share_embeddings": False, "pooling_mode": "mean"} | config
    return MoCoSEForPreTraining.from_encoder_pretrained(directory, **settings)


def embed_alone(model: MoCoSEForPreTraining, texts: list[str], tokenizer) -> torch.Tensor:
    return torch.cat([model.mocose(**tokenizer(text, return_tensors="pt")).pooler_output for text in texts])


@pytest.mark.parametrize("family", [name for name in encoder_families() if name not in {*REFUSED, *COMPOSITE}])
def test_a_family_trains_packs_or_pads_and_exports_bit_for_bit(save_encoder, tokenizer, tmp_path, family):
    model = start(save_encoder(family), share_embeddings=True)
    rows = [{"text": text} for text in sentences(5, seed=3)]
    padded, texts = SentenceCollator(tokenizer)(rows), sentences(6, seed=1)

    model.train()(**padded).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert (any(parameter.grad is None for parameter in trained)) == has_idle_parameters(model.mocose.encoder)
    assert has_idle_parameters(model.mocose.encoder) == (family in IDLE)
    torch.optim.AdamW(trained, lr=1e-3).step()
    model.update_target(0.5)
    model.eval()

    with torch.no_grad():
        right, left = (tokenizer(texts, padding=True, padding_side=s, return_tensors="pt") for s in ("right", "left"))
        with pytest.raises(ValueError, match="`pooling_mode` is cls") if family in CLS_REFUSED else nullcontext():
            validate_encoder(model.mocose.encoder, "cls")
        for mode in POOLING_MODES:
            model.config.pooling_mode = mode
            together = model.mocose(**right).pooler_output
            assert torch.equal(model.mocose(**left).pooler_output, together)
            tolerance = {"atol": 1e-5 * together.abs().max().item(), "rtol": 0}
            torch.testing.assert_close(embed_alone(model, texts, tokenizer), together, **tolerance)
            torch.testing.assert_close(model.encode(texts, tokenizer, batch_size=2), together, **tolerance)
        model.config.pooling_mode = "mean"

        model.save_pretrained(tmp_path / "whole")
        again = AutoModelForPreTraining.from_pretrained(tmp_path / "whole").eval()
        assert torch.equal(again(**padded).logits, model(**padded).logits)

        exported = SentenceTransformer(
            str(export_sentence_encoder(model, tokenizer, tmp_path / "export")), device="cpu"
        )
        expected = model.mocose(**right).pooler_output
        assert torch.equal(exported.forward(dict(right))["sentence_embedding"], expected)

        loss = model(**padded).loss
        first_position = model.allow_padding_free()
        assert (first_position is not None) == (family in PACKED)
        if first_position is not None:
            packed = SentenceCollator(tokenizer, first_position=first_position)(rows)
            torch.testing.assert_close(model(**packed).loss, loss, atol=1e-5, rtol=0)

        unlimited = copy.deepcopy(tokenizer)
        unlimited.model_max_length = NO_LIMIT
        assert model.encode(["a " * 60], unlimited).isfinite().all()


@pytest.mark.parametrize("family", [name for name in encoder_families() if name in REFUSED])
def test_a_family_that_cannot_embed_sentences_raises_a_one_line_error(save_encoder, family):
    directory = save_encoder(family)
    with pytest.raises(ValueError, match=REFUSED[family]) as caught:
        start(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", sorted(COMPOSITE))
def test_a_family_of_several_parts_raises_an_error_before_it_is_built(family):
    with pytest.raises(ValueError, match=r"encoder-decoder|more than text|no `hidden_size`"):
        MoCoSEConfig(encoder_config=CONFIG_MAPPING[family]())


def test_first_token_pooling_of_a_causal_encoder_raises_an_error(save_encoder):
    directory = save_encoder("gpt2")
    with pytest.raises(ValueError, match=r"`pooling_mode` is cls, but .* set `pooling_mode` to mean") as caught:
        start(directory, pooling_mode="cls")
    assert "\n" not in str(caught.value)
    assert start(directory, pooling_mode="lasttoken").config.pooling_mode == "lasttoken"


def test_a_long_text_has_one_embedding_in_big_bird_before_and_after_a_short_one(save_encoder):
    """With sparse attention, the first short batch would change the attention of all later ones."""
    model = start(save_encoder("big_bird", max_position_embeddings=800)).mocose.eval()
    long, short = (torch.arange(length)[None] % 100 + 5 for length in (790, 20))
    first = model(input_ids=long).pooler_output
    model(input_ids=short)
    assert torch.equal(model(input_ids=long).pooler_output, first)


def test_bert_as_a_decoder_is_causal_too(save_encoder):
    directory = save_encoder("bert", is_decoder=True)
    with pytest.raises(ValueError, match="`pooling_mode` is cls"):
        start(directory, pooling_mode="cls")
    assert start(directory, pooling_mode="mean").config.encoder_config.is_decoder


def test_a_trainer_rejects_a_causal_model_that_was_built_by_hand(tmp_path, tokenizer):
    torch.manual_seed(0)
    settings = {"share_embeddings": False, "queue_size": 8, "queue_init_size": 8}
    model = MoCoSEForPreTraining(MoCoSEConfig(encoder_config=tiny_config("gpt2"), **settings))
    with pytest.raises(ValueError, match="`pooling_mode` is cls"):
        make_trainer(tmp_path, tokenizer, model)


def test_the_command_rejects_a_causal_encoder_in_one_line(save_encoder, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sentences(20)), encoding="utf-8")
    arguments = ["--model_name_or_path", save_encoder("gpt2"), "--train_file", str(text), "--output_dir"]
    arguments += [str(tmp_path / "out"), "--share_embeddings", "false", "--pooling_mode", "cls", "--use_cpu", "true"]
    assert main([*arguments, "--per_device_train_batch_size", "4"]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("run_mocose.py: --pooling_mode is cls, but the first token of this `gpt2` encoder")
    assert not (tmp_path / "out").exists()


def test_an_encoder_whose_tokens_ignore_each_other_is_warned_of(save_encoder, told):
    start(save_encoder("mra"))
    assert "No token of this `mra` encoder depends on another token" in told.text


def test_checking_an_encoder_leaves_weights_modes_and_random_numbers(save_encoder):
    encoder = AutoModel.from_pretrained(save_encoder("bert")).train()
    encoder.embeddings.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    validate_encoder(encoder, "cls")
    assert torch.equal(torch.rand(4), wanted)
    assert (encoder.training, encoder.embeddings.training, encoder.encoder.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_weights_that_are_not_finite_raise_an_error():
    encoder = BertModel(tiny_bert_config())
    torch.nn.init.constant_(encoder.embeddings.LayerNorm.bias, math.nan)
    with pytest.raises(ValueError, match="embeddings that are not finite"):
        validate_encoder(encoder, "mean")


@pytest.mark.parametrize("shared", [True, False])
def test_resized_embeddings_train_and_keep_both_branches_alike(tmp_path, tokenizer, shared):
    model = tiny_model(share_embeddings=shared)
    with torch.no_grad():
        model.mocose.get_input_embeddings().weight.add_(1.0)
    before = model.target["encoder"].get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(126)
    online, target = (encoder.get_input_embeddings().weight for encoder in model.encoders())
    assert online.shape == target.shape == (126, 32)
    assert torch.equal(target[:120], before)
    assert torch.equal(target[120:], online[120:])
    make_trainer(tmp_path, tokenizer, model, max_steps=2).train()
    model.save_pretrained(tmp_path / "saved")
    again = MoCoSEForPreTraining.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    model.resize_token_embeddings(100)
    assert {len(encoder.get_input_embeddings().weight) for encoder in model.encoders()} == {100}
    model(**random_batch())


class Adapter(torch.nn.Module):
    """A frozen layer and a low-rank change of it, as LoRA adds them."""

    def __init__(self, layer: torch.nn.Linear):
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        self.lora_A = torch.nn.Linear(layer.in_features, 2, bias=False)
        self.lora_B = torch.nn.Linear(2, layer.out_features, bias=False)

    def forward(self, states):
        return self.base_layer(states) + self.lora_B(self.lora_A(states))


def test_adapters_that_only_one_branch_has_raise_an_error(tmp_path, tokenizer):
    model = tiny_model()
    attention = model.mocose.encoder.encoder.layer[0].attention.self
    attention.query = Adapter(attention.query)
    with pytest.raises(ValueError, match=r"The online encoder was changed .* Merge adapters") as caught:
        make_trainer(tmp_path, tokenizer, model)
    assert "\n" not in str(caught.value)


def test_a_start_with_adapters_raises_an_error():
    encoder = BertModel(tiny_bert_config())
    attention = encoder.encoder.layer[0].attention.self
    attention.query = Adapter(attention.query)
    with pytest.raises(ValueError, match=r"such as `encoder\.layer\.0\.attention\.self\.query\.\S+`; merge adapters"):
        MoCoSEForPreTraining.from_encoder(PretrainedEncoder(encoder, None, "cls"))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "fields"), [("flaubert", {"layerdrop": 0.5}), ("xlnet", {})])
def test_two_processes_train_an_encoder_with_parameters_without_gradient(save_encoder, tmp_path, family, fields):
    changes = json.dumps({"config": {"share_embeddings": False, "pooling_mode": "mean"}})
    arguments = (save_encoder(family, **fields), tmp_path / "out", 8, changes)
    start_processes("train_on_processes.py", 2, *arguments, log_folder=tmp_path)
    first, second = (load_file(tmp_path / "out" / f"rank{rank}.safetensors") for rank in (0, 1))
    assert (first["steps"].item(), first["processes"].item()) == (20, 2)
    assert all(torch.equal(second[name], value) for name, value in first.items())


@pytest.mark.parametrize("family", ["deberta", "xmod"])
def test_mixed_precision_that_a_family_cannot_do_raises_an_error(tmp_path, tokenizer, family):
    torch.manual_seed(0)
    settings = {"pooling_mode": "mean", "queue_size": 8, "queue_init_size": 8}
    model = MoCoSEForPreTraining(MoCoSEConfig(encoder_config=tiny_config(family), **settings))
    make_trainer(tmp_path, tokenizer, model)
    with pytest.raises(ValueError, match="`bf16` cannot be used, leave it out: `" + family) as caught:
        make_trainer(tmp_path, tokenizer, model, bf16=True)
    assert "\n" not in str(caught.value)


class ShapeTokenizer(BertTokenizer):
    """A tokenizer that also describes the shape of its tokens, as that of RoCBert does."""

    def __call__(self, *args, **options):
        batch = super().__call__(*args, **options)
        batch["input_shape_ids"] = batch["input_ids"]
        return batch


def test_a_tokenizer_that_returns_more_than_tokens_raises_an_error_if_the_encoder_would_use_it(encoder_dir):
    tokenizer = ShapeTokenizer.from_pretrained(encoder_dir)
    with pytest.raises(ValueError, match="also returns `input_shape_ids`"):
        validate_tokenizer(tokenizer, AutoModel.from_config(tiny_config("roc_bert")))
    validate_tokenizer(tokenizer, AutoModel.from_config(tiny_config("bert")))
    batch = SentenceCollator(tokenizer)([{"text": text} for text in sentences(3)])
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert tiny_model().encode(sentences(3), tokenizer).shape == (3, 32)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_an_attention_for_gpus_does_not_stand_in_the_way_of_the_checks(attention):
    encoder = BertModel(tiny_bert_config(), add_pooling_layer=False)
    encoder.config._attn_implementation = attention
    validate_encoder(encoder, "cls")
    validate_autocast(encoder, "bf16", torch.bfloat16)
    assert not has_idle_parameters(encoder)
    assert takes_embeddings(encoder)
    assert encoder.config._attn_implementation == attention
