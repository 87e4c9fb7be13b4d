"""Recipes that come with the package: YAML files of options, by the names that `--recipe` takes."""

from pathlib import Path

RECIPES = {path.stem.replace("_", "-"): path for path in sorted(Path(__file__).parent.glob("*.yaml"))}
"""The file of each recipe."""
