"""Read the files of the pages: Jinja templates, style sheets and scripts. They are data of the package `qdit.report`.

A template escapes every value that is not `Markup`. Every template knows `ranking_metric`. A name in a template without
a value is an error.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from qdit.core.ranking import ranking_metric

PACKAGE_DATA = ("../templates", "../static")
"""The folders, relative to this module: the code digest of every step that imports it covers their files."""


def template_text(name: str, **context: Any) -> str:
    """Fill in a template of `templates/`. `context` must have every name that the template uses."""
    return _environment().get_template(name).render(**context)


def template_markup(name: str, **context: Any) -> Markup:
    """Fill in a template, as HTML that another page can include."""
    return Markup(template_text(name, **context))


def style_sheet(*names: str) -> Markup:
    """Return the style sheet of all pages (colours and tables), followed by the style sheets `names` of `static/`."""
    colours = template_text("colours.css.j2")
    return Markup("\n".join(["", colours, *(_read("static", name) for name in ("table.css", *names))]))


def script(*names: str) -> Markup:
    """Join the scripts `names` of `static/`."""
    return Markup("\n" + "\n".join(_read("static", name) for name in names))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: _read("templates", name)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["ranking_metric"] = ranking_metric()
    return environment


@cache
def _read(folder: str, name: str) -> str:
    return files("qdit.report").joinpath(folder, name).read_text(encoding="utf-8")
