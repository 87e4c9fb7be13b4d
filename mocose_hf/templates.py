"""Load the templates of pages and reports, and escape every value that they show."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@lru_cache
def html_environment(package: str) -> Environment:
    """Return the environment of a package's HTML templates: values lose control characters, and markup is escaped.

    Args:
        package: The package whose folder `templates` holds them, such as "mocose_hf.report".
    """
    return _environment(package, lambda text: "".join(c for c in text if c.isprintable() or c in " \n\t"))


def escaping_environment(package: str, escape: Callable[[str], str], **delimiters: Any) -> Environment:
    """Return an environment whose values all pass through `escape`, for a format other than HTML."""
    return _environment(package, lambda text: Markup(escape(text)), **delimiters)


def _environment(package: str, finalize: Callable[[str], str], **delimiters: Any) -> Environment:
    # With autoescape, the output of a macro is `Markup`, so no value is escaped twice.
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else finalize(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **delimiters,
    )
