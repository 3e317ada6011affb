"""A line that shows how far an epoch of training is, while it lasts. Quiet when nobody watches: when the output is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def live(number: int, steps: int, *, show: bool, console: Console | None = None) -> Iterator[Callable[[int], None] | None]:
    """Show a progress line for one epoch, gone when the epoch is.

    Args:
        number: of the epoch, from 1.
        steps: how many it has.
        show: False: no line.
        console: where; None: standard error.

    Returns:
        What is to be called with the number of steps that have begun; None: nobody watches.
    """
    console = console or Console(stderr=True)
    if not show or not console.is_terminal:
        yield None
        return
    columns = TextColumn(f"epoch {number}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        line = progress.add_task("", total=steps)
        yield lambda made: progress.update(line, completed=made)
