"""From the options of a command to sentences, model and trainer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, set_seed

from mocose_hf.cli.options import Options
from mocose_hf.cli.output_dir import output_dir_error
from mocose_hf.data.sentences import Sentences, read_hub_sentences, read_sentences
from mocose_hf.data.streaming import HubDataset, SentenceStream
from mocose_hf.errors import InputError, one_line
from mocose_hf.evaluation.held_out import hold_out
from mocose_hf.models.loading import (
    PretrainedEncoder,
    encoder_sha256,
    is_plain_encoder,
    load_encoder,
    load_encoder_config,
    load_tokenizer,
    states_pooling,
    validate_tokenizer,
)
from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining
from mocose_hf.models.plain_model import build_plain_model
from mocose_hf.models.prompts import set_prompts
from mocose_hf.models.registry import ALGORITHMS
from mocose_hf.models.sentence_end import prepare_last_token
from mocose_hf.recipes import CLS_RECIPES
from mocose_hf.training.callbacks.train_log import TrainLog
from mocose_hf.training.trainer import MoCoSETrainer
from mocose_hf.training.validation.inputs import validate_length


def read_training_sentences(options: Options) -> Sentences | SentenceStream:
    """Read the sentences, or open a stream of them, tell what is dropped, and check that they fill a batch."""
    data, training = options.data, options.training
    if data.streaming:
        return open_stream(options)
    if data.train_file:
        columns = (data.text_column, data.key_column, data.encoding, data.negative_column)
        sentences = read_sentences(data.train_file, *columns)
    else:
        sentences = read_hub_sentences(
            data.dataset_name,
            data.dataset_config_name,
            data.dataset_split,
            data.text_column,
            data.key_column,
            data.dataset_revision,
            data.negative_column,
        )
    source = options.source
    if options.evaluation.dev_from_text:
        roles = options.training.query_prompt is not None or options.training.key_prompt is not None
        sentences = hold_out(sentences, options.evaluation.dev_from_text, source, has_roles=roles)
    batch = training.global_batch_size
    if training.dataloader_drop_last and len(sentences.dataset) < batch:
        raise InputError(
            f"{source}: {len(sentences.dataset)} different sentences, but one batch takes {batch}; give more, or "
            "lower --per_device_train_batch_size."
        )
    options.say(f"{source}: {sentences.summary()}")
    return sentences


def open_stream(options: Options) -> SentenceStream:
    """Open a stream of the sentences, read one batch of them as a check, and tell how they are read."""
    data = options.data
    hub = HubDataset(data.dataset_name, data.dataset_config_name, data.dataset_split, data.dataset_revision)
    stream = SentenceStream(
        data.train_file or hub,
        data.text_column,
        data.key_column,
        shuffle_buffer_size=data.shuffle_buffer_size,
        encoding=data.encoding,
        negative_column=data.negative_column,
    )
    stream.validate_first_batch(options.training.global_batch_size)
    options.say(f"{stream}: {stream.summary()}")
    return stream


def build_model(options: Options):
    """Build model and tokenizer from the seed and the encoder to start from."""
    source = options.model
    set_seed(options.training.seed)
    default_pooling = "cls" if source.recipe in (None, *CLS_RECIPES) else "mean"
    encoder, tokenizer = load_start(
        source.model_name_or_path, source.attn_implementation, default_pooling, **hub_options(options)
    )
    if not options.data.merge_adapter and not is_plain_encoder(source.model_name_or_path, **hub_options(options)):
        raise InputError(
            f"--merge_adapter false: {source.model_name_or_path} is no encoder that AutoModel loads, so no "
            "adapter can name it as its base; leave it out, or start from the result of `mocose export`."
        )
    try:
        model = ALGORITHMS[source.algorithm].from_encoder(encoder, _method(options))
    except (ValueError, RuntimeError) as error:
        message = str(error) if isinstance(error, ValueError) else one_line(error)
        raise InputError(options.locate(message)) from error
    training = options.training
    set_prompts(model.config, training.prompt, training.query_prompt, training.key_prompt)
    if model.config.pooling_mode == "lasttoken":
        prepare_last_token(tokenizer, is_trained=encoder.pooling_mode == "lasttoken")
    return model, tokenizer


def load_start(
    name_or_path: str, attn_implementation: str | None = None, default_pooling: str = "cls", **hub_options
) -> tuple[PretrainedEncoder, PreTrainedTokenizerBase]:
    """Load an encoder and its tokenizer.

    Args:
        name_or_path: A directory or a hub id.
        attn_implementation: As `AutoModel.from_pretrained` takes it.
        default_pooling: The pooling of an encoder that states none.
        hub_options: `revision` and `cache_dir`.

    Raises:
        InputError: In one line, with the reason.
    """
    with _loading(name_or_path):
        tokenizer = load_tokenizer(name_or_path, **hub_options)
        encoder = load_encoder(name_or_path, attn_implementation, default_pooling, **hub_options)
        validate_tokenizer(tokenizer, encoder.encoder)
    return encoder, tokenizer


def build_plain(name: str, source: PretrainedEncoder) -> MoCoSEForPreTraining:
    """Build the plain model of an encoder; see `build_plain_model`.

    Args:
        name: The encoder as the user gave it, for errors.
        source: The encoder; its weights are copied.

    Raises:
        InputError: If the pooling of the encoder is unknown or its sizes do not fit.
    """
    try:
        return build_plain_model(source)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{name}: {error}") from error


def read_encoder_config(options: Options):
    """Read the configuration of the encoder to start from, and its tokenizer, without its weights."""
    with _loading(options.model.model_name_or_path):
        config = load_encoder_config(options.model.model_name_or_path, **hub_options(options))
        return config, load_tokenizer(options.model.model_name_or_path, **hub_options(options))


def is_plain_language_model(options: Options) -> bool:
    """Return whether the encoder to start from was not made for sentences: it states no pooling."""
    with _loading(options.model.model_name_or_path):
        return not states_pooling(options.model.model_name_or_path, **hub_options(options))


def fingerprint_encoder(options: Options) -> str:
    """Return what tells the encoder to start from by its content, see `encoder_sha256`."""
    with _loading(options.model.model_name_or_path):
        return encoder_sha256(options.model.model_name_or_path, **hub_options(options))


def validate_model_options(options: Options, encoder_config, tokenizer) -> None:
    """Raise an `InputError` for options that no model of this encoder can be built or trained with."""
    try:
        ALGORITHMS[options.model.algorithm].validate(encoder_config, _method(options), options.training)
        validate_length(options.training, tokenizer, encoder_config)
    except ValueError as error:
        raise InputError(options.locate(str(error))) from error


def hub_options(options: Options) -> dict[str, str | None]:
    """Return the revision and the cache directory of a model on the hub."""
    return {"revision": options.model.model_revision, "cache_dir": options.model.cache_dir}


def _method(options: Options) -> dict[str, object]:
    model = options.model
    return asdict(options.method) | {
        "stale_fgsm_epsilon": model.stale_fgsm_epsilon,
        "peft_config": model.peft_config(),
    }


@contextmanager
def _loading(name_or_path: str) -> Iterator[None]:
    """Raise an `InputError` in one line if a part of a model cannot be loaded."""
    try:
        yield
    except Exception as error:  # transformers raises many kinds on files that it does not expect
        is_known = isinstance(error, (OSError, ValueError, RuntimeError, ImportError, SafetensorError))
        reason = one_line(error) if is_known else f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"--model_name_or_path {name_or_path}: cannot be loaded ({reason}); give a directory with config.json, "
            "weights and tokenizer, or a model id of the hub."
        ) from error


def build_trainer(options: Options, model, tokenizer, sentences, pairs, tasks) -> MoCoSETrainer:
    """Build the trainer, which makes the output directory."""
    try:
        trainer = MoCoSETrainer(
            model=model,
            args=options.training,
            train_dataset=sentences if options.data.streaming else sentences.dataset,
            eval_dataset=pairs,
            processing_class=tokenizer,
            test_tasks=tasks.during_training,
        )
        trainer.add_callback(TrainLog)
        return trainer
    except OSError as error:
        raise output_dir_error(options.output_dir, error) from error
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(options.locate(one_line(error))) from error
