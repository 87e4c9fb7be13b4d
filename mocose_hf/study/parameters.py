"""The options of cells as optuna holds them: those that are not the same in all, each with the values it takes."""

from collections.abc import Mapping

from optuna.distributions import CategoricalDistribution


def distributions(options: Mapping[str, Mapping[str, object]]) -> dict[str, CategoricalDistribution]:
    """Return, for each option that is not the same in all cells, the values it takes.

    Args:
        options: The options of each cell, by its label.
    """
    names = dict.fromkeys(name for of_cell in options.values() for name in of_cell)
    spread = {name: list(dict.fromkeys(_plain(of.get(name)) for of in options.values())) for name in names}
    return {name: CategoricalDistribution(values) for name, values in spread.items() if len(values) > 1}


def parameters(of_cell: Mapping[str, object], spread: Mapping[str, object]) -> dict[str, object]:
    """Return what a cell sets of the options that are not the same in all, None where it does not."""
    return {name: _plain(of_cell.get(name)) for name in spread}


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
