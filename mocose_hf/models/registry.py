"""The algorithms that the command line offers by name; importing this registers their models with `AutoModel`."""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedConfig

from mocose_hf.models.configuration_mocose import MoCoSEConfig
from mocose_hf.models.loading import PretrainedEncoder
from mocose_hf.models.modeling_base import TARGET_ARGUMENTS, ContrastiveModel
from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining
from mocose_hf.models.modeling_released import ReleasedMoCoSE
from mocose_hf.models.modeling_simcse import SimCSE


@dataclass(frozen=True)
class Algorithm:
    """A training algorithm and how a model card describes it.

    Args:
        model: The class that `MoCoSETrainer` trains.
        approach: Its principle in a few words.
        method: Its name and source, in Markdown.
        arguments_left_out: Names of training arguments that it does not use.
    """

    model: type[ContrastiveModel]
    approach: str
    method: str
    arguments_left_out: tuple[str, ...] = ()

    def lacks(self, option: str) -> bool:
        """Return whether another algorithm has this option and this one does not use it."""
        others = {name for kind in ALGORITHMS.values() for name in kind.model.config_class.option_names()}
        return option in self.arguments_left_out or option in others - set(self.model.config_class.option_names())

    def from_encoder(self, source: PretrainedEncoder, given: Mapping[str, object]) -> ContrastiveModel:
        """Start a new training from an encoder, given the options of all algorithms.

        Args:
            source: The encoder.
            given: Fields of all configurations; None for the default. `peft_config` is one of all algorithms.

        Raises:
            ValueError: If an option that the algorithm does not have differs from its default.
        """
        return self.model.from_encoder(source, **self._own(given))

    def validate(self, encoder_config: PreTrainedConfig, given: Mapping[str, object], args) -> None:
        """Raise the errors of `from_encoder` and of the trainer that need no weights.

        Args:
            encoder_config: The configuration of the encoder.
            given: As in `from_encoder`.
            args: `MoCoSETrainingArguments`.

        Raises:
            ValueError: If an option cannot be used; the message names it.
        """
        config = self.model.config_class(encoder_config=encoder_config, **self._own(given))
        self.model.validate_resources(config)
        self.model.validate_settings(config, args)

    def _own(self, given: Mapping[str, object]) -> dict[str, object]:
        """Return the given options of this algorithm; raise a `ValueError` if another option has no default value."""
        own = [*self.model.config_class.option_names(), "peft_config"]
        for name, value in given.items():
            if name not in own and value != getattr(MoCoSEConfig, name, None):
                raise ValueError(f"`{name}` is {value}, but the algorithm {self.model.algorithm} has no such option.")
        return {name: given[name] for name in own if given.get(name) is not None}


ALGORITHMS = {
    kind.model.algorithm: kind
    for kind in (
        Algorithm(MoCoSEForPreTraining, "momentum contrast", "[MoCoSE](https://arxiv.org/abs/2202.13093)"),
        Algorithm(
            ReleasedMoCoSE,
            "momentum contrast",
            "[MoCoSE](https://arxiv.org/abs/2202.13093) as [its authors' code](https://github.com/xbdxwyh/mocose) "
            "does it",
            ("queue_prefill",),
        ),
        Algorithm(
            SimCSE,
            "contrast of dropout masks",
            "[SimCSE](https://arxiv.org/abs/2104.08821)",
            (*TARGET_ARGUMENTS, "queue_prefill"),
        ),
    )
}
"""The algorithms by name."""
