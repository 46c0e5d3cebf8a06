"""The page as HTML: one file, with its style, its script and its data in it, that asks nothing of any network."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from conformance import __version__
from conformance.compare import Change
from conformance.matrix import State
from conformance.matrix.shown import SIGNS
from conformance.report import charts
from conformance.report.page import Page
from conformance.report.table import table

SCRIPTS = ("state.js", "checks.js", "case.js", "heat.js", "page.js")

SHOWN = 30
"""So many checks that changed are named without a script."""


def html(page: Page, docs: str = "") -> str:
    """The file. `docs` is the address below which `docs/` of the suite can be read; without it nothing links there."""
    environment = Environment(
        loader=PackageLoader("conformance.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    templates = files("conformance.report") / "templates"
    style, *scripts = (templates.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", *SCRIPTS))
    script = "\n".join(["(() => {", '"use strict";', *scripts, "})();"])
    failures = {failure.check: at for at, failure in enumerate(page.failures)}

    def link(issue: str) -> str:
        """Where an issue can be read; "" where nobody said."""
        if issue.startswith(("https://", "http://")):
            return issue
        return f"{docs.rstrip('/')}/{issue}" if docs else ""

    return environment.get_template("page.html").render(
        page=page, version=__version__, style=Markup(style), script=Markup(script), data=Markup(table(page)),
        style_hash=_digest(style), script_hash=_digest(script), charts=charts, failures=failures, State=State,
        Change=Change, SIGNS=SIGNS, SHOWN=SHOWN, link=link, newest=page.newest,
    )  # fmt: skip


def _digest(text: str) -> str:
    """As a content security policy names what it lets run."""
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()
