"""The page: text and tables as HTML; curves, pictures and histograms as data that report.js draws.

Every text of a run passes through ``escape`` or, as JSON, reaches the page by ``textContent`` alone. The page's policy
lets nothing but its own script and style run, by their hashes, and loads nothing.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from importlib.resources import files
from typing import Any

from dcgan_dist import __version__
from dcgan_dist.config import TrainConfig, leaves
from dcgan_dist.pages.charts import SECTIONS, charts, points
from dcgan_dist.pages.embed import Pictures
from dcgan_dist.pages.gather import Run
from dcgan_dist.pages.measures import GROUPS, Cell, Measure, measures
from dcgan_dist.pictures import HISTOGRAM_LABELS, histogram_counts
from dcgan_dist.records import evenly

HISTOGRAMS = 120
"""At most this many score histograms of all runs together, spread evenly over each."""
OF_THE_MACHINE = {
    "data",
    "loader",
    "workers",
    "cache_dir",
    "cache_gigabytes",
    "threads",
    "timeout",
    "tracker",
    "project",
}
"""Settings that say where a run ran, not what it computed: a difference is shown but not marked."""
STATES = {"running": "running", "done": "done", "stopped": "stopped", "failed": "failed"}
"""The states of status.json, which are CSS classes too."""


def page(runs: Sequence[Run], pictures: Pictures) -> str:
    """The whole page, of everything that was found."""
    drawn = charts(runs)
    shown = [_histograms(run, max(2, HISTOGRAMS // len(runs))) for run in runs]
    grids = [[step for step, _ in of_run] for of_run in pictures.grids]
    data = {
        "runs": [
            {
                "name": run.name,
                "batch_size": run.config.images.batch_size if run.config else None,
                "curves": curves,
                "grids": of_run,
                "histograms": rows,
            }
            for run, curves, of_run, rows in zip(runs, points(runs, drawn), pictures.grids, shown, strict=True)
        ],
        "pictures": pictures.uris,
        "factor": pictures.factor,
        "steps": sorted({*(step for of_run in grids for step in of_run), *(row["step"] for of in shown for row in of)}),
        "charts": [
            {"title": chart.title, "section": chart.section, "lines": [vars(line) for line in chart.lines]}
            for chart in drawn
        ],
        "histograms": HISTOGRAM_LABELS,
    }
    in_sections = {chart.section for chart in drawn}
    sections = {
        "samples": ("Samples", _samples(runs, pictures)),
        "numbers": ("Numbers", _numbers(runs)),
        "game": (SECTIONS["game"], _charts("game") if "game" in in_sections else ""),
        "histograms": ("Score histograms", _histogram_places(runs, shown)),
        "quality": (SECTIONS["quality"], _charts("quality") if "quality" in in_sections else ""),
        "collapse": (SECTIONS["collapse"], _charts("collapse") if "collapse" in in_sections else ""),
        "speed": (SECTIONS["speed"], _charts("speed") if "speed" in in_sections else ""),
        "settings": ("Settings", _settings(runs)),
        "environment": ("Environment", _environment(runs)),
    }
    there = {name: found for name, found in sections.items() if found[1]}
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    heading = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    style, script = _asset("report.css"), _asset("report.js")
    body = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{text}</h2>{inside}</section>'
        for name, (text, inside) in there.items()
    )
    links = "".join(f'<a href="#{name}">{text}</a>' for name, (text, _) in there.items())
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
<body>
<header>
<p class="kind">dcgan_dist report</p>
<h1>{escape(heading)}</h1>
<div class="cards">{"".join(_card(runs, place) for place in range(len(runs)))}</div>
<nav aria-label="Sections">{links}</nav>
<noscript><p class="note">Curves, pictures and histograms are drawn by the page's own script, which is turned off.</p></noscript>
</header>
<main>
{_toolbar() if drawn else ""}
{body}
</main>
{_player() if len(data["steps"]) > 1 else ""}
<footer>Written by dcgan_dist {escape(__version__)} on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC.
{escape(_thinned(runs, pictures, data))}</footer>
<script type="application/json" id="report-data">{_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return files("dcgan_dist.pages").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Any) -> str:
    """JSON that no HTML parser takes for markup."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _histograms(run: Run, limit: int) -> list[dict[str, Any]]:
    rows = [run.histograms[i] for i in evenly(len(run.histograms), limit)]
    return [{"step": row["step"], "edges": row["edges"], "counts": histogram_counts(row)} for row in rows]


def _card(runs: Sequence[Run], place: int) -> str:
    """What one sees first of a run: its name and state, how far it came, and what sets it apart."""
    run, several = runs[place], len(runs) > 1
    facts: dict[str, str] = {}
    config = run.config
    if run.last_step is not None:
        total = config.max_steps if config else None
        facts["steps"] = f"{run.last_step:,}" + (f" of {total:,}" if total and total != run.last_step else "")
        if config:
            facts["real images seen"] = f"{run.last_step * config.images.batch_size:,}"
    if run.seconds:
        pace = run.seconds / max(1, run.last_step or 0) * 1000
        facts["time"] = f"{timedelta(seconds=round(run.seconds))}, {pace:.1f} ms a step"
    if run.environment.get("device"):
        facts["device"] = f"{run.environment.get('world_size', '1')} x {run.environment['device']}"
    if config:
        facts["network"] = f"{config.network.model}, {config.network.image_size} x {config.network.image_size}"
    apart = _apart(runs)
    for name in apart if several else ("batch_size", "lr", "seed"):
        if name in run.settings:
            facts[name] = run.settings[name]
    swatch = f'<span class="swatch c{place % 8}"></span>'
    name = f'<span class="name">{escape(run.name)}</span>'
    heading = (
        f'<label><input type="checkbox" class="show-run" data-run="{place}" checked>{swatch}{name}</label>'
        if several
        else f"<span>{escape(run.recipe_name or 'run')}</span>"
    )
    state = f'<span class="state {STATES.get(run.state, "")}">{escape(run.state or "no status")}</span>'
    reason = f'<p class="reason">{escape(run.reason)}</p>' if run.reason else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in run.notes)
    if not run.curves:
        notes = '<p class="note">This run has no metrics yet.</p>' + notes
    listed = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    return f'<article class="card"><h3>{heading}{state}</h3>{reason}<dl>{listed}</dl>{notes}</article>'


def _apart(runs: Sequence[Run]) -> list[str]:
    """The settings, but those of the machine, that are not the same in all runs."""
    names = [name for name, _ in leaves(TrainConfig())]
    return [name for name in names if name not in OF_THE_MACHINE and len({run.settings.get(name) for run in runs}) > 1]


def _toolbar() -> str:
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


def _samples(runs: Sequence[Run], pictures: Pictures) -> str:
    """Places for the grids of each run and for the real images, of which equal ones are shown once."""
    figures = []
    for place, run in enumerate(runs):
        if pictures.grids[place]:
            name = f'<span class="swatch c{place % 8}"></span>{escape(run.name)}, ' if len(runs) > 1 else "generated, "
            figures.append(
                f'<figure class="grid" data-run="{place}"><figcaption>{name}<span class="at"></span></figcaption>'
                f'<img alt=""></figure>'
            )
    for picture in dict.fromkeys(found for found in pictures.reals if found is not None):
        owners = [run.name for run, found in zip(runs, pictures.reals, strict=True) if found == picture]
        of = "" if len(owners) == len(runs) else f" of {escape(', '.join(owners))}"
        figures.append(
            f'<figure class="reals" data-picture="{picture}"><figcaption>real images{of}</figcaption>'
            f'<img alt="real images as the networks see them"></figure>'
        )
    return f'<div class="grids">{"".join(figures)}</div>' if figures else ""


def _charts(section: str) -> str:
    return f'<div class="charts" data-section="{section}"></div>'


def _histogram_places(runs: Sequence[Run], shown: Sequence[Sequence[Any]]) -> str:
    figures = "".join(
        f'<figure class="histogram" data-run="{place}"><figcaption>'
        + (f'<span class="swatch c{place % 8}"></span>{escape(run.name)}, ' if len(runs) > 1 else "")
        + '<span class="at"></span></figcaption></figure>'
        for place, (run, rows) in enumerate(zip(runs, shown, strict=True))
        if rows
    )
    lead = "<p>How the discriminator scores images; apart is told apart. The slider below moves the step.</p>"
    return f'{lead}<div class="charts">{figures}</div>' if figures else ""


def _numbers(runs: Sequence[Run]) -> str:
    found = measures(runs)
    if not found:
        return ""
    single = len(runs) == 1
    head = ["measure", *(["last", "best", "floor"] if single else [run.name for run in runs])]
    if single and not any(cell and cell.floor is not None for measure in found for cell in measure.cells):
        head.remove("floor")
    if single and not any(measure.better for measure in found):
        head.remove("best")
    rows = []
    for group, title in GROUPS.items():
        of_group = [measure for measure in found if measure.group == group]
        if of_group:
            rows.append(f'<tr class="group"><th colspan="{len(head)}" scope="rowgroup">{title}</th></tr>')
        rows += [_single(measure, head) if single else _several(measure) for measure in of_group]
    lead = (
        "<p>Best: over all evaluations. Floor: the same number between two halves of the data, the best one can hope for.</p>"
        if any(measure.better for measure in found)
        else ""
    )
    return lead + _table(head, rows)


def _single(measure: Measure, head: Sequence[str]) -> str:
    cell = measure.cells[0]
    assert cell is not None
    columns = {
        "last": _last(cell),
        "best": "" if cell.best is None else f"{_number(cell.best)} <small>at {cell.best_step:,}</small>",
        "floor": "" if cell.floor is None else _number(cell.floor),
    }
    return f"<tr>{_name(measure)}{''.join(f'<td>{columns[name]}</td>' for name in head[1:])}</tr>"


def _several(measure: Measure) -> str:
    cells = []
    for place, cell in enumerate(measure.cells):
        if cell is None:
            cells.append(f'<td data-run="{place}">&ndash;</td>')
            continue
        lines = [_last(cell)]
        if cell.best is not None:
            lines.append(f"<small>best {_number(cell.best)} at {cell.best_step:,}</small>")
        if cell.floor is not None:
            lines.append(f"<small>floor {_number(cell.floor)}</small>")
        won = ' class="won" title="the best of these runs"' if place in measure.winners else ""
        cells.append(f'<td data-run="{place}"{won}>{"<br>".join(lines)}</td>')
    return f"<tr>{_name(measure)}{''.join(cells)}</tr>"


def _name(measure: Measure) -> str:
    way = f" <small>{measure.better} is better</small>" if measure.better else ""
    return f'<th scope="row">{escape(measure.name)}{way}</th>'


def _last(cell: Cell) -> str:
    return _number(cell.last) + ("" if cell.deviation is None else f" &plusmn; {_number(cell.deviation)}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def _settings(runs: Sequence[Run]) -> str:
    """Every setting that is not as in the recipe, or not the same in all runs; the others on demand."""
    if not any(run.settings for run in runs):
        return ""
    apart, rows = _apart(runs), []
    for name, _ in leaves(TrainConfig()):
        if not any(name in run.settings for run in runs):
            continue
        cells, other = [], name in apart
        for place, run in enumerate(runs):
            value, recipe = run.settings.get(name), run.recipe.get(name)
            marked = bool(run.settings) and value != recipe and name not in OF_THE_MACHINE and name != "recipe"
            other = other or marked
            was = f"<br><small>{escape(run.recipe_name)}: {escape(recipe or 'none')}</small>" if marked else ""
            cells.append(
                f'<td data-run="{place}"{" class=differs" if marked else ""}>{escape(value or "–")}{was}</td>'  # noqa: RUF001
            )
        kind = " ".join(["other" if other else "usual", *(["apart"] if name in apart else [])])
        rows.append(f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    compared = " or ".join(dict.fromkeys(run.recipe_name for run in runs if run.recipe_name))
    several = " or between the runs" if len(runs) > 1 else ""
    return (
        f"<p>Marked: not as in {escape(compared)}.</p>"
        f'<p><label><input type="checkbox" id="all-settings"> show the settings too that differ neither from it{several}</label></p>'
        + _table(["setting", *([run.name for run in runs] if several else ["value"])], rows, identity="settings-table")
    )


def _environment(runs: Sequence[Run]) -> str:
    names = dict.fromkeys(name for run in runs for name in run.environment)
    rows = []
    for name in names:
        values = [run.environment.get(name, "–") for run in runs]  # noqa: RUF001
        cells = "".join(f'<td data-run="{place}">{escape(value)}</td>' for place, value in enumerate(values))
        apart = ' class="apart"' if len(set(values)) > 1 else ""
        rows.append(f'<tr{apart}><th scope="row">{escape(name)}</th>{cells}</tr>')
    return _table(["fact", *([run.name for run in runs] if len(runs) > 1 else ["value"])], rows) if rows else ""


def _table(head: Sequence[str], rows: Sequence[str], *, identity: str = "") -> str:
    """A table that scrolls inside the page when it is wider, with the keyboard too."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    named = f' id="{identity}"' if identity else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table{named}><thead><tr>{columns}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _thinned(runs: Sequence[Run], pictures: Pictures, data: Any) -> str:
    """What was left out of the page, in words."""
    said = []
    for run, kept in zip(runs, pictures.grids, strict=True):
        if len(kept) < len(run.grids):
            said.append(f"{run.name}: {len(kept)} of {len(run.grids)} sample grids are here.")
    if any("m" in curve for run in data["runs"] for curve in run["curves"].values()):
        said.append("Long curves are thinned: of neighbouring rows the least and the largest are here.")
    return " ".join(said)
