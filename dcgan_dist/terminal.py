"""Manners of a command: how it ends, what it says and to whom, where it may draw. Standard library only."""

import contextlib
import functools
import io
import os
import sys
import textwrap
from collections.abc import Iterator
from typing import IO, NoReturn

EXIT_CODES = "exit codes: 0 done; 1 failed; 2 a mistake in what was asked for; 130 stopped by Ctrl-C"
"""The last line of most commands' help."""
TRAINING_EXIT_CODES = """exit codes: 0 done, or stopped by Ctrl-C or a signal and saved; 1 failed; 2 a mistake
in what was asked for; 130 stopped by Ctrl-C before there was anything to save"""
"""Of the commands that train."""
SCREEN_COLUMNS = 98
"""Of a line of help, without the backslash of an example."""
INTERRUPTED = 130
"""128 and the number of SIGINT, as shells count."""


@contextlib.contextmanager
def no_traceback() -> Iterator[None]:
    """Ctrl-C ends the process with a line and 130, a reader that leaves, as ``| head`` does, with 1 and none."""
    try:
        try:
            yield
        finally:
            print(end="", flush=True)  # here: what it raises at the interpreter's end nobody can catch
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # either may hold a rest that nobody will read
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        fail("interrupted", code=INTERRUPTED)


@contextlib.contextmanager
def command(program: str) -> Iterator[None]:
    """A command of one process: what ends the block early becomes one message and an exit code of ``EXIT_CODES``.

    A ValueError is the user's mistake, an OSError a failure.
    """
    with no_traceback():
        try:
            yield
        except BrokenPipeError:
            raise
        except ValueError as error:
            end(program, str(error), code=2)
        except OSError as error:
            end(program, in_words(error), code=1)


def end(program: str, message: str, *, code: int) -> NoReturn:
    """End a command of one process with a message that begins as argparse's do."""
    print(f"{program}: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def in_words(error: OSError) -> str:
    """The file and what is wrong with it, or whatever the error says."""
    return f"{error.filename}: {error.strerror or error}" if error.filename else str(error)


def ending(program: str, *lines: str, exit_codes: str = EXIT_CODES) -> str:
    """The end of a help page: examples, of which long ones go on after a backslash, and exit codes."""
    wrap = functools.partial(textwrap.wrap, width=SCREEN_COLUMNS, break_long_words=False, break_on_hyphens=False)
    shown = (wrap(f"{program} {line}", initial_indent="  ", subsequent_indent="      ") for line in lines)
    return "\n".join(["examples:", *map(" \\\n".join, shown), "", exit_codes])


def fail(message: str, *, code: int = 2) -> NoReturn:
    """End the process with one message for the whole job, not one for each process; exit code 2: the user's mistake."""
    if is_first_process():
        tell(message)
    raise SystemExit(code)


def tell(message: str) -> None:
    """Print one error message for people."""
    print(f"error: {message}", file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Whether this is process 0 of its job, from what launchers and srun export; before any process group exists."""
    if os.environ.get("DCGAN_EXPECT_WORLD_SIZE") == "1":
        return True  # a run of its own, whoever started it beside others
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


@contextlib.contextmanager
def first_process_alone_speaks() -> Iterator[None]:
    """Silence on the other processes of a job, so that help and mistakes in arguments are printed once."""
    with contextlib.ExitStack() as silence:
        if not is_first_process():
            silence.enter_context(contextlib.redirect_stdout(io.StringIO()))
            silence.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def can_draw(file: IO[str]) -> bool:
    """Whether a bar that moves can be drawn there: on a terminal; FORCE_COLOR is no reason to fill a log with bars."""
    return file.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def takes_colours(file: IO[str]) -> bool:
    """Whether escape sequences for colours are welcome there: on a terminal, and https://no-color.org is not set."""
    return can_draw(file) and not os.environ.get("NO_COLOR")
