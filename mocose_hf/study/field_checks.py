"""Check the types of stored fields. Any program can write into a storage."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

Check = Callable[[Any], bool]


def is_text(value: object) -> bool:
    """Return whether a value is a string."""
    return isinstance(value, str)


def is_whole(value: object) -> bool:
    """Return whether a value is a 64-bit integer."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: object) -> bool:
    """Return whether a value is a number, NaN and infinities included."""
    return isinstance(value, float) or is_whole(value)


def is_flag(value: object) -> bool:
    """Return whether a value is a boolean."""
    return isinstance(value, bool)


def is_mapping(value: object) -> bool:
    """Return whether a value is a mapping whose keys are strings."""
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def optional(check: Check) -> Check:
    """Return a check that also accepts None."""
    return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
    """Return a check for lists whose elements all pass `check`."""
    return lambda value: isinstance(value, (list, tuple)) and all(map(check, value))


def mapping_of(check: Check) -> Check:
    """Return a check for mappings whose values all pass `check`."""
    return lambda value: is_mapping(value) and all(map(check, value.values()))


def validate_fields(stored: Any, checks: Mapping[str, Check], required: Collection[str]) -> None:
    """Check a mapping field by field. Fields without a check are ignored.

    Raises:
        ValueError: If it is not a mapping, a required field is missing, or a field has another type.
    """
    if not is_mapping(stored):
        raise ValueError(f"{str(stored)[:60]!r} is not a mapping")
    for name, check in checks.items():
        if name in stored and not check(stored[name]):
            raise ValueError(f"`{name}` cannot be {str(stored[name])[:60]!r}")
        if name not in stored and name in required:
            raise ValueError(f"`{name}` is missing")
