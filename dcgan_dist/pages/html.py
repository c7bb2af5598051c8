"""The page about runs: text and tables as HTML; curves, pictures and histograms as data that report.js draws.

Every text of a run passes through ``escape`` or, as JSON, reaches the page by ``textContent`` alone.
"""

from collections.abc import Sequence
from datetime import timedelta
from html import escape
from typing import Any

from dcgan_dist.config import LENGTHS
from dcgan_dist.pages.charts import SECTIONS, charts, points
from dcgan_dist.pages.collapse import alarms, panel
from dcgan_dist.pages.embed import Pictures
from dcgan_dist.pages.shell import chart_places, document, links, section, toolbar
from dcgan_dist.pages.tables import environment, numbers, settings, swatch
from dcgan_dist.pictures import HISTOGRAM_LABELS, histogram_counts
from dcgan_dist.records import evenly
from dcgan_dist.results.gather import STATES, Run, apart
from dcgan_dist.words import counted

HISTOGRAMS = 120
"""At most this many score histograms of all runs together, spread evenly over each."""
DATA_SETTINGS = ("data", "image_size", "channels", "classes", "subset_size")
"""Runs that agree in these learn from the same images."""
_FIRST = (("samples", "numbers"), ("settings", "environment"))
"""Sections that a page of one run begins with; the latter stand beside the numbers."""


def page(runs: Sequence[Run], pictures: Pictures) -> str:
    """The whole page, of everything that was found."""
    drawn = charts(runs)
    shown = [_histograms(run, max(2, HISTOGRAMS // len(runs))) for run in runs]
    grids = [[step for step, _ in of_run] for of_run in pictures.grids]
    steps = sorted({*(step for of_run in grids for step in of_run), *(row["step"] for of in shown for row in of)})
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
        "steps": steps,
        "charts": [{**vars(chart), "lines": [vars(line) for line in chart.lines]} for chart in drawn],
        "histograms": HISTOGRAM_LABELS,
    }
    charted = {name: chart_places(name) if any(chart.section == name for chart in drawn) else "" for name in SECTIONS}
    charted["collapse"] = panel(runs, pictures, charts=charted["collapse"])
    sections = {
        "samples": ("Samples", _samples(runs, pictures)),
        "numbers": ("Numbers", numbers(runs)),
        "settings": ("Settings", settings(runs)),
        "game": (SECTIONS["game"], charted["game"]),
        "histograms": ("Score histograms", _histogram_places(runs, shown)),
        **{name: (title, charted[name]) for name, title in SECTIONS.items() if name != "game"},
        "environment": ("Environment", environment(runs)),
    }
    if len(runs) == 1:  # room for it beside the numbers
        sections = {name: sections[name] for names in _FIRST for name in names} | sections
    there = {name: found for name, found in sections.items() if found[1]}
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    heading = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    first_charts = drawn[0].section if drawn else None
    written = {
        name: (toolbar() if name == first_charts else "") + section(name, text, inside=inside)
        for name, (text, inside) in there.items()
    }
    if len(runs) == 1:
        first, side = ["".join(written.pop(name, "") for name in names) for names in _FIRST]
        written = {"first": first, "side": f'<div class="side">{side}</div>', **written}
    header = (
        f"<h1>{escape(heading)}</h1>"
        f'<div class="cards">{"".join(_card(runs, place) for place in range(len(runs)))}</div>'
        + links({name: text for name, (text, _) in there.items()})
    )
    return document(
        title=title,
        kind=f"report of {counted(len(runs), 'run')}",
        header=header,
        main="\n".join(written.values()),
        body_class="one" if len(runs) == 1 else "several",
        footer=_thinned(runs, pictures, data),
        data=data,
    )


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
    if run.account:
        facts["throughput"] = run.account.speed()
        facts["of the time"] = run.account.division()
    elif share := run.curves.get("time/eval_share"):
        facts["of it for evaluations"] = f"{100 * share[1][-1]:.1f} %"
    if alarms(run):
        facts["collapse"] = alarms(run)
    if run.environment.get("device"):
        facts["device"] = f"{run.environment.get('world_size', '1')} x {run.environment['device']}"
    if config and not several:
        facts["network"] = f"{config.network.model}, {config.network.image_size} x {config.network.image_size}"
    names = [name for name in apart(runs) if name not in LENGTHS]
    for name in names if several else ("batch_size", "lr", "seed"):
        if name in run.settings:
            facts[name] = run.settings[name]
    name = f'<span class="name">{escape(run.name)}</span>'
    heading = (
        f'<label><input type="checkbox" class="show-run" data-run="{place}" checked>{swatch(place)}{name}</label>'
        if several
        else f"<span>{escape(run.recipe_name or 'run')}</span>"
    )
    state = f'<span class="state {run.state if run.state in STATES else ""}">{escape(run.state or "no status")}</span>'
    reason = f'<p class="reason">{escape(run.reason)}</p>' if run.reason else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in run.notes)
    if not run.curves:
        notes = '<p class="note">This run has no metrics yet.</p>' + notes
    listed = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    return f'<article class="card"><h3>{heading}{state}</h3>{reason}<dl>{listed}</dl>{notes}</article>'


def _samples(runs: Sequence[Run], pictures: Pictures) -> str:
    """Places for the grids of each run and for the real images, shown once for each data set."""
    figures = []
    for place, run in enumerate(runs):
        if pictures.grids[place]:
            name = f"{swatch(place)}{escape(run.name)}, " if len(runs) > 1 else "generated, "
            figures.append(
                f'<figure class="grid" data-run="{place}"><figcaption>{name}<span class="at"></span></figcaption>'
                f'<img alt=""></figure>'
            )
    owners: dict[str, list[int]] = {}  # by their data: runs of other seeds show other images of the same
    for place, run in enumerate(runs):
        if pictures.reals[place] is not None:
            owners.setdefault(" ".join(run.settings.get(name, "") for name in DATA_SETTINGS), []).append(place)
    for places in owners.values():
        names = escape(", ".join(runs[place].name for place in places))
        of = "" if len(owners) == 1 else f" of {names}"
        figures.append(
            f'<figure class="reals" data-picture="{pictures.reals[places[0]]}"><figcaption>real images{of}</figcaption>'
            f'<img alt="real images as the networks see them"></figure>'
        )
    return f'<div class="grids">{"".join(figures)}</div>' if figures else ""


def _histogram_places(runs: Sequence[Run], shown: Sequence[Sequence[Any]]) -> str:
    figures = "".join(
        f'<figure class="histogram" data-run="{place}"><figcaption>'
        + (f"{swatch(place)}{escape(run.name)}, " if len(runs) > 1 else "")
        + '<span class="at"></span></figcaption></figure>'
        for place, (run, rows) in enumerate(zip(runs, shown, strict=True))
        if rows
    )
    lead = "<p>How the discriminator scores images; apart is told apart. The slider below moves the step.</p>"
    return f'{lead}<div class="charts">{figures}</div>' if figures else ""


def _thinned(runs: Sequence[Run], pictures: Pictures, data: Any) -> str:
    """What was left out of the page, in words."""
    said = []
    for run, kept in zip(runs, pictures.grids, strict=True):
        if len(kept) < len(run.grids):
            said.append(f"{run.name}: {len(kept)} of {len(run.grids)} sample grids are here.")
    if any("m" in curve for run in data["runs"] for curve in run["curves"].values()):
        said.append("Long curves are thinned: of neighbouring rows the least and the largest are here.")
    return " ".join(said)
