"""Output of the command line: a progress bar, and error messages with exit statuses."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .errors import Interrupted, LabError


def progress_bar(console: Console) -> Progress:
    """Create a progress bar with counts, elapsed time and remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def report_errors() -> Iterator[None]:
    """End a command on bad input with a message and status 2, on Ctrl-C with the saved state and status 130."""
    console = Console(stderr=True)
    try:
        yield
    except LabError as error:
        console.print(f"rprop-lab: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except (Interrupted, KeyboardInterrupt) as error:
        state = str(error) or "every file written so far is complete"
        console.print(f"rprop-lab: interrupted: {state}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
