"""The shell of every page that is sent to somebody: one HTML file, nothing outside it, nothing inside that can run.

Texts on a page come from models and strangers. Jinja2 escapes every one of them; data for the page's own script is JSON
in which `<`, `>`, `&` and `'` are escaped, so that no `</script>` ends it; and the Content-Security-Policy allows that
one script by its digest and no request at all. Invisible and reordering characters are spelled out.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from weighted_mtp.files import atomic_file
from weighted_mtp.report.token_page import visible

_SHELL = files("weighted_mtp.report") / "templates"


def write(path: Path, template: str, values: Mapping[str, Any]) -> Path:
    """Render `templates/<template>` with `values` and write it whole; returns the path."""
    with atomic_file(path) as partial:
        partial.write_text(render(template, values), encoding="utf-8")
    return path


def render(template: str, values: Mapping[str, Any]) -> str:
    """The page as text. A value that the template needs and `values` lacks is an error."""
    script = (_SHELL / "programs.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup((_SHELL / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("weighted_mtp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
