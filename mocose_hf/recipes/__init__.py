"""Recipes that come with the package: YAML files of options, by the names that `--recipe` takes."""

from pathlib import Path

CHOICES = {
    "domain": ("domain-topics", "domain-search"),
    "from-mlm": ("from-mlm-topics", "from-mlm-search", "domain-topics"),
}
"""Recipes that stand for one of several others, which a development set decides; without one it is the first."""

CLS_RECIPES = ("paper", "released")
"""Recipes under which an encoder that states no pooling has the paper's; under the others it has the mean."""

_FILES = {path.stem.replace("_", "-"): path for path in Path(__file__).parent.glob("*.yaml")}

RECIPES = dict(sorted((_FILES | {name: _FILES[others[0]] for name, others in CHOICES.items()}).items()))
"""The YAML file of each recipe, by name."""
