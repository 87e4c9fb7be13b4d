"""Delay imports, so that `import mocose_hf` and `mocose --help` load neither torch nor transformers."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def run_after_import(name: str, action: Callable[[], object]) -> None:
    """Call `action` once the module `name` has been imported: now if it already has been.

    Args:
        name: The full name of a module, such as "transformers.models.auto.configuration_auto".
        action: Called without arguments, once.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _PostImportFinder(name, action))


def lazy_attributes(package: str, modules: Mapping[str, str]) -> tuple[Callable, Callable]:
    """Return `__getattr__` and `__dir__` for a package whose public names load on first use.

    Args:
        package: The package's `__name__`.
        modules: The module of each public name, relative to the package.
    """
    namespace = vars(sys.modules[package])

    def get_attribute(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{modules[name]}"), name)
        namespace[name] = value
        return value

    def list_names() -> list[str]:
        return sorted({*namespace, *modules})

    return get_attribute, list_names


class _PostImportFinder(MetaPathFinder):
    """Find one module as Python does, and call `action` after the module has been executed."""

    def __init__(self, name: str, action: Callable[[], object]):
        self._name, self._action = name, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the awaited module, None for all others."""
        if fullname != self._name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        sys.meta_path.remove(self)
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            self._action()

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
