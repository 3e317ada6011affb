"""The line that shows how far an epoch is."""

import io

from rich.console import Console

from protocols.owner.fit.progress import live


def test_it_is_quiet_when_nobody_watches():
    text = io.StringIO()
    for show, terminal in ((True, False), (False, True)):
        with live(3, 10, show=show, console=Console(file=text, force_terminal=terminal)) as tell:
            assert tell is None
    assert text.getvalue() == ""


def test_it_shows_epoch_and_steps_on_a_terminal():
    text = io.StringIO()
    with live(3, 10, show=True, console=Console(file=text, force_terminal=True, width=80)) as tell:
        tell(7)
    assert "epoch 3" in text.getvalue()
    assert "7/10 steps" in text.getvalue()
