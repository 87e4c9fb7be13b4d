"""Check the types of what a storage holds, as any program can write into one."""

from collections.abc import Callable, Mapping

Check = Callable[[object], bool]


def is_text(value: object) -> bool:
    """Return whether a value is a string."""
    return isinstance(value, str)


def is_whole(value: object) -> bool:
    """Return whether a value is an integer of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: object) -> bool:
    """Return whether a value is a number; NaN and infinities are."""
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
    """Return a check for lists whose elements all pass one."""
    return lambda value: isinstance(value, (list, tuple)) and all(map(check, value))


def mapping_of(check: Check) -> Check:
    """Return a check for mappings whose values all pass one."""
    return lambda value: is_mapping(value) and all(map(check, value.values()))


def check_fields(made: object, checks: Mapping[str, Check], needed: Mapping[str, Check] | tuple[str, ...]) -> None:
    """Check a mapping field by field.

    Args:
        made: What should be a mapping.
        checks: For each field that it may have, whether a value is of the right type; other fields are ignored.
        needed: Names of those that it must have.

    Raises:
        ValueError: Naming the first field that is missing or has another type.
    """
    if not is_mapping(made):
        raise ValueError(f"a mapping is needed in place of {str(made)[:60]!r}")
    for name, check in checks.items():
        if name in made and not check(made[name]):
            raise ValueError(f"`{name}` cannot be {str(made[name])[:60]!r}")
        if name not in made and name in needed:
            raise ValueError(f"`{name}` is missing")
