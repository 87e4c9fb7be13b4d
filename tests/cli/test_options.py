"""Options as typed, options in a configuration file, and the help."""

import json
import re
from dataclasses import asdict, fields

import pytest
from builders import REPOSITORY

from mocose_hf import MoCoSEConfig, MoCoSETrainingArguments
from mocose_hf.cli.arguments import DataArguments, EvaluationArguments, MethodArguments, ModelArguments
from mocose_hf.cli.config_file import read_config_file
from mocose_hf.cli.options import parse_command_line, printable_command, read_options, validate_option_names
from mocose_hf.cli.parser import FIXED_OPTIONS, TRANSFORMERS_OPTIONS, build_parser
from mocose_hf.errors import InputError
from mocose_hf.recipes import RECIPES

MODEL = {
    "model_name_or_path": ("some/model", "some/model"),
    "model_revision": ("v2", "v2"),
    "cache_dir": ("models", "models"),
    "attn_implementation": ("eager", "eager"),
    "recipe": ("paper", "paper"),
    "merge_with_start": ("0.5", 0.5),
    "use_peft": ("true", True),
    "lora_r": ("4", 4),
    "lora_alpha": ("8", 8),
    "lora_dropout": ("0.25", 0.25),
    "lora_target_modules": ("query", ["query"]),
    "algorithm": ("simcse", "simcse"),
    "stale_fgsm_epsilon": ("1e-3", 0.001),
}
METHOD = {
    "pooling_mode": ("mean", "mean"),
    "use_pooler": ("false", False),
    "whitening": ("0.5", 0.5),
    "encoder_dropout_prob": ("0.3", 0.3),
    "temperature": ("1e-2", 0.01),
    "mask_same_sentence": ("true", True),
    "projection_dim": ("48", 48),
    "num_projection_layers": ("3", 3),
    "num_predictor_layers": ("0", 0),
    "head_dropout_prob": ("0.25", 0.25),
    "share_embeddings": ("false", False),
    "in_batch_negatives": ("no", False),
    "queue_size": ("7", 7),
    "queue_init_size": ("5", 5),
    "queue_dtype": ("bfloat16", "bfloat16"),
    "queue_window": ("0-0.25,0.5-0.75", "0-0.25,0.5-0.75"),
    "queue_window_softness": ("0.1", 0.1),
    "queue_half_life": ("-2.5", -2.5),
    "queue_centroids": ("3", 3),
    "queue_positives": ("2", 2),
    "queue_positive_weight": ("0.5", 0.5),
    "queue_positive_similarity": ("0.75", 0.75),
    "queue_weight": ("0.5", 0.5),
    "in_batch_weight": ("0.25", 0.25),
    "in_batch_queue": ("target", "target"),
    "relation_weight": ("0.5", 0.5),
    "relation_temperature": ("0.2", 0.2),
    "relation_target_temperature": ("0.1", 0.1),
    "reshaping_weight": ("0.5", 0.5),
    "reshaping_whitening": ("0.25", 0.25),
    "reshaping_smoothing": ("0.75", 0.75),
    "reshaping_temperature": ("0.1", 0.1),
    "symmetric_loss": ("true", True),
}
DATA = {
    "train_file": ("some.txt", ["some.txt"]),
    "dataset_name": ("some/texts", "some/texts"),
    "dataset_config_name": ("small", "small"),
    "dataset_split": ("train[:9]", "train[:9]"),
    "dataset_revision": ("v2", "v2"),
    "encoding": ("cp1252", "cp1252"),
    "streaming": ("true", True),
    "shuffle_buffer_size": ("9", 9),
    "text_column": ("sentence", "sentence"),
    "key_column": ("other", ["other"]),
    "negative_column": ("worse", "worse"),
    "overwrite_output_dir": ("true", True),
    "dry_run": ("true", True),
    "save_only_encoder": ("true", True),
    "merge_adapter": ("false", False),
    "license": ("apache-2.0", "apache-2.0"),
    "language": ("en", ["en"]),
}
EVALUATION = {
    "validation_file": ("pairs.tsv", "pairs.tsv"),
    "validation_dataset_name": ("user/pairs", "user/pairs"),
    "validation_dataset_split": ("dev", "dev"),
    "retrieval_file": ("queries.tsv", ["queries.tsv"]),
    "label_file": ("labels.tsv", ["labels.tsv"]),
    "v_measure": ("true", True),
    "dev_from_text": ("100", 100),
    "senteval_dir": ("senteval", "senteval"),
    "eval_tasks": ("sts12", ["sts12"]),
    "report_test_selection": ("true", True),
    "allow_partial_tasks": ("true", True),
}
TRAINING = {
    "ema_decay": ("0.5", 0.5),
    "ema_schedule": ("constant_distance", "constant_distance"),
    "ema_decay_end": ("0.75", 0.75),
    "ema_schedule_steps": ("15000", 15000),
    "position_shuffle": ("true", True),
    "crop_share": ("0.75", 0.75),
    "deletion_rate": ("0.125", 0.125),
    "repetition_rate": ("0.25", 0.25),
    "prompt": ("a sentence", "a sentence"),
    "query_prompt": ("a query", "a query"),
    "key_prompt": ("a passage", "a passage"),
    "queue_prefill": ("true", True),
    "token_cutoff": ("0.125", 0.125),
    "feature_cutoff": ("0.0625", 0.0625),
    "embedding_noise": ("1e-3", 1e-3),
    "fgsm_epsilon": ("5e-9", 5e-9),
    "key_augmentation": ("typos", "typos"),
    "key_augmentation_rate": ("0.25", 0.25),
    "collapse_check_steps": ("5", 5),
    "stop_on_collapse": ("true", True),
    "queue_monitor_steps": ("50", 50),
    "max_seq_length": ("16", 16),
    "padding_free": ("true", True),
    "learning_rate": ("1e-5", 1e-5),
    "head_learning_rate": ("1e-3", 1e-3),
    "per_device_train_batch_size": ("3", 3),
    "num_train_epochs": ("2", 2.0),
    "weight_decay": ("0.125", 0.125),
    "per_device_eval_batch_size": ("9", 9),
    "dataloader_drop_last": ("no", False),
    "eval_on_start": ("true", True),
    "eval_steps": ("25", 25),
    "save_steps": ("75", 75),
    "save_total_limit": ("4", 4),
    "logging_steps": ("6", 6),
    "output_dir": ("out", "out"),
    "max_steps": ("12", 12),
    "gradient_accumulation_steps": ("2", 2),
    "lr_scheduler_type": ("cosine", "cosine"),
    "warmup_steps": ("10", 10),
    "max_grad_norm": ("0.5", 0.5),
    "seed": ("11", 11),
    "activation_checkpointing": ("true", True),
    "do_eval": ("true", True),
    "use_cpu": ("true", True),
    "dataloader_num_workers": ("2", 2),
    "metric_for_best_model": ("dev_uniformity", "dev_uniformity"),
    "resume_from_checkpoint": ("out/checkpoint-5", "out/checkpoint-5"),
    "push_to_hub": ("true", True),
    "hub_model_id": ("me/model", "me/model"),
}
PARTS = {"model": MODEL, "method": METHOD, "data": DATA, "evaluation": EVALUATION, "training": TRAINING}
OPTIONS = [
    pytest.param(part, name, *values, id=name) for part, options in PARTS.items() for name, values in options.items()
]
KEPT = {*FIXED_OPTIONS}
"""Fields whose value may not change, which the help leaves out."""


def write(directory, text: str, name: str = "run.yaml") -> str:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def parse(directory, text: str, *typed: str, name: str = "run.yaml"):
    return parse_command_line([write(directory, text, name), *typed])


def refusal(argv: list[str]) -> str:
    with pytest.raises(InputError) as raised:
        parse_command_line(argv)
    message = str(raised.value)
    assert "\n" not in message
    return message


def get(options, part: str, name: str):
    value = getattr(getattr(options, part), name)
    return getattr(value, "value", value)


def test_the_options_below_are_all_options():
    assert list(MODEL) == [f.name for f in fields(ModelArguments)]
    assert list(METHOD) == [f.name for f in fields(MethodArguments)] == MoCoSEConfig.option_names()
    assert list(DATA) == [f.name for f in fields(DataArguments)]
    assert list(EVALUATION) == [f.name for f in fields(EvaluationArguments)]
    tested_elsewhere = {"bf16", "bf16_full_eval", "deepspeed", "eval_strategy", "load_best_model_at_end", "report_to"}
    tested_elsewhere |= {"augment_view", "tf32", "torch_compile"}
    assert {"remove_unused_columns", "ddp_broadcast_buffers", "hub_strategy"} <= KEPT
    own = set(MoCoSETrainingArguments.__annotations__) - KEPT
    assert set(TRAINING) | tested_elsewhere == own | set(TRANSFORMERS_OPTIONS)


@pytest.mark.parametrize(("part", "name", "text", "value"), OPTIONS)
def test_an_option_sets_the_field_of_its_name(part, name, text, value):
    without = parse_command_line([])
    assert get(without, part, name) != value
    options = parse_command_line([f"--{name}", text])
    assert get(options, part, name) == value
    assert type(get(options, part, name)) is type(value) or part == "training"
    assert get(parse_command_line([f"--{name}={text}"]), part, name) == value
    changed = {n for n in METHOD if getattr(options.method, n) != getattr(without.method, n)}
    assert name == "recipe" or changed == ({name} if part == "method" else set())


@pytest.mark.parametrize(("part", "name", "text", "value"), OPTIONS)
def test_a_line_of_a_configuration_sets_the_same_field(tmp_path, part, name, text, value):
    assert get(parse(tmp_path, f"{name}: {text}\n"), part, name) == value
    written = json.dumps({name: text if name == "temperature" else value})
    assert get(parse(tmp_path, written, name="run.json"), part, name) == value


@pytest.mark.parametrize(("part", "name", "text", "value"), OPTIONS)
def test_a_dict_sets_the_same_field_from_a_word_or_a_value(part, name, text, value):
    for given in (text, value):
        assert get(read_options({name: given}), part, name) == value


def test_a_dict_is_read_as_the_command_line_is():
    options = read_options({"senteval_dir": "a", "eval_tasks": ["sts", "mr"], "seed": None, "queue_half_life": -1e-5})
    assert options.training.load_best_model_at_end is True
    assert options.evaluation.eval_tasks == ["sts", "mr"]
    assert options.training.seed == 42
    assert options.method.queue_half_life == -1e-5
    assert read_options({"recipe": "domain"}).config_file.keys() == read_config_file(str(RECIPES["domain"])).keys()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"queue_sise": 9}, "unknown option --queue_sise; did you mean `queue_size`?"),
        ({"queue_size": 5.5}, "--queue_size/--queue-size: invalid int value: '5.5'"),
        ({"temperature": [0.1, 0.2]}, "--temperature: takes one value, not 2"),
        ({"lr_scheduler_type": "steep"}, "invalid choice: 'steep' (choose from 'linear', "),
        ({"use_cpu": "maybe"}, "got maybe but expected one of yes/no"),
    ],
)
def test_a_dict_that_cannot_be_used_is_refused_as_typed_options_are(values, said):
    with pytest.raises(InputError) as raised:
        read_options(values)
    assert said in str(raised.value)


def test_names_of_options_are_checked_before_there_are_values():
    validate_option_names(["seed", "queue_size", "fp16"])
    with pytest.raises(InputError, match="unknown option --sead; did you mean `seed`"):
        validate_option_names(["seed", "sead"])


def test_the_configuration_may_be_named_by_an_option(tmp_path):
    path = write(tmp_path, "queue_size: 9\nseed: 3\n")
    for argv in (["--seed", "4", "--config", path], [f"--config={path}", "--seed=4"]):
        options = parse_command_line(argv)
        assert (options.method.queue_size, options.training.seed) == (9, 4)
    assert "is already the configuration" in refusal([path, "--config", path])
    assert refusal(["--config"]).startswith("--config: expected one argument")


def test_the_view_of_augmentations_is_an_option_beside_one_of_them(tmp_path):
    assert parse_command_line([]).training.augment_view == "query"
    typed = ["--augment_view", "both"]
    for name, value in (
        ("token_cutoff", "0.1"),
        ("feature_cutoff", "0.1"),
        ("embedding_noise", "1e-3"),
        ("position_shuffle", "true"),
    ):
        assert parse_command_line([*typed, f"--{name}", value]).training.augment_view == "both"
        assert parse(tmp_path, f"{name}: {value}\naugment_view: key\n").training.augment_view == "key"
    assert "`augment_view` is both, but none of" in refusal(typed)


def test_dashes_stand_for_underscores(tmp_path):
    assert parse_command_line(["--queue-size", "9", "--per-device-train-batch-size=3"]).method.queue_size == 9
    assert parse(tmp_path, "queue-size: 9\n").method.queue_size == 9


def test_defaults_are_the_papers():
    options = parse_command_line([])
    config = MoCoSEConfig()
    for name in set(METHOD) - {"pooling_mode", "queue_init_size"}:
        assert getattr(options.method, name) == getattr(config, name)
    assert options.method.pooling_mode is None
    assert (options.method.queue_init_size, config.queue_init_size) == (None, 128)
    training = options.training
    assert (training.ema_decay, training.max_seq_length, training.learning_rate) == (0.85, 32, 3e-5)
    assert (training.per_device_train_batch_size, training.weight_decay, training.seed) == (64, 1e-6, 42)
    assert training.report_to == []
    assert options.output_dir is None
    assert not options.trains
    assert not options.develops


def test_what_is_asked_for():
    assert parse_command_line(["--train_file", "a.txt"]).trains
    assert parse_command_line(["--dataset_name", "a"]).trains
    assert parse_command_line(["--validation_file", "a.tsv"]).develops
    assert parse_command_line(["--senteval_dir", "a"]).develops
    assert parse_command_line(["--output_dir", "out"]).output_dir == "out"


@pytest.mark.parametrize(
    ("written", "typed", "expected"),
    [
        ("true", [], True),
        ("no", [], False),
        ("no", ["--in_batch_negatives"], True),
        ("yes", ["--no_in_batch_negatives"], False),
    ],
)
def test_switches(tmp_path, written, typed, expected):
    assert parse(tmp_path, f"in_batch_negatives: {written}\n", *typed).method.in_batch_negatives is expected


@pytest.mark.parametrize("name", ["run.yaml", "run.yml", "run.json"])
def test_typed_options_go_before_those_of_the_file(tmp_path, name):
    text = json.dumps({"queue_size": 9, "temperature": 0.5, "seed": 3})
    options = parse(tmp_path, text, "--temperature", "0.25", "--seed=4", name=name)
    assert (options.method.queue_size, options.method.temperature, options.training.seed) == (9, 0.25, 4)


def test_scalars_of_yaml_mean_what_they_would_mean_typed(tmp_path):
    text = (
        "# a comment\n"
        "learning_rate: 1e-5\n"
        "share_embeddings: no\n"
        "text_column: no\n"
        "key_column: 'null'\n"
        "model_revision: 007\n"
        "dataset_config_name: 2024-01-02\n"
        "cache_dir:\n"
        "projection_dim: null\n"
        "ema_schedule_steps: ~\n"
        "num_train_epochs: 0.5  # half a pass\n"
        "eval_delay: -1\n"
        'dataset_split: "train[:5]"\n'
    )
    options = parse(tmp_path, text)
    assert options.training.learning_rate == 1e-5
    assert options.method.share_embeddings is False
    assert (options.data.text_column, options.data.key_column) == ("no", ["null"])
    assert options.model.model_revision == "007"
    assert options.data.dataset_config_name == "2024-01-02"
    assert options.model.cache_dir is None
    assert options.method.projection_dim is None
    assert options.training.ema_schedule_steps is None
    assert options.training.num_train_epochs == 0.5
    assert options.training.eval_delay == -1
    assert options.data.dataset_split == "train[:5]"


def test_values_that_start_with_a_dash(tmp_path):
    options = parse(tmp_path, "eval_delay: -1e-5\noutput_dir: -out\n")
    assert (options.training.eval_delay, options.output_dir) == (-1e-5, "-out")


def test_null_leaves_an_option_out(tmp_path):
    options = parse(tmp_path, "output_dir:\nvalidation_file: null\nqueue_size: ~\n")
    assert options.output_dir is None
    assert options.training.eval_strategy == "no"
    assert options.method.queue_size == 512


@pytest.mark.parametrize(
    "text", ["eval_tasks: [mr, trec]\n", "eval_tasks:\n  - mr\n  - trec\n", '{"eval_tasks": ["mr", "trec"]}']
)
def test_lists(tmp_path, text):
    assert parse(tmp_path, text).evaluation.eval_tasks == ["mr", "trec"]


@pytest.mark.parametrize("text", ["report_to: [tensorboard, wandb]\n", '{"report_to": ["tensorboard", "wandb"]}'])
def test_several_loggers(tmp_path, text):
    assert parse(tmp_path, text).training.report_to == ["tensorboard", "wandb"]
    assert parse_command_line(["--report_to", "tensorboard", "wandb"]).training.report_to == ["tensorboard", "wandb"]
    assert parse_command_line(["--report_to", "none"]).training.report_to == []
    assert parse(tmp_path, "report_to: []\n").training.report_to == []


def test_a_configuration_that_is_too_large_is_an_error(tmp_path):
    path = write(tmp_path, f"seed: 1  # {'a' * 2**20}\n")
    assert refusal([path]) == f"{path}: larger than 1 MiB; a configuration is one option a line."


def test_mappings(tmp_path):
    text = "lr_scheduler_type: cosine_with_restarts\nlr_scheduler_kwargs: {num_cycles: 2}\n"
    assert parse(tmp_path, text).training.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_however_it_is_indented(tmp_path, indent):
    text = json.dumps({"output_dir": "Käfer", "use_cpu": True, "cache_dir": None, "seed": 5}, indent=indent)
    options = parse(tmp_path, text, name="run.json")
    assert (options.output_dir, options.training.use_cpu, options.model.cache_dir) == ("Käfer", True, None)
    assert options.training.seed == 5


def test_a_byte_order_mark_is_no_part_of_the_first_option(tmp_path):
    assert parse(tmp_path, "\ufeffseed: 3\n").training.seed == 3


def test_entries_know_their_place(tmp_path):
    path = write(tmp_path, "# first\nseed: 3\n\nqueue-size: 9\n")
    entries = read_config_file(path)
    assert {name: (entry.values, entry.place) for name, entry in entries.items()} == {
        "seed": (["3"], f"{path}, line 2"),
        "queue_size": (["9"], f"{path}, line 4"),
    }


@pytest.mark.parametrize("name", ["direct", "paper-bert-base", "paper-bert-large"])
def test_the_bundled_configurations_are_usable(name):
    options = parse_command_line([str(REPOSITORY / "configs" / f"{name}.yaml")])
    assert options.method.queue_init_size == (128 if name.startswith("paper") else None)
    assert MoCoSEConfig(queue_size=options.method.queue_size).queue_init_size == 128
    assert options.training.learning_rate == (1e-5 if name == "paper-bert-large" else 3e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_its_options_to_a_command(name):
    options = parse_command_line(["--recipe", name])
    entries = read_config_file(str(RECIPES[name]))
    held = vars(options.model) | vars(options.method) | vars(options.training)
    for option, entry in entries.items():
        value = getattr(held[option], "value", held[option])
        assert str(value).lower() == entry.values[0] or float(value) == float(entry.values[0]), option
    assert RECIPES[name].read_text(encoding="utf-8").startswith("# ")
    assert not options.notices


def test_lines_of_a_file_override_a_recipe_and_typed_options_both(tmp_path):
    text = "recipe: domain\nqueue_size: 64\nrelation_weight: 0.5\n"
    options = parse(tmp_path, text, "--relation_weight", "0.25")
    assert (options.method.queue_size, options.method.relation_weight, options.method.use_pooler) == (64, 0.25, False)
    assert parse(tmp_path, text, "--recipe", "paper").method.use_pooler


def test_options_of_a_recipe_that_an_override_makes_idle_are_ignored_with_a_notice():
    overrides = "--reshaping_weight 0 --in_batch_weight 1 --queue_size 0"
    options = parse_command_line(["--recipe", "domain", *overrides.split()])
    shape = ("reshaping_whitening", "reshaping_smoothing", "reshaping_temperature")
    for name in ("queue_prefill", "ema_decay", *shape):
        assert [notice for notice in options.notices if f"`{name}` is ignored because" in notice], name
    assert not options.training.queue_prefill
    assert MoCoSEConfig(**asdict(options.method) | {"pooling_mode": "mean"}).reshaping_smoothing == 0.0


def test_an_adapter_makes_options_of_a_recipe_or_a_file_idle(tmp_path):
    options = parse_command_line(["--recipe", "domain", "--use_peft", "true"])
    assert options.method.share_embeddings
    assert any("`share_embeddings` is ignored because with an adapter" in notice for notice in options.notices)
    options = parse(tmp_path, "use_peft: true\nlora_r: 4\nmerge_adapter: false\n", "--use_peft", "false")
    assert (options.model.lora_r, options.data.merge_adapter) == (None, True)
    assert len([notice for notice in options.notices if "because no adapter is trained" in notice]) == 2


def test_another_recipe_keeps_what_was_typed_and_what_a_file_says(tmp_path):
    argv = ["--recipe", "domain", "--queue_size", "64"]
    topics = parse_command_line(argv)
    search = topics.with_recipe("domain-search")
    assert (topics.method.reshaping_smoothing, search.method.reshaping_smoothing) == (0.7, 0.0)
    assert (topics.method.queue_size, search.method.queue_size) == (64, 64)
    assert (topics.model.recipe, search.model.recipe) == ("domain", "domain-search")
    in_file = parse(tmp_path, "recipe: domain\nqueue_size: 32\n", "--max_steps", "3").with_recipe("domain-search")
    assert (in_file.method.reshaping_whitening, in_file.method.queue_size, in_file.training.max_steps) == (0.5, 32, 3)


def test_an_error_about_a_line_of_a_recipe_tells_how_to_override_it(tmp_path):
    options = parse_command_line(["--recipe", "domain"])
    said = options.locate("`queue_prefill` is true; leave it out.")
    assert said.endswith("leave it out. (the recipe domain sets `queue_prefill`; --queue_prefill overrides it)")
    assert "domain_topics.yaml, line " in said
    assert "recipe" not in parse(tmp_path, "queue_prefill: true\n").locate("`queue_prefill` is true; leave it out.")


def test_an_unknown_recipe_is_an_error_that_names_the_recipes(tmp_path):
    for refused in (lambda: parse_command_line(["--recipe=best"]), lambda: parse(tmp_path, "recipe: best\n")):
        names = (
            "domain, domain-search, domain-topics, from-mlm, from-mlm-search, from-mlm-topics, pairs, paper, released"
        )
        with pytest.raises(InputError, match=f"recipe is one of {names}, but is best"):
            refused()


@pytest.mark.parametrize(
    ("text", "typed", "ignored"),
    [
        ("token_cutoff: 0.1\naugment_view: both\n", "--token_cutoff 0", {2: "augment_view"}),
        ("queue_size: 64\nhead_dropout_prob: 0.2\nema_decay: 0.9\n", "--algorithm simcse", {1: "queue_size"}),
        ("stale_fgsm_epsilon: 1e-3\nalgorithm: released\n", "--algorithm mocose", {1: "stale_fgsm_epsilon"}),
        (
            "queue_window: oldest\nema_decay_end: 0.9\n",
            "--algorithm released",
            {1: "queue_window", 2: "ema_"},
        ),
        ("queue_init_size: 64\nqueue_window: oldest\n", "--queue_size 0", {1: "queue_init_size", 2: "queue_window"}),
        ("queue_window: oldest\nqueue_window_softness: 0.1\n", "--queue_window all", {2: "queue_window_softness"}),
        ("queue_window: oldest\nqueue_window_softness: 0.1\n", "--queue_size=0", {2: "queue_window_softness"}),
        ("temperature: 0.1\n", "--queue_weight 0 --relation_weight 1", {1: "temperature"}),
        ("in_batch_negatives: false\n", "--queue_weight 0 --relation_weight 1", {1: "in_batch_negatives"}),
        (
            "queue_positives: 2\nqueue_positive_weight: 2\n",
            "--queue_weight 0 --relation_weight 1",
            {1: "queue_positives", 2: "queue_positive_weight"},
        ),
        ("queue_positives: 2\n", "--queue_size 0", {1: "queue_positives"}),
        ("queue_prefill: true\n", "--algorithm released", {1: "queue_prefill"}),
        ("queue_prefill: true\n", "--algorithm simcse", {1: "queue_prefill"}),
        ("projection_dim: 64\n", "--num_projection_layers 0", {1: "projection_dim"}),
        ("ema_decay_end: 0.9\nema_schedule_steps: 9\n", "--ema_schedule constant_distance", {2: "ema_schedule_steps"}),
        ("stop_on_collapse: true\n", "--collapse_check_steps 0", {1: "stop_on_collapse"}),
        ("lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {power: 2}\n", "--lr_scheduler_type linear", {2: "lr_"}),
        ("optim: galore_adamw\noptim_args: rank=2\n", "--optim adamw_torch", {2: "optim_args"}),
        (
            "load_best_model_at_end: true\nvalidation_file: a.tsv\n",
            "--eval_strategy no",
            {1: "load_best_model_at_end"},
        ),
        ("train_file: a.txt\n", "--dataset_name some/texts", {1: "train_file"}),
        ("dataset_name: some/texts\ndataset_split: test\n", "--train_file a.txt", {1: "dataset_name"}),
        ("validation_file: a.tsv\n", "--senteval_dir senteval", {1: "validation_file"}),
        ("senteval_dir: senteval\n", "--validation_file a.tsv", {1: "senteval_dir"}),
        ("tf32: true\n", "--use_cpu", {1: "tf32"}),
        ("queue_size: 512\nqueue_init_size: 128\n", "--queue_size 64", {2: "queue_init_size"}),
        ("in_batch_queue: target\nin_batch_weight: 1\n", "--in_batch_weight 0", {1: "in_batch_queue"}),
        ("negative_column: worse\nin_batch_weight: 1\n", "--in_batch_weight 0", {1: "negative_column"}),
        ("negative_column: worse\nin_batch_weight: 1\n", "--algorithm simcse", {1: "negative_column"}),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("--") else "",
)
def test_a_line_that_an_override_makes_idle_is_ignored_with_a_notice(tmp_path, text, typed, ignored):
    path = write(tmp_path, text)
    options = parse_command_line([path, *typed.split()])
    for line, name in ignored.items():
        assert [n for n in options.notices if n.startswith(f"{path}, line {line}: `{name}") and "ignored because" in n]
    rows = [row for row in text.splitlines() if f"`{row.split(':')[0]}`" not in str(options.notices)]
    alone = parse(tmp_path, "\n".join(["seed: 42", *rows]), *typed.split(), name="without.yaml")
    assert not alone.notices
    assert (alone.model, alone.method, alone.data) == (options.model, options.method, options.data)
    assert alone.training.to_json_string() == options.training.to_json_string()


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("token_cutoff: 0\naugment_view: both\n", []),
        ("token_cutoff: 0.1\n", ["--token_cutoff", "0", "--augment_view", "both"]),
    ],
    ids=["in the file alone", "typed"],
)
def test_an_option_without_effect_that_nothing_overrides_stays_an_error(tmp_path, text, typed):
    assert "`augment_view` is both, but none of" in refusal([write(tmp_path, text), *typed])


def test_a_line_keeps_its_effect_if_another_line_of_its_kind_is_overridden(tmp_path):
    options = parse(tmp_path, "token_cutoff: 0.1\naugment_view: both\n", "--token_cutoff", "0", "--crop_share", "0.9")
    assert (options.notices, options.training.augment_view) == ([], "both")
    options = parse(tmp_path, "token_cutoff: 0.1\nfeature_cutoff: 0.1\naugment_view: both\n", "--token_cutoff", "0")
    assert (options.notices, options.training.augment_view) == ([], "both")
    text = "lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {power: 2}\n"
    options = parse(tmp_path, text, "--lr_scheduler_type", "polynomial")
    assert (options.notices, options.training.lr_scheduler_kwargs) == ([], {"power": 2})


def test_saved_training_arguments_are_a_configuration(tmp_path):
    typed = ["--output_dir", "out", "--learning_rate", "1e-5", "--lr_scheduler_type", "polynomial", "--use_cpu"]
    typed += ["--lr_scheduler_kwargs", '{"power": 2}', "--validation_file", "a.tsv", "--token_cutoff", "0.1"]
    saved = parse_command_line([*typed, "--augment_view", "both", "--hub_token", "secret"]).training.to_json_string()
    path = write(tmp_path, saved, name="training_args.json")
    options = parse_command_line([path])
    assert json.loads(options.training.to_json_string()) == json.loads(saved)
    assert options.training.hub_token is None
    assert [notice.partition(": ")[2] for notice in options.notices] == [
        "`hub_token` is ignored because a saved file does not hold the token itself."
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("seed: 1\nqueue_sise: 9\n", 2, "unknown option `queue_sise`; did you mean `queue_size`?"),
        ("temprature: 1\n", 1, "unknown option `temprature`; did you mean `temperature`?"),
        ("seed: 1\n\nzzzz: 9\n", 3, "unknown option `zzzz`; `run_mocose.py --help all` lists the options."),
        ("queue_s: 9\n", 1, "unknown option `queue_s`; did you mean `queue_size`?"),
        ("seed: 1\ntemperature: warm\n", 2, "--temperature: invalid float value: 'warm'"),
        ("queue_size: 5.5\n", 1, "--queue_size/--queue-size: invalid int value: '5.5'"),
        ("seed: 1\nuse_cpu: maybe\n", 2, "got maybe but expected one of yes/no"),
        ("seed: 1\nema_decay: 2\n", 2, "`ema_decay` lies in [0, 1], but is 2.0"),
        ("seed: 1\nmax_seq_length: 2\n", 2, "`max_seq_length` is at least 3"),
        ("seed: 1\nlr_scheduler_type: steep\n", 2, "invalid choice: 'steep' (choose from 'linear', "),
        ("temperature: {a: 1}\n", 1, "--temperature: invalid float value"),
        ("seed: 1\nqueue_size: 9\nseed: 2\n", 3, "`seed` stands twice, first at "),
        ("queue_size: 9\nqueue-size: 9\n", 2, "`queue_size` stands twice, first at "),
        ("seed: 1\nqueue_size: [1\n", 3, "not valid YAML or JSON"),
        ("- seed\n", 1, "not a mapping; write one `option: value` a line."),
        ("", 1, "not a mapping; write one `option: value` a line."),
        ("seed: 1\n? [a, b]\n: 2\n", 2, "an option's name is a word"),
        ("queue_size: 9\nseed: [1, 2]\n", 2, "seed"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, text, line, said):
    path = write(tmp_path, text)
    message = refusal([path])
    assert message.startswith(f"{path}, line {line}: ")
    assert said in message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("seed: 1\ntemperature: -1\n", 2, "--temperature is a number above 0"),
        ("pooling_mode: sum\n", 1, "--pooling_mode is one of cls, mean, max, lasttoken"),
        ("queue_size: 9\nqueue_init_size: 600\n", 2, "--queue_init_size is 600 but --queue_size is 9"),
    ],
)
def test_a_method_value_out_of_range_is_named_by_its_line(
    tmp_path, capsys, monkeypatch, encoder_dir, text, line, said
):
    monkeypatch.syspath_prepend(REPOSITORY)
    import run_mocose

    (tmp_path / "some.txt").write_text("a cat\na dog\n", encoding="utf-8")
    path = write(tmp_path, text)
    argv = [path, "--model_name_or_path", str(encoder_dir), "--train_file", str(tmp_path / "some.txt")]
    argv += ["--output_dir", str(tmp_path / "out"), "--per_device_train_batch_size", "2", "--use_cpu"]
    assert run_mocose.main(argv) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("run_mocose.py: ")
    assert said in last
    assert f"{path}, line {line}: " in last


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path):
    missing = str(tmp_path / "none.yaml")
    assert refusal([missing]) == f"{missing}: no such file; check the path of the configuration."
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("output_dir: Käfer\n".encode("latin-1"))
    said = refusal([str(latin)])
    assert said.startswith(f"{latin}: cannot be read (")
    assert said.endswith("it should be YAML or JSON in UTF-8.")


def test_a_typed_value_is_not_blamed_on_the_file(tmp_path):
    path = write(tmp_path, "temperature: 0.5\n")
    assert refusal([path, "--temperature", "warm"]) == "argument --temperature: invalid float value: 'warm'"


def test_a_value_of_the_file_that_a_typed_one_replaces_is_not_read(tmp_path):
    assert parse(tmp_path, "temperature: warm\n", "--temperature", "0.25").method.temperature == 0.25


def test_the_printable_command_can_be_typed_again_and_holds_no_token():
    argv = ["run.yaml", "--output_dir", "my out", "--hub_token", "secret1", "--hub-token=secret2", "--seed", "3"]
    assert printable_command(argv) == (
        "run_mocose.py run.yaml --output_dir 'my out' --hub_token '***' '--hub-token=***' --seed 3"
    )


def test_only_a_first_argument_of_its_own_is_a_configuration():
    options = parse_command_line(["--train_file=texts.json", "--seed", "3"])
    assert (options.data.train_file, options.training.seed) == (["texts.json"], 3)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--queue_s", "9"], "unknown option --queue_s; did you mean `queue_size`?"),
        (["--queue_s=9"], "unknown option --queue_s=9; did you mean `queue_size`?"),
        (["--quue-size", "9"], "unknown option --quue-size; did you mean `queue_size`?"),
        (["--model", "a"], "unknown option --model; "),
        (["--seed", "1", "--zzzz"], "unknown option --zzzz; `run_mocose.py --help all` lists the options."),
        (["--seed", "1", "run.yaml"], "unknown option run.yaml; "),
        (["--temperature"], "argument --temperature: expected one argument"),
        (["--temperature", "warm"], "argument --temperature: invalid float value: 'warm'"),
        (["--remove_unused_columns", "true"], "`remove_unused_columns` must stay false"),
        (["--label_smoothing_factor", "0.1"], "`label_smoothing_factor` must stay `0.0`: the contrastive loss has no"),
        (["--do_train", "false", "--train_file", "a.txt"], "--do_train false: there is text to train on; leave out"),
        (["--do_train"], "--do_train: there is nothing to train on; give --train_file"),
        (["--do_eval", "false", "--eval_tasks", "sts"], "--do_eval false: --eval_tasks asks for scores"),
        (["--do_predict"], "`do_predict` must stay false: call `predict`"),
        (["--hub_strategy", "all_checkpoints"], "`hub_strategy` must stay `end`"),
        (["--fsdp", "full_shard"], "--fsdp is not supported; give --deepspeed ds_configs/zero3.json, "),
        (["--ema_schedule_steps", "0"], "`ema_schedule_steps` is at least 1"),
        (["--ema_schedule", "linear"], "`ema_schedule` is one of cosine, constant_distance, but is linear"),
        (
            ["--ema_schedule", "constant_distance", "--ema_decay_end", "0.9"],
            "`ema_decay_end` is 0.9, but belongs to the cosine schedule, and `ema_schedule` is constant_distance",
        ),
    ],
)
def test_typed_options_that_cannot_be_used(argv, said):
    assert refusal(argv).startswith(said)


@pytest.mark.parametrize("source", [("--validation_file", "pairs.tsv"), ("--senteval_dir", "senteval")])
def test_development_pairs_switch_evaluation_on(source):
    training = parse_command_line([*source]).training
    assert training.eval_strategy == "steps"
    assert training.load_best_model_at_end is True
    assert training.metric_for_best_model == "dev_spearman"
    assert training.greater_is_better is True
    assert training.save_steps == training.eval_steps == 50
    training = parse_command_line([f"{source[0]}={source[1]}", "--eval_steps", "30"]).training
    assert (training.eval_strategy, training.save_steps) == ("steps", 30)


def test_without_development_pairs_there_is_no_evaluation():
    training = parse_command_line(["--train_file", "a.txt"]).training
    assert (training.eval_strategy, training.load_best_model_at_end) == ("no", False)
    assert training.metric_for_best_model is None
    assert training.save_steps == 500


def test_options_go_before_what_development_pairs_switch_on(tmp_path):
    text = "validation_file: pairs.tsv\nmetric_for_best_model: dev_uniformity\n"
    training = parse(tmp_path, text, "--load_best_model_at_end", "no", "--save_steps", "7").training
    assert (training.eval_strategy, training.save_steps) == ("steps", 7)
    assert (training.load_best_model_at_end, training.metric_for_best_model) == (False, "dev_uniformity")
    training = parse_command_line(["--senteval_dir", "senteval", "--eval_strategy", "epoch"]).training
    assert (training.eval_strategy, training.save_strategy) == ("epoch", "epoch")
    assert training.load_best_model_at_end is True
    training = parse_command_line(["--senteval_dir", "senteval", "--save_strategy", "no"]).training
    assert (training.eval_strategy, training.save_strategy) == ("steps", "no")
    assert training.load_best_model_at_end is False


def test_evaluation_can_be_switched_off_by_one_option():
    training = parse_command_line(["--validation_file", "pairs.tsv", "--eval_strategy", "no"]).training
    assert (training.eval_strategy, training.load_best_model_at_end) == ("no", False)


@pytest.fixture(scope="module")
def help_text() -> str:
    return build_parser().format_help()


def help_groups(text: str) -> dict[str, dict[str, str]]:
    """Return the help of each option by group, with its lines joined."""
    groups: dict[str, dict[str, str]] = {}
    options: dict[str, str] = {}
    for line in text.splitlines():
        if heading := re.fullmatch(r"(\w[\w ]*):", line):
            options = groups.setdefault(heading[1], {})
        elif entry := re.match(r"  --(\w+) +(.*)", line):
            name = entry[1]
            assert name not in options
            options[name] = entry[2]
        elif line.startswith(" ") and options:
            options[name] += " " + line.strip()
        elif not line:
            options = {}
    return groups


def test_help_is_printed_and_ends_well(capsys, help_text):
    with pytest.raises(SystemExit) as ended:
        parse_command_line(["--help"])
    assert not ended.value.code
    overview = capsys.readouterr().out
    for group, options in help_groups(help_text).items():
        assert f"  {group}: " in overview
        assert {*options} <= {*overview.split()}
    with pytest.raises(SystemExit):
        parse_command_line(["--help", "all"])
    assert capsys.readouterr().out.strip() == help_text.strip()


def test_help_of_one_group_explains_its_options_alone(capsys, help_text):
    groups = help_groups(help_text)
    for word, group in (("method", "method"), ("data", "data and output"), ("training", "training")):
        with pytest.raises(SystemExit) as ended:
            parse_command_line(["--help", word])
        assert not ended.value.code
        assert help_groups(capsys.readouterr().out) == {group: groups[group]}
    assert "choose one of model, method, data, evaluation, training, all" in refusal(["--help", "queue"])


def test_help_fits_into_its_width(help_text):
    assert max(map(len, help_text.splitlines())) <= 120


def test_help_shows_each_of_our_options_once_under_its_group(help_text):
    groups = help_groups(help_text)
    assert list(groups) == ["model", "method", "data and output", "evaluation", "training"]
    assert list(groups["model"]) == list(MODEL)
    assert list(groups["method"]) == list(METHOD)
    assert list(groups["data and output"]) == list(DATA)
    assert list(groups["evaluation"]) == list(EVALUATION)
    own = set(MoCoSETrainingArguments.__annotations__) - KEPT
    assert set(groups["training"]) == own | set(TRANSFORMERS_OPTIONS)
    shown = re.findall(r"^ +(-[^ ]+)", help_text, flags=re.MULTILINE)
    assert len(shown) == len(set(shown)) == sum(map(len, groups.values()))


def test_help_says_in_one_sentence_what_each_option_is(help_text):
    for options in help_groups(help_text).values():
        for name, text in options.items():
            assert re.fullmatch(r"[A-Za-z].*\.( \[[^\[\]]+\])?", text), (name, text)


def test_help_names_the_papers_value_of_each_method_option(help_text):
    groups = help_groups(help_text)
    for name, text in groups["method"].items():
        assert re.search(r"\(paper[:)]", text), name
    for name in ("ema_decay", "ema_decay_end", "max_seq_length", "learning_rate", "per_device_train_batch_size"):
        assert "(paper: " in groups["training"][name], name


def test_help_shows_defaults(help_text):
    groups = help_groups(help_text)
    assert groups["method"]["queue_size"].endswith("[512]")
    assert groups["method"]["share_embeddings"].endswith("[true]")
    assert groups["training"]["ema_decay"].endswith("[0.85]")
    assert groups["training"]["report_to"].endswith("[none]")
    assert groups["data and output"]["text_column"].endswith("[text]")
    assert "[" not in groups["model"]["cache_dir"]


def test_help_tells_about_configuration_files_and_further_options(help_text):
    assert help_text.startswith("usage: run_mocose.py [config.yaml | config.json] [--option value ...]")
    assert "configuration file holds one option a line" in help_text
    assert "transformers.TrainingArguments" in help_text


@pytest.mark.parametrize(
    ("typed", "tasks"),
    [
        (["--eval_tasks", "sts", "transfer", "geometry"], ["sts", "transfer", "geometry"]),
        (["--eval_tasks", "STS12,mr"], ["sts12", "mr"]),
        (["--do_eval"], ["sts"]),
        (["--do_eval", "false"], None),
        (["--do_eval", "--eval_tasks", "trec"], ["trec"]),
        (["--do_eval", "--validation_file", "pairs.tsv"], None),
        (["--do_eval", "false", "--senteval_dir", "b"], None),
        (["--do_eval", "--train_file", "a.txt", "--senteval_dir", "b", "--output_dir", "out"], ["sts"]),
        (["--senteval_dir", "b"], None),
    ],
)
def test_the_tasks_are_those_named_or_sts_for_evaluation_alone(typed, tasks):
    assert parse_command_line(typed).evaluation.eval_tasks == tasks


def test_evaluation_after_training_needs_something_to_score_on():
    said = refusal(["--do_eval", "--train_file", "a.txt", "--output_dir", "out"])
    assert said == "--do_eval: there is nothing to score on; give --senteval_dir or name --eval_tasks."


def test_tasks_in_a_configuration_file_are_a_list_or_words(tmp_path):
    for text in ("eval_tasks: [sts, mr]\n", "eval_tasks: sts mr\n", "eval_tasks:\n- sts\n- mr\n"):
        assert parse(tmp_path, text).evaluation.eval_tasks == ["sts", "mr"]
