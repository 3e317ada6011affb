"""The ledger: written before it is released, shared by processes, and never short after a crash."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

import dp_accounting
import keras
import numpy as np
import pytest
from dp_accounting import dp_event
from hypothesis import given
from hypothesis import strategies as st

from privacy import Accountant, BudgetSpent, Ledger, LedgerUnusable, PrivacyEngine, SettingError, accounting
from privacy.events import from_text, to_text

GAUSSIAN = dp_accounting.GaussianDpEvent(5.0)


def ledger(folder, **terms):
    return Ledger(folder / "ledger.sqlite", **{"data": "digits", "max_epsilon": 1.0, "delta": 1e-5, "method": "rdp", **terms})


events = st.recursive(
    st.one_of(
        st.builds(dp_event.GaussianDpEvent, st.floats(0.1, 100)),
        st.builds(dp_event.LaplaceDpEvent, st.floats(0.1, 100)),
        st.just(dp_event.NoOpDpEvent()),
    ),
    lambda inner: st.one_of(
        st.builds(dp_event.PoissonSampledDpEvent, st.floats(0.01, 1), inner),
        st.builds(dp_event.SelfComposedDpEvent, inner, st.integers(1, 1000)),
        st.builds(dp_event.ComposedDpEvent, st.lists(inner, max_size=3)),
    ),
    max_leaves=5,
)


@given(events)
def test_events_come_back_as_they_were(event):
    assert from_text(to_text(event)) == event
    assert to_text(from_text(to_text(event))) == to_text(event)


def test_numbers_of_numpy_are_numbers():
    assert from_text(to_text(dp_event.GaussianDpEvent(np.float64(1.5)))) == dp_event.GaussianDpEvent(1.5)


@pytest.mark.parametrize("text", ["", "{}", '{"event": "attr"}', '{"event": "DpEvent", ".x": 1}', '{"event": "os"}', '{"event": 3}'])
def test_text_that_is_no_event(text):
    with pytest.raises(LedgerUnusable, match="is no event"):
        from_text(text)


def test_releases_are_composed_and_refused_when_the_budget_is_spent(tmp_path):
    book = ledger(tmp_path)
    assert book.epsilon() == 0.0
    spent = 0
    while book.affords(GAUSSIAN):
        book.spend(GAUSSIAN, purpose=f"mean {spent}")
        spent += 1
    accountant = Accountant("rdp")
    accountant.record(GAUSSIAN, spent)
    assert spent > 0
    assert book.epsilon() == accountant.epsilon(1e-5) <= 1.0
    before = book.releases
    with pytest.raises(BudgetSpent, match=r"would bring epsilon from .* to .* at delta 1e-05; the budget in .* is 1:"):
        book.spend(GAUSSIAN)
    assert book.releases == before
    assert [one.purpose for one in before] == [f"mean {i}" for i in range(spent)]
    book.spend(dp_accounting.GaussianDpEvent(500.0))  # a little is left
    again = ledger(tmp_path)
    assert again.releases == book.releases
    assert again.epsilon(1e-6) > again.epsilon()


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"data": "others"}, "data 'digits', not 'others'"),
        ({"max_epsilon": 2.0}, "max_epsilon '1.0', not '2.0'"),
        ({"delta": 1e-6}, "delta '1e-05', not '1e-06'"),
        ({"unit": "owner"}, "unit 'example', not 'owner'"),
    ],
)
def test_a_ledger_of_something_else(tmp_path, terms, message):
    ledger(tmp_path)
    with pytest.raises(LedgerUnusable, match=message):
        ledger(tmp_path, **terms)


def test_settings_and_files_that_make_no_sense(tmp_path):
    for terms in ({"max_epsilon": 0.0}, {"max_epsilon": float("nan")}, {"delta": 1.0}, {"method": "gdp"}):
        with pytest.raises(SettingError):
            ledger(tmp_path, **terms)
    with pytest.raises(SettingError, match="at least once"):
        ledger(tmp_path).spend(GAUSSIAN, 0)
    (tmp_path / "text").write_text("no data base, and long enough to be looked at" * 100)
    with pytest.raises(LedgerUnusable, match="is no ledger"):
        Ledger(tmp_path / "text", data="digits", max_epsilon=1.0, delta=1e-5)


def test_what_is_held_and_not_used_is_given_back(tmp_path):
    book = ledger(tmp_path, max_epsilon=50.0)
    other = dp_accounting.GaussianDpEvent(7.0)
    with contextlib.suppress(ZeroDivisionError), book.holding([GAUSSIAN] * 10 + [other]) as held:
        assert dict(book.events) == {GAUSSIAN: 10, other: 1}
        for left in (2, 1, 0):
            held.use(GAUSSIAN)
            assert 1 / left  # what is trained may break off
    assert book.events == ((GAUSSIAN, 3),)
    with book.holding([GAUSSIAN]) as held:
        held.use(GAUSSIAN)
        with pytest.raises(BudgetSpent, match="not held often enough"):
            held.use(GAUSSIAN)
    assert book.events == ((GAUSSIAN, 4),)


def test_whoever_looks_at_a_budget_to_spend_it_is_alone_with_it(tmp_path, monkeypatch):
    """Between what is read and what is written nobody else can write, however fast anybody is."""
    book, tried = ledger(tmp_path), []

    def meanwhile(events, method, delta):
        with contextlib.closing(sqlite3.connect(book.path, timeout=0.0, isolation_level=None)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            tried.append(events)
        return accounting.epsilon(events, method, delta)

    monkeypatch.setattr("privacy.ledger.composed", meanwhile)
    book.spend(GAUSSIAN)
    assert tried
    with pytest.raises(BudgetSpent):
        book.spend(GAUSSIAN, 10_000)
    assert len(tried) > 2


SPENDS = """
import sys, dp_accounting
from pathlib import Path
from privacy import BudgetSpent, Ledger
book, done = Ledger(Path(sys.argv[1]) / "ledger.sqlite", data="digits", max_epsilon=1.0, delta=1e-5, method="rdp"), 0
print("ready", flush=True)
sys.stdin.readline()
while True:
    try:
        book.spend(dp_accounting.GaussianDpEvent(20.0))
    except BudgetSpent:
        break
    done += 1
print(done)
"""


def test_processes_that_share_a_budget_do_not_overspend_it(tmp_path):
    """They begin together; neither loads more than the ledger."""
    ledger(tmp_path)
    command = [sys.executable, "-c", SPENDS, str(tmp_path)]
    with contextlib.ExitStack() as stack:
        start = (subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2))
        both = [stack.enter_context(process) for process in start]
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        done = [int(process.stdout.readline()) for process in both]
    book = ledger(tmp_path)
    assert sum(count for _, count in book.events) == sum(done)
    assert book.epsilon() <= 1.0 < book.epsilon() * 1.1


KILLED = """
import sys, dp_accounting
from pathlib import Path
from privacy import Ledger
book = Ledger(Path(sys.argv[1]) / "ledger.sqlite", data="digits", max_epsilon=100.0, delta=1e-5, method="rdp")
released = open(Path(sys.argv[1]) / "released", "a")
while True:
    book.spend(dp_accounting.GaussianDpEvent(5.0))
    released.write("x")  # the release itself
    released.flush()
"""


def test_killed_at_any_moment_it_has_at_least_what_was_released(tmp_path):
    for wait in (0.0, 0.013, 0.05):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
        before = (tmp_path / "released").stat().st_size if (tmp_path / "released").exists() else 0
        while not (tmp_path / "released").exists() or (tmp_path / "released").stat().st_size == before:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    released = (tmp_path / "released").stat().st_size
    written = sum(count for _, count in ledger(tmp_path, max_epsilon=100.0).events)
    assert released <= written <= released + 3  # one each time, at most
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def trained(engine, epochs):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = engine.make_private(model, noise_multiplier=1.0, max_grad_norm=1.0)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer="sgd")
    model.fit(np.ones((100, 4), np.float32), np.zeros(100, int), batch_size=10, epochs=epochs, verbose=0)


def test_an_engine_trains_on_a_ledger_and_stops_at_its_budget(tmp_path):
    book = ledger(tmp_path, max_epsilon=6.0)
    trained(PrivacyEngine(accountant=book), 1)
    one = book.epsilon()
    assert one == PrivacyEngine(accountant=ledger(tmp_path, max_epsilon=6.0)).epsilon(delta=1e-5) > 0
    with pytest.raises(BudgetSpent):
        trained(PrivacyEngine(accountant=book), 100)
    assert one < book.epsilon() <= 6.0
    assert sum(count for _, count in book.events) % 10 == 0  # epochs as a whole
