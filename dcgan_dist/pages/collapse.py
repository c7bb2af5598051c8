"""The panel on collapse: what its score says, which colours of the data the samples reach, whether they are copies."""

import colorsys
from collections.abc import Sequence
from html import escape

from dcgan_dist.collapse.colours import ColourMode
from dcgan_dist.collapse.score import ALARM
from dcgan_dist.pages.embed import Pictures
from dcgan_dist.pages.tables import swatch
from dcgan_dist.results.gather import Run
from dcgan_dist.results.measures import collapse_score

LISTED_ALARMS = 6
"""Of more, the first and the last are named."""
GREY_SATURATION, PALE_SATURATION = 0.1, 0.3
"""Below the one, no hue is seen; below the other, little of it."""
SWATCH_VALUE = 0.9
"""Brightness of a swatch, of 1, where the mode is one of hue and saturation."""
HUES = {15: "red", 45: "orange", 65: "yellow", 90: "yellow-green", 160: "green", 200: "cyan", 255: "blue"} | {
    290: "violet",
    345: "pink",
    361: "red",
}
"""Names of hues below so many degrees."""


def panel(runs: Sequence[Run], pictures: Pictures, *, charts: str) -> str:
    """All of the section: verdicts, ``charts``, colours, nearest images; each that there is."""
    colours, nearest = _colours(runs), _nearest(runs, pictures)
    together = [colours + nearest] if len(runs) == 1 else [colours, nearest]
    return _verdicts(runs) + charts + "".join(f'<div class="grids">{figures}</div>' for figures in together if figures)


def alarms(run: Run) -> str:
    """When there were alarms, in words; empty when collapse was not measured."""
    steps = [f"{step:,}" for step in run.alarms]
    if not steps:
        return "no alarm" if collapse_score(run) else ""
    if len(steps) == 1:
        return f"alarm at step {steps[0]}"
    if len(steps) > LISTED_ALARMS:
        return f"{len(steps)} alarms, the first at step {steps[0]}, the last at step {steps[-1]}"
    return f"{len(steps)} alarms, at steps {', '.join(steps[:-1])} and {steps[-1]}"


def _verdicts(runs: Sequence[Run]) -> str:
    """What the score says of each run."""
    found = []
    for place, run in enumerate(runs):
        score = collapse_score(run)
        if score is None:
            continue
        steps, values = score
        kind, more = "alarmed" if run.alarms else "calm", ""
        if values[-1] >= ALARM and run.alarms:
            more = ", as high as that of an alarm"
        elif values[-1] >= ALARM:
            kind, more = "waiting", f", as high as every run begins; no alarm before it has been below {ALARM}"
        said = alarms(run)
        found.append(
            f'<p class="verdict {kind}" data-run="{place}">{_whose(runs, place)}'
            f"<strong>{said[0].upper()}{said[1:]}.</strong> "
            f"The score is {values[-1]:.3g} at step {steps[-1]:,}{more}.</p>"
        )
    lead = (
        "<p>The score says how much variety samples lack: 0 is as varied as held-out data, 1 is one image over and "
        f"over. {ALARM} and more is an alarm, once it has been below.</p>"
    )
    return "".join([*found, lead]) if found else ""


def _colours(runs: Sequence[Run]) -> str:
    """For each run a table of the data's colours: their share of the data and of the samples."""
    longest = max((max(mode.data_share, mode.sample_share) for run in runs for mode in run.colours), default=0)
    figures = []
    for place, run in enumerate(runs):
        if not run.colours:
            continue
        reached = sum(mode.reached for mode in run.colours)
        kind = "colours" if run.colours[0].brightness is None else "brightnesses"
        rows = "".join(_mode(mode, longest=longest or 1, colour=place % 8) for mode in run.colours)
        figures.append(
            f'<figure class="modes" data-run="{place}"><figcaption>{_whose(runs, place)}samples of step '
            f"{run.colours_step:,} reach {reached} of the {len(run.colours)} commonest {kind} of the data</figcaption>"
            '<table><thead class="unseen"><tr><th scope="col">mode</th><th scope="col">share of images</th></tr>'
            f"</thead><tbody>{rows}</tbody></table></figure>"
        )
    return "".join(figures)


def _mode(mode: ColourMode, *, longest: float, colour: int) -> str:
    missed = "" if mode.reached else ' <strong class="missed">missed</strong>'
    bars = "".join(
        f'<svg class="share" aria-hidden="true"><rect class="{kind}" width="{100 * share / longest:.1f}%" '
        f'height="100%"/></svg><span>{name} {100 * share:.1f}%{more}</span>'
        for name, kind, share, more in (
            ("data", "of-data", mode.data_share, ""),
            ("samples", f"of-samples {f'c{colour}' if mode.reached else 'missed'}", mode.sample_share, missed),
        )
    )
    name, numbers = _described(mode)
    return (
        f'<tr><th scope="row"><svg class="colour" aria-hidden="true"><rect fill="{_rgb(mode)}" width="100%" '
        f'height="100%"/></svg><span>{name} <small>{numbers}</small></span></th>'
        f'<td><div class="pair">{bars}</div></td></tr>'
    )


def _described(mode: ColourMode) -> tuple[str, str]:
    """A mode's name, and the numbers behind it."""
    if mode.brightness is not None:
        return "grey", f"brightness {mode.brightness:.2f}"
    name = next(name for limit, name in HUES.items() if mode.hue < limit)
    if mode.saturation < PALE_SATURATION:
        name = "white or grey" if mode.saturation < GREY_SATURATION else f"pale {name}"
    return name, f"hue {mode.hue:.0f}°, saturation {mode.saturation:.2f}"


def _rgb(mode: ColourMode) -> str:
    """The mode's colour as ``#rrggbb``."""
    if mode.brightness is not None:
        rgb = (mode.brightness,) * 3
    else:
        rgb = colorsys.hsv_to_rgb(mode.hue / 360 % 1, mode.saturation, SWATCH_VALUE)
    return "#" + "".join(f"{round(255 * value):02x}" for value in rgb)


def _nearest(runs: Sequence[Run], pictures: Pictures) -> str:
    """Places for each run's samples beside the images of the data that are nearest to them: copies, or not."""
    return "".join(
        f'<figure class="nearest" data-run="{place}" data-picture="{picture}"><figcaption>{_whose(runs, place)}'
        'samples, and the real images nearest to each</figcaption><img alt="samples and their nearest real images">'
        "</figure>"
        for place, picture in enumerate(pictures.nearest)
        if picture is not None
    )


def _whose(runs: Sequence[Run], place: int) -> str:
    """The run's colour and name, where there are several."""
    return f"{swatch(place)}{escape(runs[place].name)}: " if len(runs) > 1 else ""
