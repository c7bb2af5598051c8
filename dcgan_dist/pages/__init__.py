"""Run directories as one HTML page that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path

from dcgan_dist.files import write_whole
from dcgan_dist.pages.embed import embedded
from dcgan_dist.pages.html import page
from dcgan_dist.results.gather import gather

PAGE_BYTES = 10_000_000
"""Of a page at most, so that it can be mailed."""


def write_report(run_directories: Sequence[Path], path: Path) -> list[str]:
    """Write one self-contained page about these runs to ``path``, whole or not at all; sentences on what it lacks.

    A file of a run that is damaged or not there yet is told on the page and in the result, and is no error.

    Raises:
        ValueError: for a path that is no run's directory, or more runs than fit into PAGE_BYTES.
        OSError: when the page cannot be written.
    """
    runs = gather(run_directories)
    pictures = embedded(runs)
    text = page(runs, pictures).encode(errors="replace")  # half characters from names of files and JSON
    if len(text) >= PAGE_BYTES:
        raise ValueError(f"the curves of {len(runs)} runs do not fit into one page; name fewer runs")
    write_whole(path, text)
    return [f"{run.name}: {note}" for run in runs for note in run.notes]
