"""Put text of unknown content into Markdown, so that it shows as it is and brings neither HTML nor marks."""

import html
import re


def escape(text: str) -> str:
    """Return a text on one line with HTML and the marks of Markdown escaped; it may stand in a table."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """Return a text on one line as inline code; it may stand in a table."""
    text = " ".join(text.split())
    if re.search(r"[<>&`|\\]", text):  # of these, backticks alone escape none in all renderers
        return f"<code>{escape(text)}</code>"
    return f"`{text}`"


def code_block(text: str) -> str:
    """Return a text as a block of code."""
    if re.search(r"[<>&`]|~~~", text):
        return f"<pre><code>{html.escape(text, quote=False)}</code></pre>"
    return f"```\n{text}\n```"
