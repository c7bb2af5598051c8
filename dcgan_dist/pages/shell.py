"""What every page is made of: one document with its style, script and data, its sections and controls.

A page's policy lets nothing but its own script and style run, by their hashes, and loads nothing.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Any

from dcgan_dist import __version__


def document(
    *, title: str, kind: str, header: str, main: str, data: Mapping[str, Any], body_class: str, footer: str
) -> str:
    """The whole page.

    Args:
        title: of the window, as text.
        kind: of the page, above its heading, as text.
        header: as HTML.
        main: its sections, as HTML.
        data: what report.js draws.
        body_class: class of the body.
        footer: what was left out, as text.
    """
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body class="{body_class}">
<header>
<p class="kind">dcgan_dist: {escape(kind)}</p>
{header}
<noscript><p class="note">Curves and pictures are drawn by the page's own script, which is turned off.</p></noscript>
</header>
<main>
{main}
</main>
{_player() if len(data["steps"]) > 1 else ""}
<footer>Written by dcgan_dist {escape(__version__)} on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC.
{escape(footer)}</footer>
<script type="application/json" id="report-data">{_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def section(name: str, title: str, *, inside: str) -> str:
    """A part of the page, with its heading."""
    return f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{inside}</section>'


def links(titles: Mapping[str, str]) -> str:
    """Links to sections, of which ``titles`` has names and titles."""
    inside = "".join(f'<a href="#{name}">{title}</a>' for name, title in titles.items())
    return f'<nav aria-label="Sections">{inside}</nav>'


def chart_places(name: str) -> str:
    """Where report.js puts the charts of a section."""
    return f'<div class="charts" data-section="{name}"></div>'


def toolbar() -> str:
    """How curves are drawn."""
    return """<form class="toolbar" id="toolbar" aria-label="How curves are drawn">
<label><input type="checkbox" id="log"> log scale</label>
<label>smoothing <input type="range" id="smoothing" min="0" max="0.99" step="0.01" value="0.6">
<output id="smoothing-value" for="smoothing">0.60</output></label>
<label id="axis-choice" hidden>over <select id="axis"><option value="steps">steps</option>
<option value="images">real images seen</option></select></label>
</form>"""


def _player() -> str:
    return """<div class="player" role="group" aria-label="Step of samples and histograms">
<button type="button" id="play" aria-label="Play">&#9654;</button>
<input type="range" id="position" min="0" aria-label="Step">
<output id="position-value" for="position"></output>
</div>"""


def _asset(name: str) -> str:
    return files("dcgan_dist.pages").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Any) -> str:
    """JSON that no HTML parser takes for markup."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
