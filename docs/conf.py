"""The configuration of the documentation site: `make docs` builds it, without access to a network."""

from __future__ import annotations

from typing import Any

import motia_redis

project = "motia-redis"
version = release = motia_redis.__version__
author = copyright = "the motia-redis authors"  # noqa: A001  # Sphinx gives this name

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"motia-redis {version}"
html_show_sourcelink = False
html_copy_source = False

myst_heading_anchors = 4  # links such as glossary.md#dead-letter work here and in the repository's own view
myst_enable_extensions = ["deflist"]

default_role = "literal"  # docstrings write code in single backquotes
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

# Every reference to a public name of this package must resolve. Other packages' documentation is not downloaded.
nitpick_ignore_regex = [("py:.*", r"(?!motia_redis\b).*"), ("py:.*", r"motia_redis(\.\w+)*\._.*")]


def _resolve_public_name(app: Any, environment: Any, node: Any, content: Any) -> Any:
    """Link a class to its public name: signatures give the private module that defines it."""
    target = node.get("reftarget", "")
    if not target.startswith("motia_redis."):
        return None
    domain = environment.domains["py"]
    modules = ["motia_redis", "motia_redis.types", "motia_redis.admin", "motia_redis.errors", "motia_redis.sync"]
    if target.startswith("motia_redis._sync."):
        modules.reverse()  # its classes have the names of others
    for module in modules:
        public = f"{module}.{target.rpartition('.')[2]}"
        if public != target and public in domain.objects:
            return domain.resolve_xref(environment, node["refdoc"], app.builder, "class", public, node, content)
    return None


def _name_manager(app: Any, doctree: Any) -> None:
    """Say which of the two classes `StateManager` an annotation means."""
    module = "motia_redis.sync" if app.env.docname == "api/sync" else "motia_redis"
    for node in doctree.findall(lambda node: node.get("reftarget") == "StateManager" if hasattr(node, "get") else False):
        node["reftarget"] = f"{module}.StateManager"


def _keep_colons(_app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Stop napoleon from reading the words before a colon in an attribute's docstring as its type."""
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")


def setup(app: Any) -> None:
    """Register the functions of this file with Sphinx."""
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)  # napoleon comes at 500
    app.connect("doctree-read", _name_manager)
    app.connect("missing-reference", _resolve_public_name)
