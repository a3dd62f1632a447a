"""The parts of web pages: templates, charts, and the library that draws."""

from functools import cache
from typing import Any, NamedTuple

import jinja2
import vl_convert


class Figure(NamedTuple):
    name: str
    """Unique on the page."""
    title: str
    text: str
    """A description for readers who cannot see it."""
    spec: dict[str, Any]


def figure(name: str, title: str, chart: Any) -> Figure:
    spec = chart.to_dict()
    return Figure(name, title, spec["description"], spec)


def render(template: str, **values: object) -> str:
    """The page. It needs no network: it holds the library that draws its charts.

    Raises:
        jinja2.UndefinedError: the template uses a value that was not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ntp.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment.get_template(template).render(library=_library, **values)


@cache
def _library() -> str:
    """Vega, Vega-Lite and vegaEmbed in one script that can be embedded in a page."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
