"""A sweep's tables: the result, every measure, cost, runs. Every text of a run passes through ``escape``."""

from collections.abc import Sequence
from html import escape

from dcgan_dist.pages.tables import breakable, number, swatch, table
from dcgan_dist.results.comparison import SIGNIFICANT, Comparison, verdict
from dcgan_dist.results.gather import STATES
from dcgan_dist.results.measures import GROUPS, collapse_score, meaning
from dcgan_dist.results.sweep_summary import Cell, Summary, SweepMeasure
from dcgan_dist.results.trials import Setting
from dcgan_dist.words import counted

COST_MEANINGS = {
    "cost/images_per_second": "real images a second, pauses included",
    "cost/seconds": "wall time of a run",
    "cost/device_hours": "wall time times processes",
}


def result(summary: Summary) -> str:
    """The sweep's metric: a row for each setting, best first, with what can be said against the baseline."""
    measure = summary.metric
    rows = []
    for setting in _ranked(summary):
        cell = measure.cells[setting.place]
        trials = summary.trials_of(setting, all_states=True)
        n = cell.estimate.n if cell else 0
        missing = [trial.state for trial in trials if trial.seed not in (cell.values if cell else ())]
        seeds = f"{n} of {len(trials)}"
        if missing:
            states = ", ".join(f"{missing.count(state)} {state}" for state in dict.fromkeys(missing))
            seeds += f"<br><small>{escape(states.replace('done', 'without it'))}</small>"
        name = f"{swatch(setting.place)}{breakable(setting.name)}"
        if setting.place in measure.best:
            name += ' <small class="won">best mean</small>'
        cells = f"<td>{_interval(cell)}</td><td>{seeds}</td>{_compared(summary, setting)}"
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    head = ["setting", "mean and 95% interval", "seeds", "minus baseline", "what is shown"]
    return _lead(summary) + table("result", head, rows=rows)


def _ranked(summary: Summary) -> list[Setting]:
    """Settings by the mean of the sweep's metric, those without one last."""
    cells = summary.metric.cells
    sign = -1 if summary.metric.better == "higher" else 1

    def key(setting: Setting) -> tuple[bool, float]:
        cell = cells[setting.place]
        return (True, 0.0) if cell is None else (False, sign * cell.estimate.mean)

    return sorted(summary.settings, key=key)


def _lead(summary: Summary) -> str:
    """How the numbers were made, and what they do not say."""
    tested = [cell.comparison for cell in summary.metric.cells if cell and cell.comparison and cell.comparison.test]
    family = f" for {counted(len(tested), 'comparison')}" if tested else ""
    best = (
        "Best is the best mean of settings with all seeds and no failed run; it need not be shown to be better. "
        if summary.metric.best
        else ""
    )
    return (
        f"<p>{best}Differences are tested against the baseline: by seed where both have the same seeds (paired t), "
        f"else by Welch's t. p is two-sided, corrected by Holm's method{family}; below {SIGNIFICANT} a difference is "
        "shown. Not shown is not equal: the &plusmn; of a difference, its own 95% interval before the correction, says "
        "from what size on one could have been seen.</p>"
    )


def _compared(summary: Summary, setting: Setting) -> str:
    """The cells of the difference and of the verdict."""
    cell = summary.metric.cells[setting.place]
    if setting.place == summary.baseline.place:
        return "<td>&ndash;</td><td>baseline</td>"
    if cell is None or cell.comparison is None:
        why = "no value" if cell is None else "the baseline has no value"
        return f"<td>&ndash;</td><td>{why}</td>"
    found = cell.comparison
    difference = _signed(found.difference)
    if found.half_width is not None:
        difference += f"&nbsp;&plusmn;&nbsp;{_half(found.half_width)}<br><small>{_test(found)}</small>"
    words = verdict(found, summary.metric.better)
    kind = next((kind for start, kind in (("better", "won"), ("worse", "lost")) if words.startswith(start)), "")
    if found.half_width is not None and found.p_holm is not None and found.p_holm >= SIGNIFICANT:
        words += f" (p = {found.p_holm:.2g} after Holm); one below {_half(found.half_width)} could not have been seen"
    return f'<td>{difference}</td><td class="verdict-cell {kind}">{escape(words)}</td>'


def _test(comparison: Comparison) -> str:
    return "paired by seed" if comparison.test == "paired" else "Welch"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def _interval(cell: Cell | None) -> str:
    if cell is None:
        return "&ndash;"
    found = cell.estimate
    if found.half_width is None:
        return f"{number(found.mean)}<br><small>1 seed, no interval</small>"
    return f"{number(found.mean)}&nbsp;&plusmn;&nbsp;{_half(found.half_width)}"


def _half(width: float) -> str:
    """Half of an interval, to two digits: no more of it is known."""
    return number(float(f"{width:.2g}"))


def measures_table(summary: Summary) -> str:
    """Every measure: a row each, a column for each setting."""
    lengths = ", however long it went on" if summary.is_at_a_step else ""
    groups = {**GROUPS, "cost": f"Cost of a whole run{lengths}"}
    rows = []
    for group, title in groups.items():
        of_group = [measure for measure in summary.measures if measure.group == group]
        if of_group:
            span = len(summary.settings) + 1
            rows.append(f'<tr class="group"><th colspan="{span}" scope="rowgroup">{title}</th></tr>')
        rows += [_measure_row(summary, measure) for measure in of_group]
    lead = (
        "<p>Mean and 95% interval over seeds. Best mean in bold. &lt; and &gt;: significantly below or above the "
        f"baseline, {escape(summary.baseline.name)}, after Holm's correction within the row. Rows are not corrected "
        "for being many: of twenty without any effect, one shows one. Take what rows other than the metric "
        "show as a question, not as an answer.</p>"
    )
    return lead + table("measures", ["measure", *(setting.name for setting in summary.settings)], rows=rows)


def _measure_row(summary: Summary, measure: SweepMeasure) -> str:
    words = [COST_MEANINGS.get(measure.name) or meaning(measure.name)]
    words += [f"{measure.better} is better" if measure.better else ""]
    if measure.at is not None and measure.at != summary.metric.at:
        words.append(f"at {'images' if summary.is_by_images else 'step'} {measure.at:,}")
    if (floor := measure.floor) is not None:
        words.append(f"floor {number(floor)}")
    cells = "".join(_measure_cell(measure, place) for place in range(len(measure.cells)))
    said = ", ".join(word for word in words if word)
    return f'<tr><th scope="row">{breakable(measure.name)} <small>{said}</small></th>{cells}</tr>'


def _measure_cell(measure: SweepMeasure, place: int) -> str:
    cell = measure.cells[place]
    if cell is None:
        return "<td>&ndash;</td>"
    text = _interval(cell)
    if place in measure.best:
        text = f'<strong class="won" title="the best mean">{text}</strong>'
    found = cell.comparison
    if found is not None and found.p_holm is not None and found.p_holm < SIGNIFICANT:
        text += f' <b title="{escape(verdict(found, measure.better))}">{"&lt;" if found.difference < 0 else "&gt;"}</b>'
    lines = [text]
    full = max(each.estimate.n for each in measure.cells if each)
    if 1 < cell.estimate.n < full:
        lines.append(f"<small>{counted(cell.estimate.n, 'seed')}</small>")
    if cell.floor is not None and measure.floor is None:
        lines.append(f"<small>floor {number(cell.floor)}</small>")
    return f"<td>{'<br>'.join(lines)}</td>"


def cost_table(summary: Summary) -> str:
    """Time, throughput and device-hours: a row for each setting and one for all, of every run there is."""
    rows, all_trials = [], [trial for trial in summary.trials if trial.run]
    speeds = next((each.cells for each in summary.measures if each.name == "cost/images_per_second"), None)
    for setting in summary.settings:
        trials = [trial for trial in summary.trials_of(setting, all_states=True) if trial.run]
        seconds = [trial.run.seconds for trial in trials if trial.run]
        cells = [
            str(len(trials)),
            _interval(speeds[setting.place] if speeds else None),
            _hours(sum(seconds) / len(seconds)) if seconds else "&ndash;",
            _device_hours([trial.device_hours for trial in trials]),
        ]
        inside = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{swatch(setting.place)}{breakable(setting.name)}</th>{inside}</tr>')
    total = ["in all", str(len(all_trials)), "", "", _device_hours([trial.device_hours for trial in all_trials])]
    rows.append(f'<tr class="total"><th scope="row">{total[0]}</th><td>{"</td><td>".join(total[1:])}</td></tr>')
    lead = (
        "<p>Whole runs, finished or not, evaluations and pauses included; of a run that was resumed, what it kept. "
        "Device-hours are wall time times processes. The speed is of the runs that are compared.</p>"
    )
    return lead + table("cost", ["setting", "runs", "images a second", "time a run", "device-hours"], rows=rows)


def _hours(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d} h"


def _device_hours(hours: Sequence[float]) -> str:
    return f"{sum(hours):.3g}" if hours else "&ndash;"


def runs_table(summary: Summary) -> str:
    """Every point with its state, how far it came, and its alarms of collapse."""
    rows = []
    for trial in summary.trials:
        run = trial.run
        state = f'<span class="state {trial.state if trial.state in STATES else ""}">'
        facts = [
            f"{state}{escape(trial.state)}</span>" + (f"<br><small>{escape(run.reason)}</small>" if run else ""),
            f"{run.last_step:,}" if run and run.last_step is not None else "&ndash;",
            (f"{len(run.alarms)}" if collapse_score(run) else "&ndash;") if run else "&ndash;",
            "yes" if trial.is_counted else "no",
        ]
        inside = "".join(f"<td>{fact}</td>" for fact in facts)
        rows.append(f'<tr><th scope="row">{swatch(trial.setting)}{breakable(trial.point)}</th>{inside}</tr>')
    return table("runs", ["point", "state", "steps", "alarms of collapse", "in the means"], rows=rows)
