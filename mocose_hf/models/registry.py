"""The algorithms that the command line offers by name; loading this makes their saved models known to `AutoModel`."""

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
    """A way of training, and how a model card tells of it.

    Args:
        model: What `MoCoSETrainer` trains.
        approach: What it trains by.
        method: Its name and source, in Markdown.
        arguments_left_out: Names of training arguments that it has no use for.
    """

    model: type[ContrastiveModel]
    approach: str
    method: str
    arguments_left_out: tuple[str, ...] = ()

    def lacks(self, option: str) -> bool:
        """Return whether an option is of another algorithm, or of the paper's, and has no place in this one."""
        others = {name for kind in ALGORITHMS.values() for name in kind.model.config_class.option_names()}
        of_others = others - set(self.model.config_class.option_names())
        return option in self.arguments_left_out or option in of_others

    def from_encoder(self, source: PretrainedEncoder, given: Mapping[str, object]) -> ContrastiveModel:
        """Start a new training from an encoder, with the options of all algorithms as one command has them.

        Args:
            source: The encoder.
            given: Fields of `MoCoSEConfig`, and of the other configurations, which are None where not given.

        Raises:
            ValueError: Where one has a value of its own, but the algorithm has no such option.
        """
        return self.model.from_encoder(source, **self._own(given))

    def validate(self, encoder_config: PreTrainedConfig, given: Mapping[str, object], args) -> None:
        """Refuse options that `from_encoder` or a training would refuse, as far as that is known without weights.

        Args:
            encoder_config: The configuration of the encoder.
            given: As of `from_encoder`.
            args: `MoCoSETrainingArguments`.

        Raises:
            ValueError: Naming the option.
        """
        config = self.model.config_class(encoder_config=encoder_config, **self._own(given))
        self.model.validate_resources(config)
        self.model.validate_settings(config, args)

    def _own(self, given: Mapping[str, object]) -> dict[str, object]:
        """Return the options that are given and the algorithm's own; refuse others of another value than theirs."""
        own = self.model.config_class.option_names()
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
"""By the names under which `--algorithm` takes them."""
