"""Merge the trained encoder with the start, which keeps more of what the start can do on other text (WiSE-FT)."""

from pathlib import Path

from torch import nn

from mocose_hf.cli.factory import hub_options, load_start
from mocose_hf.cli.options import Options
from mocose_hf.cli.scoring import is_start
from mocose_hf.models.adapters import scale_adapter
from mocose_hf.models.merging import interpolate
from mocose_hf.training.checkpoint import PREFIX
from mocose_hf.training.trainer import MoCoSETrainer


def merge_with_start(trainer: MoCoSETrainer, options: Options) -> None:
    """Move the weights of the trained encoder by `merge_with_start` of the way back to the start (arXiv 2109.01903).

    Checkpoints keep the trained weights. If the run keeps its best checkpoint and the merged encoder scores below the
    start, the encoder becomes the start.
    """
    share = options.model.merge_with_start
    if not share or is_start(trainer):
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    source, _ = load_start(options.model.model_name_or_path, options.model.attn_implementation, **hub_options(options))
    merged: list[tuple[nn.Module, nn.Module]] = []
    if model.mocose.adapter is None:
        merged.append((model.mocose.encoder, source.encoder))
    if source.pooler is not None and model.config.use_pooler:
        merged.append((model.pooler, source.pooler))
    _move_to_start(model, merged, share)
    metric = f"eval_{trainer.args.best_metric}"
    scores = [entry[metric] for entry in trainer.state.log_history if entry["step"] == 0 and metric in entry]
    if not trainer.args.load_best_model_at_end or not scores:
        return
    sign = 1.0 if trainer.args.greater_is_better else -1.0
    if sign * trainer.evaluate()[metric] < sign * scores[0]:
        options.say(f"Merged with the start, the encoder has a worse {trainer.args.best_metric} than the start alone.")
        _move_to_start(model, merged, 1.0)
        trainer.state.best_model_checkpoint = str(Path(options.output_dir) / f"{PREFIX}0")


def _move_to_start(model, merged: list[tuple[nn.Module, nn.Module]], share: float) -> None:
    """Move modules towards those of the start, and shrink an adapter, whose change is proportional to its scale."""
    for module, source in merged:
        interpolate(module, dict(module.named_parameters()), dict(source.named_parameters()), share)
    if model.mocose.adapter is not None:
        scale_adapter(model.mocose.encoder, 1.0 - share)
