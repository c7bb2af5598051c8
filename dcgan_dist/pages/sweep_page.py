"""The page about a sweep: text and tables as HTML; plots, curves and pictures as data that report.js draws."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

from dcgan_dist.pages.charts import SECTIONS
from dcgan_dist.pages.embed import Pictures, embedded
from dcgan_dist.pages.shell import chart_places, document, links, section, toolbar
from dcgan_dist.pages.sweep_plots import heat_map, mean_curves, measures_data, parameter_plots
from dcgan_dist.pages.sweep_tables import cost_table, measures_table, result, runs_table
from dcgan_dist.pages.tables import swatch
from dcgan_dist.records import evenly
from dcgan_dist.results.gather import Run
from dcgan_dist.results.measures import meaning
from dcgan_dist.results.sweep_summary import Summary
from dcgan_dist.results.trials import Setting
from dcgan_dist.words import counted

GRIDS = 6
"""At most this many sample grids of a run, spread evenly over it."""
ALL_GRIDS = 360
"""At most about this many of all runs."""

CHARTED = ("quality", "collapse", "game", "speed")
"""The keys of SECTIONS, what a sweep is about first."""


def sweep_page(summary: Summary) -> str:
    """The whole page.

    Raises:
        ValueError: when the sample grids do not fit into one page.
    """
    runs = [trial.run for trial in summary.trials if trial.run]
    pictures = _pictures(runs)
    drawn, curves = mean_curves(summary)
    data: dict[str, Any] = {
        "runs": [
            *(
                {
                    "name": setting.name,
                    "batch_size": _batch_size(summary, setting),
                    "curves": of_setting,
                    "grids": [],
                    "histograms": [],
                }
                for setting, of_setting in zip(summary.settings, curves, strict=True)
            ),
            *(
                {"name": run.name, "batch_size": None, "curves": {}, "grids": grids, "histograms": []}
                for run, grids in zip(runs, pictures.grids, strict=True)
            ),
        ],
        "pictures": pictures.uris,
        "factor": pictures.factor,
        "steps": sorted({step for of_run in pictures.grids for step, _ in of_run}),
        "charts": [{**vars(chart), "lines": [vars(line) for line in chart.lines]} for chart in drawn],
        "histograms": {},
        "settings": [setting.name for setting in summary.settings],
        "measures": measures_data(summary),
        "plots": parameter_plots(summary),
        "heat": heat_map(summary),
    }
    charted = {name: chart_places(name) for name in CHARTED if any(chart.section == name for chart in drawn)}
    sections: dict[str, tuple[str, str]] = {
        "result": ("Result", result(summary)),
        "parameters": ("Parameters", _parameters(summary)),
        "samples": ("Samples", _samples(summary, pictures)),
        **{name: (SECTIONS[name], inside) for name, inside in charted.items() if name != "speed"},
        "measures": ("All measures", measures_table(summary)),
        "cost": ("Throughput and cost", cost_table(summary) + charted.get("speed", "") if runs else ""),
        "points": ("Runs", runs_table(summary)),
    }
    there = {name: found for name, found in sections.items() if found[1]}
    first = next((name for name in there if name in charted), None)
    before = {"samples" if "samples" in there else first: _shown(summary)}
    before[first] = before.get(first, "") + toolbar()
    main = [before.get(name, "") + section(name, title, inside=inside) for name, (title, inside) in there.items()]
    return document(
        title=f"Sweep {summary.sweep.name}",
        kind="report of a sweep",
        header=_header(summary) + links({name: title for name, (title, _) in there.items()}),
        main="\n".join(main),
        data=data,
        body_class="several",
        footer=_thinned(runs, pictures),
    )


def _pictures(runs: Sequence[Run]) -> Pictures:
    """Grids of every run, and the real images of the first that has them."""
    limit = max(1, min(GRIDS, ALL_GRIDS // len(runs)))
    fewer = [replace(run, grids=[run.grids[i] for i in evenly(len(run.grids), limit)]) for run in runs]
    first = next((place for place, run in enumerate(runs) if run.directory.reals.exists()), None)
    return embedded(fewer, reals_of=() if first is None else (first,))


def _batch_size(summary: Summary, setting: Setting) -> int | None:
    configs = [trial.run.config for trial in summary.trials_of(setting) if trial.run and trial.run.config]
    return configs[0].images.batch_size if configs else None


def _header(summary: Summary) -> str:
    """What one sees first: how much of the sweep is done, what is compared, with what, when."""
    states = [trial.state for trial in summary.trials]
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "done"]
    metric = summary.metric
    words = meaning(metric.name)
    at = f"{metric.at:,} real images seen" if summary.is_by_images else f"step {metric.at:,}"
    facts = {
        "runs": f"{states.count('done')} of {len(states)} done" + "".join(f", {other}" for other in others),
        "settings": f"{len(summary.settings)}: {', '.join(summary.parameters) or 'no parameter varies'}",
        "metric": f"{metric.name}{f' ({words})' if words else ''}, {metric.better or 'neither way'} is better",
        "compared at": at,
        "baseline": f"{summary.baseline.name} ({summary.baseline_reason})",
    }
    best = [summary.settings[place].name for place in sorted(metric.best)]
    if best:
        facts["best mean"] = " and ".join(best)
    listed = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    of_runs = [f"{trial.point}: {note}." for trial in summary.trials if trial.run for note in trial.run.notes]
    said = [*_conditions(summary), *summary.notes, *of_runs]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in said)
    name = escape(summary.sweep.name)
    return f'<h1>{name}</h1><article class="card facts"><dl>{listed}</dl></article>{notes}'


def _conditions(summary: Summary) -> list[str]:
    """What one has to know to read the numbers."""
    said = []
    left_out = [trial for trial in summary.trials if not trial.is_counted]
    if left_out:
        said.append(f"{len(left_out)} of {counted(len(summary.trials), 'run')} are in no mean: see Runs.")
    if summary.metric.cells[summary.baseline.place] is None:
        said.append(
            "The baseline has no value of the metric, so nothing is compared with it: --baseline chooses another."
        )
    if len({_batch_size(summary, setting) for setting in summary.settings} - {None}) > 1 and not summary.is_by_images:
        said.append("batch_size varies: equal steps are not equal images seen. --images N compares at equal images.")
    ends = {trial.run.last_step or 0 for trial in summary.trials if trial.run and trial.is_counted}
    if len(ends) > 1 and not summary.is_by_images:
        said.append(
            f"Runs have {min(ends):,} to {max(ends):,} steps, and the metric is compared at step "
            f"{summary.metric.at:,}: what longer runs gain after it is in the curves alone."
        )
    seeds = {len(summary.trials_of(setting)) for setting in summary.settings}
    if max(seeds) < 2:
        said.append("One seed says nothing of chance: intervals and tests need two seeds or more.")
    elif max(seeds) < 5:
        said.append(f"Intervals over {max(seeds)} seeds are wide: only large differences can be shown.")
    return said


def _parameters(summary: Summary) -> str:
    if not summary.parameters:
        return ""
    return (
        '<form id="measure-choice"><label>measure <select id="measure"></select></label></form>'
        "<p>Small: each seed. Large: the mean, with its 95% interval. Dashed: the floor, the same number between two "
        "halves of the data.</p>"
        '<div class="charts" id="plots"></div><div id="heat"></div>'
    )


def _shown(summary: Summary) -> str:
    """The settings, each with its colour and a box that hides its samples and curves."""
    boxes = "".join(
        f'<label><input type="checkbox" class="show-run" data-run="{setting.place}" checked>{swatch(setting.place)}'
        f"{escape(setting.name)}</label>"
        for setting in summary.settings
    )
    return (
        f'<section class="shown" aria-label="Settings that are drawn">{boxes}'
        "<p>Curves are means over the seeds that are compared; a band is from the least to the largest of them.</p>"
        "</section>"
    )


def _samples(summary: Summary, pictures: Pictures) -> str:
    """Places for grids: a row for each setting, its seeds side by side; the real images for comparison."""
    places = {trial.point: place for place, trial in enumerate(trial for trial in summary.trials if trial.run)}
    rows = []
    for setting in summary.settings:
        trials = summary.trials_of(setting, all_states=True)
        if not any(trial.point in places and pictures.grids[places[trial.point]] for trial in trials):
            continue
        figures = ""
        for trial in trials:
            state = "" if trial.is_counted else f", {escape(trial.state)}"
            seed = f"seed {escape(trial.seed)}" if trial.seed else "samples"
            place = places.get(trial.point)
            if place is None or not pictures.grids[place]:  # its place in the row stays empty
                figures += f"<figure><figcaption>{seed}{state or ', no grid'}</figcaption></figure>"
                continue
            figures += (
                f'<figure class="grid" data-run="{len(summary.settings) + place}">'
                f'<figcaption>{seed}, <span class="at"></span>{state}</figcaption><img alt=""></figure>'
            )
        rows.append(
            f'<div class="seeds" data-setting="{setting.place}"><h3>{swatch(setting.place)}{escape(setting.name)}'
            f'</h3><div class="grids">{figures}</div></div>'
        )
    reals = next((picture for picture in pictures.reals if picture is not None), None)
    if rows and reals is not None:
        rows.append(
            f'<div class="seeds"><h3>real images</h3><div class="grids"><figure class="reals" data-picture="{reals}">'
            '<img alt="real images as the networks see them"></figure></div></div>'
        )
    return "".join(rows)


def _thinned(runs: Sequence[Run], pictures: Pictures) -> str:
    """What was left out of the page, in words."""
    here = sum(len(grids) for grids in pictures.grids)
    there = sum(len(run.grids) for run in runs)
    return f"{here} of {there} sample grids are here." if here < there else ""
