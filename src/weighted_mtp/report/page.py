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
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from weighted_mtp.files import atomic_file

Script = Literal["programs.js", "tokens.js"]

TAB = "    "
_SHELL = files("weighted_mtp.report") / "templates"


def visible(text: str) -> str:
    """The text with tabs as spaces, and everything else that has no glyph (NUL, ESC, bidi overrides) spelled out."""
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown) if "\t" not in text else visible(text.replace("\t", TAB))


def write_html(path: Path, template: str, values: Mapping[str, Any], script: Script | None = None) -> Path:
    """Render `templates/<template>` with `values` and write it whole; returns the path."""
    with atomic_file(path) as partial:
        partial.write_text(render(template, values, script), encoding="utf-8")
    return path


def render(template: str, values: Mapping[str, Any], script: Script | None = None) -> str:
    """The page as text. A value that the template needs and `values` lacks is an error.

    script  the only one that the page may run
    """
    code = (_SHELL / script).read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup((_SHELL / "page.css").read_text(encoding="utf-8")),
            script=Markup(code),
            allowed=f"'sha256-{digest}'" if script else "'none'",
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
