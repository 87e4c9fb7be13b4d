"""Mask secrets in options and messages before they are stored or shown."""

import re
from collections.abc import Iterable, Mapping

MASK = "***"

_SECRET = r"(?:token|password|passwd|passphrase|secret|api_key|access_key|credentials?)"
_SECRET_NAME = re.compile(rf"(?:.*_)?{_SECRET}", re.IGNORECASE)
_SECRET_ENTRY = re.compile(rf"""(["'?&]\w*{_SECRET}["']?\s*[:=]\s*["']?)[^\s"'&,}}]+""", re.IGNORECASE)
"""An entry of JSON, of a Python mapping or of the query of a URL."""
_URL_LOGIN = re.compile(r"(\b[a-z][\w+.-]*://)(?:([^\s:/@?#]*:)\S*|[^\s/@]+)@", re.IGNORECASE)
"""Up to the last @, because a password may contain others."""
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")

_SHORTEST_LITERAL = 4
"""Characters of the shortest secret to search for in a message. A shorter one would mask parts of words."""


def is_secret(name: str) -> bool:
    """Return whether an option with this name, such as `hub_token`, holds a secret."""
    return _SECRET_NAME.fullmatch(name.lstrip("-").replace("-", "_")) is not None


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask hub tokens, logins in URLs, entries with the name of a secret, and the given secrets.

    Args:
        text: A message, or the value of an option.
        secrets: Values that must not appear in it, from `secret_values`.
    """
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST_LITERAL:
            text = text.replace(secret, MASK)
    text = _HUB_TOKEN.sub(MASK, text)
    text = _URL_LOGIN.sub(lambda found: f"{found[1]}{found[2] or ''}{MASK}@", text)
    return _SECRET_ENTRY.sub(rf"\1{MASK}", text)


def redact_options(options: Mapping[str, object]) -> dict[str, object]:
    """Return options with secrets masked, also inside lists and mappings."""
    secrets = secret_values(options)
    return {name: _redacted(str(name), value, secrets) for name, value in options.items()}


def secret_values(options: Mapping[str, object]) -> list[str]:
    """Return the values of the options whose names mark them as secrets."""
    return [str(value) for name, value in options.items() if is_secret(str(name)) and value not in (None, "", True)]


def _redacted(name: str, value: object, secrets: Iterable[str]) -> object:
    if isinstance(value, Mapping):
        return redact_options(value)
    if is_secret(name):
        return MASK if value not in (None, "") else value
    if isinstance(value, (list, tuple)):
        return type(value)(_redacted("", part, secrets) for part in value)
    return redact_text(value, secrets) if isinstance(value, str) else value
