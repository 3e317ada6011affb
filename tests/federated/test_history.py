"""What people look at: lines, tables, plots, Keras' callbacks, the progress of a round."""

import csv
import dataclasses
import io

import keras
import numpy as np
import pytest
from rich.console import Console

from federated import Federation, History, Outcome, SettingError, simulated_owners
from federated.rounds.rounds import RoundBook
from federated.runs.progress import live

ROUNDS = [
    Outcome(
        round=1,
        sampled=("a", "b"),
        reported=("a", "b"),
        metrics={"loss": 0.5, "accuracy": 0.25, "val_loss": 0.75},
        examples=9,
        seconds=1.94,
        bytes=3_140_000,
    ),
    Outcome(
        round=2, sampled=("a", "b"), reported=(), dropped={"a": "away", "b": "away"}, failure="0 of 2 owners reported and 1 are needed"
    ),
    Outcome(round=3, sampled=("a", "b"), reported=("a",), late=("b",), metrics={"loss": 0.25, "accuracy": 0.5}, examples=4),
]


def test_lines():
    assert str(ROUNDS[0]) == "round 1: 2 of 2 owners, loss 0.500, accuracy 0.250, val_loss 0.750, 1.9 s, 3.1 MB"
    assert str(ROUNDS[1]) == "round 2: failed, 0 of 2 owners reported and 1 are needed, 0.0 s, 0.0 MB"


def test_a_table(tmp_path):
    History(ROUNDS).to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    assert (rows[0]["reported"], rows[0]["loss"], rows[0]["val_loss"]) == ("2", "0.5", "0.75")
    assert (rows[1]["dropped"], rows[1]["loss"], rows[1]["failure"]) == ("2", "", "0 of 2 owners reported and 1 are needed")
    assert (rows[2]["late"], rows[2]["val_loss"]) == ("1", "")


def test_a_plot(tmp_path):
    figure = History(ROUNDS).plot(tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 5000
    loss, accuracy = figure.axes
    assert [(line.get_label(), line.get_xydata().tolist()) for line in loss.lines[:2]] == [
        ("local training", [[1, 0.5], [3, 0.25]]),
        ("evaluation by owners", [[1, 0.75]]),
    ]
    assert (accuracy.get_xlabel(), accuracy.get_ylabel()) == ("round", "accuracy")
    assert [axes.get_ylabel() for axes in History(ROUNDS).plot(metrics=["accuracy"]).axes] == ["accuracy"]


def test_a_plot_of_what_privacy_costs(tmp_path):
    spent = [dataclasses.replace(outcome, metrics={}, epsilon=float(n)) for n, outcome in enumerate(ROUNDS)]
    (axes,) = History(spent).plot(tmp_path / "history.png").axes
    assert axes.get_ylabel() == "epsilon"
    assert axes.lines[0].get_ydata().tolist() == [float(n) for n in range(len(ROUNDS))]


@pytest.mark.parametrize(
    ("rounds", "metrics", "message"), [(ROUNDS, ["auc"], "no auc to plot: .* loss, accuracy"), (ROUNDS[1:2], None, "have none")]
)
def test_a_plot_of_nothing(rounds, metrics, message):
    with pytest.raises(SettingError, match=message):
        History(rounds).plot(metrics=metrics)


async def test_callbacks_of_keras_see_rounds_as_epochs(build, examples, tmp_path):
    seen = []
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: seen.append(epoch), on_epoch_end=lambda epoch, logs: seen.append(logs)
        ),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss", save_best_only=True),
        keras.callbacks.TensorBoard(tmp_path / "board"),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
    ]
    federation = Federation(
        model=build, owners=simulated_owners([examples] * 2, evaluation=[examples] * 2, dropouts={2: ["owner-0", "owner-1"]})
    )
    async with federation:
        history = await federation.run(rounds=3, callbacks=callbacks)
    assert seen == [0, dict(history[0].metrics), 1, 2, dict(history[2].metrics)], "a failed round has no end of an epoch"
    best = keras.models.load_model(tmp_path / "best.keras")
    assert best.evaluate(*examples, verbose=0, return_dict=True)["loss"] == pytest.approx(history[2].metrics["val_loss"], rel=1e-5)
    assert list((tmp_path / "board").rglob("events.*"))


def book():
    return RoundBook(7, ["a", "b", "c"], quorum=1, weights=[np.zeros(2)])


def test_progress_is_quiet_when_nobody_watches():
    text = io.StringIO()
    with live(7, show=True, console=Console(file=text)) as progress:
        progress(book())
    with live(7, show=False, console=Console(file=text, force_terminal=True)) as progress:
        progress(book())
    assert text.getvalue() == ""


def test_progress_shows_who_has_reported():
    text, one = io.StringIO(), book()
    with live(7, show=True, console=Console(file=text, force_terminal=True, width=100)) as progress:
        one.drop("a", "away")
        progress(one)
    assert "round 7" in text.getvalue()
    assert "0 of 3 owners, 1 dropped" in text.getvalue()
