"""The options of cells as optuna holds them: those that are not the same in all, each with the values it takes."""

from collections.abc import Iterable, Mapping

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial


def distributions(options: Mapping[str, Mapping[str, object]]) -> dict[str, CategoricalDistribution]:
    """Return, for each option that is not the same in all cells, the values it takes.

    Args:
        options: The options of each cell, by its label.
    """
    names = dict.fromkeys(name for of_cell in options.values() for name in of_cell)
    spread = {name: list(dict.fromkeys(_plain(of.get(name)) for of in options.values())) for name in names}
    return {name: CategoricalDistribution(values) for name, values in spread.items() if len(values) > 1}


def as_begun(
    spread: Mapping[str, CategoricalDistribution], trials: Iterable[FrozenTrial]
) -> dict[str, CategoricalDistribution]:
    """Return the distributions of a study of cells, of each option the one it has there already.

    Optuna lets no distribution of a study change, so what a later cell sets besides is none of its parameters; the
    cell itself knows all that it sets.
    """
    begun = {name: distribution for trial in trials for name, distribution in trial.distributions.items()}
    return {name: begun.get(name, values) for name, values in spread.items()}


def parameters(of_cell: Mapping[str, object], spread: Mapping[str, CategoricalDistribution]) -> dict[str, object]:
    """Return what a cell sets of the options that are not the same in all, None where it does not.

    Values that a distribution does not hold are left out.
    """
    values = {name: _plain(of_cell.get(name)) for name in spread}
    return {name: value for name, value in values.items() if value in spread[name].choices}


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
