import dataclasses
import json
import math

import pytest
import torch
from builders import tiny_bert_config, tiny_model
from transformers import AutoConfig, DistilBertConfig, ModernBertConfig

from mocose_hf import MoCoSEConfig, MoCoSEModel
from mocose_hf.models.configuration_mocose import validate_resources

OTHER_VALUES = {
    "pooling_mode": "mean",
    "projection_dim": 24,
    "num_projection_layers": 3,
    "num_predictor_layers": 0,
    "head_dropout_prob": 0.25,
    "encoder_dropout_prob": 0.15,
    "whitening": 0.5,
    "temperature": 0.07,
    "in_batch_negatives": False,
    "queue_size": 96,
    "queue_init_size": 31,
    "queue_dtype": "bfloat16",
    "queue_window": "0-0.25,0.5-0.75",
    "queue_window_softness": 0.03,
    "queue_half_life": -2.5,
    "mask_same_sentence": True,
    "share_embeddings": False,
    "use_pooler": False,
    "queue_weight": 0.5,
    "in_batch_weight": 2.0,
    "symmetric_loss": True,
    "in_batch_queue": "target",
    "relation_weight": 0.7,
    "relation_temperature": 0.2,
    "relation_target_temperature": 0.15,
    "reshaping_weight": 0.4,
    "reshaping_whitening": 0.3,
    "reshaping_smoothing": 0.6,
    "reshaping_temperature": 0.07,
    "queue_positives": 5,
    "queue_positive_weight": 0.5,
    "queue_positive_similarity": 0.6,
}
"""A value for each field that is not its default, of those that go together."""

OTHERS_APART = {"queue_centroids": 3}
"""The same for those that do not go with them."""

NEEDED = {
    "queue_window_softness": {"queue_window": "middle"},
    "in_batch_queue": {"in_batch_weight": 1.0},
    "relation_temperature": {"relation_weight": 1.0},
    "relation_target_temperature": {"relation_weight": 1.0},
    "reshaping_whitening": {"reshaping_weight": 1.0},
    "reshaping_smoothing": {"reshaping_weight": 1.0},
    "reshaping_temperature": {"reshaping_weight": 1.0, "reshaping_smoothing": 0.5},
    "queue_positive_weight": {"queue_positives": 5},
    "queue_positive_similarity": {"queue_positives": 5},
}
"""What a field set alone does not do without."""

BAD_VALUES = [
    ("pooling_mode", "sum"),
    ("pooling_mode", "CLS"),
    ("pooling_mode", None),
    ("pooling_mode", 1),
    ("projection_dim", 0),
    ("projection_dim", -3),
    ("projection_dim", 24.0),
    ("projection_dim", "24"),
    ("projection_dim", True),
    ("num_projection_layers", -1),
    ("num_projection_layers", 1.0),
    ("num_projection_layers", None),
    ("num_projection_layers", True),
    ("num_predictor_layers", -1),
    ("num_predictor_layers", 2.5),
    ("num_predictor_layers", "2"),
    ("head_dropout_prob", 1.0),
    ("head_dropout_prob", -0.1),
    ("head_dropout_prob", math.nan),
    ("head_dropout_prob", None),
    ("head_dropout_prob", "0.1"),
    ("head_dropout_prob", True),
    ("whitening", -0.1),
    ("whitening", 1.1),
    ("whitening", math.nan),
    ("whitening", "half"),
    ("encoder_dropout_prob", 1.0),
    ("encoder_dropout_prob", -0.1),
    ("encoder_dropout_prob", math.nan),
    ("encoder_dropout_prob", "0.1"),
    ("encoder_dropout_prob", False),
    ("temperature", 0),
    ("temperature", -0.05),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", "0.05"),
    ("temperature", None),
    ("temperature", True),
    ("in_batch_negatives", 1),
    ("in_batch_negatives", "false"),
    ("in_batch_negatives", None),
    ("queue_size", -1),
    ("queue_size", 512.0),
    ("queue_size", "512"),
    ("queue_size", None),
    ("queue_init_size", -1),
    ("queue_init_size", 513),
    ("queue_init_size", 1.5),
    ("queue_init_size", "128"),
    ("queue_init_size", True),
    ("queue_dtype", "float16"),
    ("queue_dtype", "bf16"),
    ("queue_dtype", "torch.bfloat16"),
    ("queue_dtype", torch.bfloat16),
    ("queue_dtype", None),
    ("queue_window", "half"),
    ("queue_window", ""),
    ("queue_window", "0.5-0.25"),
    ("queue_window", "0-0.5,0.25-1"),
    ("queue_window", "0-1.5"),
    ("queue_window", 0.5),
    ("queue_window", None),
    ("queue_window_softness", 0.1),  # of a window without edges
    ("queue_window_softness", -0.1),
    ("queue_window_softness", math.nan),
    ("use_pooler", 1),
    ("use_pooler", None),
    ("queue_weight", -0.1),
    ("queue_weight", math.nan),
    ("queue_weight", True),
    ("in_batch_weight", -1),
    ("in_batch_weight", math.inf),
    ("in_batch_weight", "1"),
    ("symmetric_loss", 1),
    ("symmetric_loss", "true"),
    ("in_batch_queue", "past"),
    ("in_batch_queue", None),
    ("relation_weight", -1.0),
    ("relation_weight", math.inf),
    ("relation_temperature", 0.0),
    ("relation_target_temperature", -0.1),
    ("reshaping_weight", -1.0),
    ("reshaping_whitening", 1.1),
    ("reshaping_whitening", math.nan),
    ("reshaping_smoothing", 1.0),
    ("reshaping_smoothing", -0.1),
    ("reshaping_temperature", 0.0),
    ("queue_positives", -1),
    ("queue_positives", 513),
    ("queue_positives", 2.0),
    ("queue_positive_weight", 0.0),
    ("queue_positive_weight", math.inf),
    ("queue_positive_similarity", 1.1),
    ("queue_positive_similarity", math.nan),
    ("queue_window_softness", math.inf),
    ("queue_window_softness", "0.1"),
    ("queue_window_softness", None),
    ("queue_half_life", 0),
    ("queue_half_life", 0.0),
    ("queue_half_life", 1e-7),
    ("queue_half_life", math.nan),
    ("queue_half_life", math.inf),
    ("queue_half_life", -math.inf),
    ("queue_half_life", "3"),
    ("queue_half_life", True),
    ("queue_centroids", -1),
    ("queue_centroids", 513),
    ("queue_centroids", 5.0),
    ("queue_centroids", None),
    ("mask_same_sentence", 1),
    ("mask_same_sentence", "true"),
    ("mask_same_sentence", None),
    ("share_embeddings", 0),
    ("share_embeddings", "true"),
    ("share_embeddings", None),
]

ENCODERS = {
    "bert": lambda **fields: tiny_bert_config(**fields),
    "distilbert": lambda **fields: DistilBertConfig(
        vocab_size=120, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=40, **fields
    ),
    "modernbert": lambda **fields: ModernBertConfig(
        vocab_size=120,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        **fields,
    ),
}
DROPOUT_FIELDS = {
    "bert": {"hidden_dropout_prob", "attention_probs_dropout_prob"},
    "distilbert": {"dropout", "attention_dropout"},
    "modernbert": {"attention_dropout", "embedding_dropout", "mlp_dropout"},
}


# Values


def test_defaults_are_those_of_the_paper():
    config = MoCoSEConfig()
    assert {name: getattr(config, name) for name in config.option_names()} == {
        "pooling_mode": "cls",
        "use_pooler": True,
        "queue_weight": 1.0,
        "in_batch_weight": 0.0,
        "symmetric_loss": False,
        "in_batch_queue": "none",
        "relation_weight": 0.0,
        "relation_temperature": 0.1,
        "relation_target_temperature": 0.05,
        "reshaping_weight": 0.0,
        "reshaping_whitening": 0.0,
        "reshaping_smoothing": 0.0,
        "reshaping_temperature": 0.05,
        "queue_positives": 0,
        "queue_positive_weight": 1.0,
        "queue_positive_similarity": -1.0,
        "projection_dim": None,
        "num_projection_layers": 1,
        "num_predictor_layers": 2,
        "head_dropout_prob": 0.1,
        "encoder_dropout_prob": None,
        "whitening": 0.0,
        "temperature": 0.05,
        "in_batch_negatives": True,
        "queue_size": 512,
        "queue_init_size": 128,
        "queue_dtype": "float32",
        "queue_window": "all",
        "queue_window_softness": 0.0,
        "queue_half_life": None,
        "queue_centroids": 0,
        "mask_same_sentence": False,
        "share_embeddings": True,
    }
    assert config.encoder_config.model_type == "bert"
    assert config.embedding_dim == config.hidden_size == 768


@pytest.mark.parametrize(("size", "initial"), [(512, 128), (64, 16), (65_536, 16_384), (3, 0), (0, 0)])
def test_the_queue_starts_with_a_quarter_of_its_size(tmp_path, size, initial):
    config = MoCoSEConfig(queue_size=size)
    assert config.queue_init_size == initial
    assert MoCoSEConfig(queue_size=size, queue_init_size=None).queue_init_size == initial
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["queue_init_size"] == initial


def test_a_saved_configuration_keeps_the_initial_part_that_it_was_made_with(tmp_path):
    MoCoSEConfig(queue_size=2048, queue_init_size=128).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).queue_init_size == 128


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_bad_value_raises_an_error_that_names_its_field(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        MoCoSEConfig(**{name: value})


def test_every_field_has_a_bad_value_here():
    assert {name for name, _ in BAD_VALUES} == set(MoCoSEConfig.option_names())


@pytest.mark.parametrize(
    "fields",
    [
        {"queue_size": 0, "queue_init_size": 0},
        {"queue_size": 8, "queue_init_size": 8},
        {"queue_init_size": 0, "in_batch_negatives": False},
        {"head_dropout_prob": 0.0, "encoder_dropout_prob": 0.0},
        {"head_dropout_prob": 0},
        {"temperature": 1},
        {"temperature": 1e-6},
        {"num_projection_layers": 0, "num_predictor_layers": 0},
        {"num_projection_layers": 0, "projection_dim": 768},
        {"projection_dim": 1},
        {"queue_window": "0-0.000001,.999999-1"},
        {"queue_window": "newest", "queue_window_softness": 5},
        {"queue_window": "0-1", "queue_window_softness": 0},
        {"queue_half_life": 1e-6},
        {"queue_half_life": -1},
        {"queue_centroids": 512},
        {"mask_same_sentence": True, "queue_size": 0, "queue_init_size": 0},
    ],
)
def test_a_value_at_the_edge_of_its_range_is_valid(fields):
    config = MoCoSEConfig(**fields)
    assert {name: getattr(config, name) for name in fields} == fields


def test_errors_name_both_of_two_fields_that_do_not_fit():
    with pytest.raises(ValueError, match=r"`queue_init_size` is 128 .*`queue_size` is 64"):
        MoCoSEConfig(queue_size=64, queue_init_size=128)
    with pytest.raises(ValueError, match=r"`queue_size` 0 and `in_batch_negatives`"):
        MoCoSEConfig(queue_size=0, queue_init_size=0, in_batch_negatives=False)
    with pytest.raises(ValueError, match=r"`projection_dim` 24 .*`num_projection_layers`"):
        MoCoSEConfig(projection_dim=24, num_projection_layers=0)
    with pytest.raises(ValueError, match=r"`queue_centroids` 5 .*`mask_same_sentence`"):
        MoCoSEConfig(queue_centroids=5, mask_same_sentence=True)
    with pytest.raises(
        ValueError, match=r"`queue_window_softness` is 0\.1.*`queue_window` 0-0\.5,0\.5-1 has no edges"
    ):
        MoCoSEConfig(queue_window="0-0.5,0.5-1", queue_window_softness=0.1)
    with pytest.raises(ValueError, match=r"`queue_centroids` .*`queue_size`.* is 5 and `queue_size` is 4"):
        MoCoSEConfig(queue_centroids=5, queue_size=4, queue_init_size=0)
    for name, value in (("queue_centroids", 1), ("queue_window", "newest"), ("queue_half_life", 3.0)):
        with pytest.raises(ValueError, match=rf"`{name}` .*`queue_size`"):
            MoCoSEConfig(queue_size=0, queue_init_size=0, **{name: value})


@pytest.mark.parametrize(("dtype", "row_bytes"), [("float32", 4 * 32 + 16), ("bfloat16", 2 * 32 + 16)])
def test_a_queue_that_memory_has_no_room_for_raises_an_error(monkeypatch, dtype, row_bytes):
    config = MoCoSEConfig(encoder_config=tiny_bert_config(), queue_size=10_000, queue_dtype=dtype)
    monkeypatch.setattr("mocose_hf.models.configuration_mocose._memory_bytes", lambda: 10_000 * row_bytes)
    validate_resources(config)
    monkeypatch.setattr("mocose_hf.models.configuration_mocose._memory_bytes", lambda: 10_000 * row_bytes - 1)
    with pytest.raises(ValueError, match="A queue of 10000 rows"):
        validate_resources(config)


def test_a_value_spoilt_later_raises_an_error_when_the_model_is_built():
    config = MoCoSEConfig(encoder_config=tiny_bert_config())
    config.temperature = -1.0
    with pytest.raises(ValueError, match="`temperature`"):
        MoCoSEModel(config)


# Names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("queue_siz", "queue_size"),
        ("queue_length_init_size", "queue_init_size"),
        ("temprature", "temperature"),
        ("pooling", "pooling_mode"),
        ("projection_dimension", "projection_dim"),
        ("share_embedding", "share_embeddings"),
    ],
)
def test_unknown_name_raises_an_error_with_a_suggestion(name, meant):
    with pytest.raises(ValueError, match=rf"`{name}` .*did you mean `{meant}`\?"):
        MoCoSEConfig(**{name: 1})


def test_unknown_name_like_none_raises_an_error_with_all_names():
    with pytest.raises(ValueError, match="`zzz`") as refusal:
        MoCoSEConfig(zzz=1)
    assert all(name in str(refusal.value) for name in MoCoSEConfig.option_names())


@pytest.mark.parametrize("name", ["hidden_size", "vocab_size", "ema_decay"])
def test_what_belongs_elsewhere_is_no_field(name):
    with pytest.raises(ValueError, match=f"`{name}` is no field"):
        MoCoSEConfig(**{name: 1})


def test_every_field_has_a_help_text():
    helps = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(MoCoSEConfig)}
    assert all(len(helps[name]) > 20 for name in MoCoSEConfig.option_names())


# Saving and loading


def test_values_of_the_round_trip_cover_every_field():
    others = OTHER_VALUES | OTHERS_APART
    assert set(others) == set(MoCoSEConfig.option_names())
    default = MoCoSEConfig()
    assert all(getattr(default, name) != value for name, value in others.items())


def test_round_trip_keeps_every_field(tmp_path):
    MoCoSEConfig(encoder_config=tiny_bert_config(), **OTHER_VALUES).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is MoCoSEConfig
    assert {name: getattr(loaded, name) for name in OTHER_VALUES} == OTHER_VALUES
    assert loaded.encoder_config.intermediate_size == 48
    assert loaded.hidden_size == 32


@pytest.mark.parametrize(
    ("name", "value"), [item for item in (OTHER_VALUES | OTHERS_APART).items() if item[0] != "projection_dim"]
)
def test_round_trip_keeps_a_field_set_alone(tmp_path, name, value):
    fields = {"queue_init_size": 9} | NEEDED.get(name, {}) | {name: value}
    config = MoCoSEConfig(encoder_config=tiny_bert_config(), **fields)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert getattr(loaded, name) == value
    assert {n: getattr(loaded, n) for n in config.option_names()} == {
        n: getattr(config, n) for n in config.option_names()
    }


def test_round_trip_keeps_the_defaults(tmp_path):
    config = MoCoSEConfig()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    # Only the place it was loaded from is new.
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_round_trip_keeps_the_encoder(tmp_path, encoder):
    config = MoCoSEConfig(encoder_config=ENCODERS[encoder](), temperature=0.2)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.encoder_config.model_type == encoder
    assert loaded.encoder_config.to_dict() == config.encoder_config.to_dict()
    assert loaded.temperature == 0.2


def test_round_trip_of_a_model_keeps_every_field(tmp_path):
    model = tiny_model(**OTHER_VALUES)
    model.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in OTHER_VALUES} == OTHER_VALUES


def test_a_bad_value_in_a_file_raises_an_error(tmp_path):
    MoCoSEConfig().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": -1.0}))
    with pytest.raises(ValueError, match="`temperature`"):
        AutoConfig.from_pretrained(tmp_path)


def test_an_unknown_name_in_a_file_raises_an_error(tmp_path):
    MoCoSEConfig().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"queue_siz": 3}))
    with pytest.raises(ValueError, match="did you mean `queue_size`"):
        AutoConfig.from_pretrained(tmp_path)


# The encoder


@pytest.mark.parametrize("encoder", ENCODERS)
def test_hidden_size_is_the_encoders(encoder):
    config = MoCoSEConfig(encoder_config=ENCODERS[encoder]())
    assert config.hidden_size == config.encoder_config.hidden_size == 32


def test_ids_of_special_tokens_are_the_encoders():
    config = MoCoSEConfig(encoder_config=ENCODERS["modernbert"]())
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    assert config.initializer_range == config.encoder_config.initializer_range


def test_width_of_the_embeddings_is_the_projections_or_else_the_encoders():
    assert MoCoSEConfig(encoder_config=tiny_bert_config()).embedding_dim == 32
    assert MoCoSEConfig(encoder_config=tiny_bert_config(), projection_dim=5).embedding_dim == 5


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoder_config_may_be_a_dict(encoder):
    given = ENCODERS[encoder]()
    config = MoCoSEConfig(encoder_config=given.to_dict())
    assert type(config.encoder_config) is type(given)
    assert config.encoder_config.to_dict() == given.to_dict()


@pytest.mark.parametrize("value", [3, "bert", ["bert"]])
def test_encoder_config_that_is_neither_object_nor_dict_raises_an_error(value):
    with pytest.raises(ValueError, match="`encoder_config`"):
        MoCoSEConfig(encoder_config=value)


# Dropout


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoder_dropout_sets_the_encoders_dropouts(encoder, as_dict):
    given = ENCODERS[encoder]()
    config = MoCoSEConfig(encoder_config=given.to_dict() if as_dict else given, encoder_dropout_prob=0.37)
    assert config.encoder_dropouts == dict.fromkeys(DROPOUT_FIELDS[encoder], 0.37)
    assert all(getattr(config.encoder_config, name) == 0.37 for name in DROPOUT_FIELDS[encoder])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoder_dropout_reaches_the_layers(encoder):
    model = MoCoSEModel(MoCoSEConfig(encoder_config=ENCODERS[encoder](), encoder_dropout_prob=0.37))
    layers = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert set(layers) == {0.37}
    assert len(layers) > 2


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoder_dropout_may_be_zero(encoder):
    config = MoCoSEConfig(encoder_config=ENCODERS[encoder](), encoder_dropout_prob=0.0)
    assert set(config.encoder_dropouts.values()) == {0.0}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_without_encoder_dropout_the_encoders_own_stays(encoder):
    own = dict(zip(sorted(DROPOUT_FIELDS[encoder]), [0.21, 0.22, 0.23], strict=False))
    config = MoCoSEConfig(encoder_config=ENCODERS[encoder](**own))
    assert config.encoder_dropouts == own


def test_encoder_dropout_leaves_the_heads_alone():
    config = MoCoSEConfig(encoder_config=tiny_bert_config(), encoder_dropout_prob=0.37)
    assert config.head_dropout_prob == 0.1


def test_encoder_dropout_given_at_loading_reaches_the_encoder(tmp_path):
    MoCoSEConfig(encoder_config=tiny_bert_config()).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, encoder_dropout_prob=0.37)
    assert config.encoder_dropout_prob == 0.37
    assert set(config.encoder_dropouts.values()) == {0.37}
