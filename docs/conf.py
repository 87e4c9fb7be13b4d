"""Configure the documentation site, which `make docs` builds with Sphinx and MyST.

The API reference is generated: one page for each folder of the package, with all its modules.
"""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import mocose_hf

project = "mocose_hf"
author = "The mocose_hf authors"
copyright = "The mocose_hf authors, Apache License 2.0"
release = version = mocose_hf.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"mocose_hf {release}"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "

add_module_names = False

# Docstrings quote code with single backticks.
default_role = "code"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_custom_sections = [("Modules", "params_style"), ("Buffers", "params_style")]

ROOMS = (
    "models", "data", "evaluation", "export", "search", "training", "sentence_transformers", "report", "cli", "study",
    "parallel",
)  # fmt: skip
API = Path(__file__).parent / "api"


def write_api_pages() -> None:
    """Write the pages of the API reference, which git ignores."""
    API.mkdir(exist_ok=True)
    public = [(name, getattr(mocose_hf, name).__module__) for name in sorted(mocose_hf.__all__) if name[0] != "_"]
    rows = "\n".join(f"| `mocose_hf.{name}` | {{py:obj}}`{module}.{name}` |" for name, module in public)
    rooms = [room for room in ROOMS if (Path(mocose_hf.__file__).parent / room).is_dir()]
    listed = "\n".join([*rooms, "package"])
    toctree = f"```{{toctree}}\n{listed}\n```"
    _write("index", f"# API reference\n\n| import | defined as |\n|---|---|\n{rows}\n\n{toctree}\n")
    for room in rooms:
        package = import_module(f"mocose_hf.{room}")
        found = walk_packages(package.__path__, f"{package.__name__}.")
        names = [module.name for module in found if not module.ispkg and not module.name.endswith("__main__")]
        _write(room, f"# mocose_hf.{room}\n\n{package.__doc__ or ''}\n\n" + "\n".join(map(_section, sorted(names))))
    alone = [f"mocose_hf.{name}" for name in ("errors", "files", "plotting")]
    _write("package", "# mocose_hf\n\n" + "\n".join(map(_section, alone)))


def _section(module: str) -> str:
    return f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n"


def _write(name: str, text: str) -> None:
    path = API / f"{name}.md"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:  # Sphinx reads changed files again
        path.write_text(text, encoding="utf-8")


_attributes: dict[str, list[str]] = {}


def keep_attribute(app, what, name, obj, options, lines) -> None:
    """Put the docstring of an attribute aside: napoleon would take words before a colon for its type."""
    if what in ("data", "attribute"):
        _attributes[name] = list(lines)
        lines[:] = [""]


def restore_attribute(app, what, name, obj, options, lines) -> None:
    """Put the docstring of an attribute back after napoleon."""
    lines[:] = _attributes.pop(name, lines)


def escape_markup(app, what, name, obj, options, lines) -> None:
    """Escape `|` and `*` outside of code, which reStructuredText takes for markup."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`|^\s*\* |\*\*)", line)
        lines[number] = "".join(p if i % 2 else re.sub(r"([|*])", r"\\\1", p) for i, p in enumerate(parts))


def link_root_pages(app, docname, source) -> None:
    """Point links to documents above this folder to the pages that include them."""
    source[0] = re.sub(r"\]\(\.\./(CHANGELOG|CONTRIBUTING|SECURITY)\.md", lambda m: f"]({m[1].lower()}.md", source[0])
    source[0] = re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", source[0])  # other files are not on the site


def setup(app) -> None:
    """Connect the hooks above."""
    app.connect("autodoc-process-docstring", escape_markup, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", keep_attribute, priority=410)
    app.connect("autodoc-process-docstring", restore_attribute, priority=600)
    app.connect("source-read", link_root_pages)


write_api_pages()
