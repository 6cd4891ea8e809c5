"""Templates of the report, and the policy that lets nothing else run in its pages."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from monai_ifim.messages import RESEARCH_ONLY, printable

MEANING = (
    "A component holds the part of the image along directions in which small changes change the "
    "prediction most; another network, or another seed of its training, has other directions."
)
_REST = (
    "style-src {styles}; img-src data: blob:; connect-src 'self' data: blob:; worker-src blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)


def page(template: str, styles: list[str], scripts: list[str], **values: Any) -> str:
    """One page, whose scripts and styles are known by their hashes.

    Args:
        template: its name.
        styles: style sheets, in order.
        scripts: in order; they may load further ones from files beside the page.
        values: of the template; texts are escaped, ``data`` becomes JSON.

    Returns:
        HTML.
    """
    styles, scripts = ([_inline(text) for text in texts] for texts in (styles, scripts))
    policy = (
        f"default-src 'none'; script-src {_hashes(scripts)} 'strict-dynamic' 'wasm-unsafe-eval'; "
        + _REST.format(styles=_hashes(styles))
    )
    values["data"] = Markup(_json(values["data"]))
    return (
        _environment()
        .get_template(template)
        .render(
            policy=policy,
            styles=[Markup(text) for text in styles],
            scripts=[Markup(text) for text in scripts],
            research_only=RESEARCH_ONLY,
            meaning=MEANING,
            **values,
        )
    )


def source(name: str) -> str:
    """A style sheet or script of this folder.

    Args:
        name: of the file.

    Returns:
        Its text.
    """
    return files("monai_ifim.report.html").joinpath(name).read_text(encoding="utf-8")


def number(value: float) -> str:
    """A number with three digits.

    >>> number(0.12345), number(float("nan"))
    ('0.123', '–')
    """
    return f"{value:.3g}" if math.isfinite(value) else "–"


def share(value: float, whole: float) -> float:
    """A part of a whole from 0 to 1; 0 where there is none."""
    found = value / whole if whole and math.isfinite(whole) else 0.0
    return min(max(found, 0.0), 1.0) if math.isfinite(found) else 0.0


def percent(value: float, whole: float) -> str:
    """A part of a whole in per cent.

    >>> percent(1, 3), percent(1, 0)
    ('33.3 %', '–')
    """
    known = math.isfinite(value) and math.isfinite(whole) and whole
    return f"{100 * value / whole:.3g} %" if known else "–"


def json_script(name: str, value: Any) -> str:
    """A script that sets a global variable, for a file of its own.

    Args:
        name: of the variable.
        value: for JSON.

    Returns:
        JavaScript.
    """
    return f"window.{name} = {_json(value)};\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("monai_ifim.report.html", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda v: "\n".join(map(printable, v.split("\n"))) if type(v) is str else v,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number, share=share, percent=percent)
    return environment


def _json(value: Any) -> str:
    """JSON that ends no script, whatever texts are in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _inline(text: str) -> str:
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--").strip()


def _hashes(texts: list[str]) -> str:
    digests = (hashlib.sha256(text.encode("utf-8")).digest() for text in texts)
    found = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
    return found or "'none'"
