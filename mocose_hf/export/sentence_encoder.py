"""What users hold in their hands afterwards: the plain sentence encoder, the model card, the hub."""

import platform
import shlex
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoModel

from mocose_hf.errors import SaveError, one_line
from mocose_hf.export import markdown
from mocose_hf.models.encoding import longest_input
from mocose_hf.models.loading import pooler_dense, save_tokenizer
from mocose_hf.models.lower_casing import lower_case
from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining
from mocose_hf.models.saved_files import equalize_file_modes, make_config_portable
from mocose_hf.models.sentence_transformers_format import write_layout
from mocose_hf.parallel.deepspeed import whole_weights
from mocose_hf.version import __version__

SENTENCE_ENCODER = "sentence_encoder"
"""Name of the folder inside the output directory that holds the plain encoder."""


_UNTRAINED = (
    "**No checkpoint of the training scored better on the development pairs than its start, so the weights are those "
    "of the start.**\n"
)


@torch.no_grad()
def export_sentence_encoder(model: MoCoSEForPreTraining, tokenizer, directory: str | Path) -> Path:
    """Write the online encoder as a plain one that loads without this package.

    `AutoModel`, `pipeline("feature-extraction")` and `SentenceTransformer` load the directory; the last of these
    returns what `MoCoSEModel.encode` does, with its pooling, prompts, normalisation and limits. If the encoder's class
    has a pooler, it gets the trained dense layer; without `use_pooler` there is none, and the export leaves the pooler
    out.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        directory: Made where it is missing; files of an earlier export are replaced.

    Returns:
        The directory.
    """
    directory, config = Path(directory), model.config
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = lower_case(tokenizer) if config.do_lower_case else tokenizer
    with whole_weights():
        encoder = AutoModel.from_config(config.encoder_config, trust_remote_code=False)
    missing = encoder.load_state_dict(model.mocose.encoder.state_dict(), strict=False)
    unplaced = [name for name in missing.missing_keys if not name.startswith("pooler.")] + missing.unexpected_keys
    if unplaced:
        raise RuntimeError(f"The plain encoder does not take these weights: {', '.join(unplaced)}.")
    dense = pooler_dense(encoder)
    if dense is not None and model.config.use_pooler:
        dense.load_state_dict(model.pooler.state_dict())
    weights = encoder.state_dict()
    if not model.config.use_pooler:  # the encoder's own pooler is random here: no training gave it a value
        weights = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    encoder.save_pretrained(directory, state_dict=weights)
    make_config_portable(directory)
    equalize_file_modes(directory)
    save_tokenizer(tokenizer, directory)
    settings = config.embedding_settings | {"max_seq_length": longest_input(tokenizer, config)}
    write_layout(directory, config.pooling_mode, config.hidden_size, **settings)
    return directory


@dataclass
class RunRecord:
    """What a model card tells of the run that made the model.

    Args:
        start: Name or path of the encoder it started from.
        command: The command line.
        seed: The seed of heads, queue, dropout and data order.
        data: One line on the training text.
        data_sha256: Of the clean sentences in order, where all of them were read before training.
        data_fingerprint: What stands for it where they were streamed.
        scores: Rows of (when, metrics by name), such as before and after.
        settings: Settings of model and training by name.
        results: Tables of scores on tasks, in Markdown.
        approach: What it was trained by, for the title.
        method: The algorithm with its source, in Markdown.
        is_start: Whether the model is the start, because no checkpoint of the run scored better.
    """

    start: str
    command: str
    seed: int
    data: str
    data_sha256: str
    scores: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    data_fingerprint: str = ""
    results: str = ""
    approach: str = "momentum contrast"
    method: str = "[MoCoSE](https://arxiv.org/abs/2202.13093)"
    is_start: bool = False


def model_card(record: RunRecord, pooling_mode: str, similarity_fn_name: str = "cosine") -> str:
    """Return the text of a model card, with the metadata block that the hub reads.

    Args:
        record: The run.
        pooling_mode, similarity_fn_name: Of the model's configuration.
    """
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "sentence-similarity", "mocose"],
        base_model=record.start if _is_hub_id(record.start) else None,
    )
    names = sorted({name for _, metrics in record.scores for name in metrics})
    known = (
        f"fingerprint: {markdown.code(record.data_fingerprint)}"
        if record.data_fingerprint
        else f"sha256: `{record.data_sha256}`"
    )
    scores = [[markdown.escape(when), *(_number(m.get(n)) for n in names)] for when, m in record.scores]
    settings = [[f"`{name}`", markdown.code(str(value))] for name, value in record.settings.items()]
    development = [
        f"## Scores on the development {'pairs' if 'dev_spearman' in names else 'sets'}\n",
        _table(["", *names], scores),
        f"`dev_spearman` is Spearman's correlation of {similarity_fn_name} and human score, × 100; less is better "
        "for `dev_alignment` and `dev_uniformity`.\n"
        if "dev_spearman" in names
        else "All figures are × 100; more is better.\n",
    ]
    sections = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# Sentence encoder trained by {record.approach}\n",
        f"Trained without labels from {markdown.code(record.start)} by {record.method}; the sentence embedding is the "
        f"last hidden state under {pooling_mode} pooling. Compare embeddings by {similarity_fn_name}.\n",
        *([_UNTRAINED] if record.is_start else []),
        "## Use\n",
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("{SENTENCE_ENCODER}")  # this folder, or the folder of this name inside it\n'
        'embeddings = model.encode(["A sentence.", "Another one."])\n```\n',
        *(development if record.scores else []),
        *(["## Scores on tasks\n", f"{record.results}\n"] if record.results else []),
        "## Training\n",
        f"* Data: {markdown.escape(record.data)}\n* Data, {known}\n* Seed: {record.seed}\n",
        f"{markdown.code_block(record.command)}\n",
        _table(["setting", "value"], settings),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in library_versions().items()) + ".\n",
    ]
    return "\n".join(sections)


def library_versions() -> dict[str, str]:
    """Return the versions of what a run's numbers depend on."""
    names = ("torch", "transformers", "accelerate", "datasets", "tokenizers")
    own = {"Python": platform.python_version(), "mocose_hf": __version__}
    return own | {name: metadata.version(name) for name in names}


def write_model_card(directory: str | Path, text: str) -> None:
    """Write README.md, the name under which the hub shows a model card."""
    ModelCard(text).save(Path(directory) / "README.md")


def push_output(output_dir: str | Path, repo_id: str, token: str | None = None, revision: str | None = None) -> None:
    """Upload a finished output directory to an existing hub repository, without checkpoints and pickles.

    Args:
        output_dir: The directory.
        repo_id: The repository.
        token: The token of access.
        revision: The branch, made if there is none; the main one by default.

    Raises:
        SaveError: If the upload fails; the directory is complete.
    """
    left_out = ["checkpoint-*", "*.bin", "*.pt", "*.pth"]
    try:
        api = HfApi(token=token)
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id=repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            revision=revision,
            folder_path=str(output_dir),
            commit_message="Upload MoCoSE model",
            ignore_patterns=left_out,
        )
    except Exception as error:  # of the network, of the hub and of tokens
        command = shlex.join(
            ["hf", "upload", repo_id, str(output_dir), *(f"--exclude={pattern}" for pattern in left_out)]
            + ([] if revision is None else [f"--revision={revision}"])
        )
        raise SaveError(
            f"{output_dir}: is complete but cannot be uploaded ({one_line(error)}); upload it later: {command}"
        ) from error


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
