"""A line that shows how far a round is, while it lasts. Quiet when nobody watches: when the output is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from federated.rounds.rounds import RoundBook


@contextlib.contextmanager
def live(number: int, *, show: bool, console: Console | None = None) -> Iterator[Callable[[RoundBook], None]]:
    """Show a progress line for one round, gone when the round is.

    Args:
        number: of the round.
        show: False: no line.
        console: where; None: standard error.

    Returns:
        What is to be called when something became of an owner.
    """
    console = console or Console(stderr=True)
    if not show or not console.is_terminal:
        yield lambda _: None
        return
    columns = TextColumn("round {task.fields[number]}"), BarColumn(), TextColumn("{task.fields[standing]}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        line = progress.add_task("", total=None, number=number, standing="owners are asked")

        def update(book: RoundBook) -> None:
            progress.update(line, total=len(book.standing), completed=len(book.standing) - book.waiting, standing=book.summary)

        yield update
