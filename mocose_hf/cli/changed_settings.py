"""The settings of a run that differ from their defaults, for the model card."""

from dataclasses import MISSING, fields

from mocose_hf.cli.arguments import LORA_OPTIONS
from mocose_hf.cli.options import Options
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.models.registry import ALGORITHMS
from mocose_hf.training.resume import DETERMINING_ARGUMENTS


def changed_settings(options: Options, model: ContrastiveModel) -> dict[str, object]:
    """Return, by name, the settings that determine where a run ends and that differ from their defaults.

    Args:
        options: The options of the run.
        model: Its model.
    """
    algorithm = ALGORITHMS[model.algorithm]
    trained_with = [name for name in DETERMINING_ARGUMENTS if not algorithm.lacks(name)]
    groups = (
        (options.model, ["recipe", "merge_with_start", "use_peft", *LORA_OPTIONS]),
        (options.training, [*trained_with, "metric_for_best_model"]),
        (model.config, model.config.option_names()),
    )
    found: dict[str, object] = {}
    for group, names in groups:
        defaults = {f.name: f.default for f in fields(group)}
        for name in names:
            value, default = (_plain(part) for part in (getattr(group, name), defaults.get(name, MISSING)))
            if value != default and (value or default):  # None and {} are the same: not given
                found[name] = value
    return found


def _plain(value: object) -> object:
    """Return the value of an enumeration, None for a default that is made anew each time, and all else as it is."""
    return None if value is MISSING else getattr(value, "value", value)
