"""The page's tables: numbers, settings, environment. Every text of a run passes through ``escape``."""

from collections.abc import Sequence
from html import escape

from dcgan_dist.config import TrainConfig, leaves
from dcgan_dist.results.gather import OF_THE_MACHINE, UNMARKED, Run, apart
from dcgan_dist.results.measures import GROUPS, Cell, Measure, meaning, measures


def numbers(runs: Sequence[Run]) -> str:
    """Last, best and floor of every scalar; a column for each run when there are several."""
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
        "<p>Best: over all evaluations. Floor: the same number between two halves of the data.</p>"
        if any(measure.better for measure in found)
        else ""
    )
    return lead + table("numbers", head, rows=rows)


def _single(measure: Measure, head: Sequence[str]) -> str:
    cell = measure.cells[0]
    assert cell is not None
    columns = {
        "last": _last(cell),
        "best": "" if cell.best is None else f"{number(cell.best)} <small>at {cell.best_step:,}</small>",
        "floor": "" if cell.floor is None else number(cell.floor),
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
            won = ' class="won" title="the best of these runs"' if place in measure.winners else ""
            lines.append(f"<small{won}>best {number(cell.best)} at {cell.best_step:,}</small>")
        if cell.floor is not None:
            lines.append(f"<small>floor {number(cell.floor)}</small>")
        cells.append(f'<td data-run="{place}">{"<br>".join(lines)}</td>')
    return f"<tr>{_name(measure)}{''.join(cells)}</tr>"


def _name(measure: Measure) -> str:
    way = f"{measure.better} is better" if measure.better else ""
    words = f'<span class="meaning">{meaning(measure.name)}{way and ", "}</span>' if meaning(measure.name) else ""
    return f'<th scope="row">{breakable(measure.name)} <small>{words}{way}</small></th>'


def _last(cell: Cell) -> str:
    return number(cell.last) + ("" if cell.deviation is None else f" &plusmn; {number(cell.deviation)}")


def number(value: float) -> str:
    """A number for people: whole, or to four digits."""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def settings(runs: Sequence[Run]) -> str:
    """Every setting that is not as in the recipe, or not the same in all runs; the others on demand."""
    if not any(run.settings for run in runs):
        return ""
    differing, rows = apart(runs), []
    for name, _ in leaves(TrainConfig()):
        if not any(name in run.settings for run in runs):
            continue
        cells, other = [], name in differing
        for place, run in enumerate(runs):
            value, recipe = run.settings.get(name), run.recipe.get(name)
            shown = ""
            if run.settings and value != recipe and name not in OF_THE_MACHINE | {"recipe"}:
                other = True
                shown = f' class="{"noted" if name in UNMARKED else "differs"}"'
            was = f"<br><small>{run.recipe_name.partition(' ')[0]}: {escape(recipe or 'none')}</small>" if shown else ""
            cells.append(f'<td data-run="{place}"{shown}>{escape(value or "–")}{was}</td>')  # noqa: RUF001
        kind = " ".join(["other" if other else "usual", *(["apart"] if name in differing else [])])
        rows.append(f'<tr class="{kind}"><th scope="row">{breakable(name)}</th>{"".join(cells)}</tr>')
    compared = " or ".join(dict.fromkeys(run.recipe_name for run in runs if run.recipe_name))
    return (
        f"<p>Marked: not as in {escape(compared)}.</p>"
        '<p><label><input type="checkbox" id="all-settings"> show all settings</label></p>'
        + table("settings", ["setting", *_columns(runs)], rows=rows)
    )


def environment(runs: Sequence[Run]) -> str:
    """What the runs' numbers may depend on; marked where it is not the same in all."""
    names = dict.fromkeys(name for run in runs for name in run.environment)
    rows = []
    for name in names:
        values = [run.environment.get(name, "–") for run in runs]  # noqa: RUF001
        cells = "".join(f'<td data-run="{place}">{escape(value)}</td>' for place, value in enumerate(values))
        apart = ' class="apart"' if len(set(values)) > 1 else ""
        rows.append(f'<tr{apart}><th scope="row">{breakable(name)}</th>{cells}</tr>')
    return table("environment", ["fact", *_columns(runs)], rows=rows) if rows else ""


def swatch(place: int) -> str:
    """A spot in the run's colour; round, as its curves are dotted, from the ninth run on."""
    return f'<span class="swatch c{place % 8}{" second" if place >= 8 else ""}"></span>'


def breakable(name: str) -> str:
    """A name that may be broken after its underscores and slashes, so that columns of names can be narrow."""
    return escape(name).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _columns(runs: Sequence[Run]) -> list[str]:
    return [run.name for run in runs] if len(runs) > 1 else ["value"]


def table(name: str, head: Sequence[str], *, rows: Sequence[str]) -> str:
    """A table that scrolls inside the page when it is wider, with the keyboard too."""
    columns = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table of {name}"><table id="{name}-table">'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
