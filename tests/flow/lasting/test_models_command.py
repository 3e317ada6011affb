"""`confide serve` and `confide models`, as the owner of a model meets them; the workers run in this process."""

import asyncio

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from federated.command import app
from protocols import connect
from protocols.errors import NotServed, QuotaSpent, UnknownModel

X = np.random.default_rng(0).uniform(size=(20, 4)).astype(np.float32)


async def confide(*arguments) -> tuple[int, str]:
    """The exit code, and what is printed; never a traceback."""
    shown = await asyncio.to_thread(CliRunner().invoke, app, [str(one) for one in arguments], env={"COLUMNS": "300"})
    assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exception
    assert "Traceback" not in shown.output
    return shown.exit_code, shown.output


def saved(path, seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    model.save(path)
    return model.predict(X, verbose=0)


async def test_a_model_is_served_limited_updated_and_stopped_from_the_command_line(three):
    expected, later = saved(three.folder / "ward.keras"), saved(three.folder / "later.keras", 1)
    where = [word for address in three.addresses for word in ("--worker", address)] + ["--models", three.folder / "rights"]
    code, shown = await confide("serve", three.folder / "ward.keras", "--requests", 3, "--examples", 9, "--reveal", "logits", *where)
    assert code == 0, shown
    assert "ward is served" in shown
    async with connect(three.cluster, "ward") as remote:
        np.testing.assert_allclose(await remote.query(X[:5]), expected[:5], atol=0.005)
        with pytest.raises(NotServed):
            await remote.query(X[:1], reveal="label")
        code, shown = await confide("models", "list", *where)
        assert code == 0, shown
        assert all(part in shown for part in ("ward", "1 of 3", "5 of 9", "logits", "served"))
        assert "label" not in shown
        code, shown = await confide("models", "limit", "ward", "--requests", 1, "--reveal", "label", *where)
        assert (code, "may be asked 2 times in all, for label" in shown) == (0, True), shown
        assert (await remote.query(X[:5], reveal="label")).tolist() == expected[:5].argmax(1).tolist()
        with pytest.raises(QuotaSpent):
            await remote.query(X[:1], reveal="label")
        code, shown = await confide("models", "update", "ward", three.folder / "later.keras", "--requests", 2, *where)
        assert (code, "ward.2 is served" in shown) == (0, True), shown
        assert (await confide("models", "limit", "ward", "--requests", 1, *where))[0] == 0
        await three.restart(1)
        async with connect(three.cluster, "ward.2", timeout=30) as new:
            np.testing.assert_allclose(await new.query(X[:5]), later[:5], atol=0.005)
            await remote.query(X[:1], reveal="label")  # the old one goes on
        code, shown = await confide("models", "stop", "ward", *where)
        assert (code, "removed ward" in shown) == (0, True), shown
        with pytest.raises(UnknownModel):
            await remote.query(X[:1])
    code, shown = await confide("models", "list", *where)
    assert code == 0
    assert "ward.2" in shown
    await three.stop(0)
    code, shown = await confide("models", "stop", "ward.2", *where)
    assert (code, "WorkerUnreachable" in shown or "nobody answers" in shown) == (1, True), shown
    await three.start(0)
    assert (await confide("models", "stop", "ward.2", *where))[0] == 0
    assert not list((three.folder / "rights").iterdir())


async def test_what_cannot_be_is_one_line(three):
    saved(three.folder / "ward.keras")
    (three.folder / "broken.keras").write_bytes(b"no model")
    keras.Sequential([keras.layers.Input((4,)), keras.layers.Reshape((2, 2))]).save(three.folder / "shapes.keras")
    where = [word for address in three.addresses for word in ("--worker", address)] + ["--models", three.folder / "rights"]
    refused = [
        (("serve", three.folder / "broken.keras", "--requests", 3, *where), "broken.keras cannot be loaded as a Keras model"),
        (("serve", three.folder / "shapes.keras", "--requests", 3, "--reveal", "label", *where), "this model can give ['logits']"),
        (("serve", three.folder / "ward.keras", "--requests", 3), "give --worker three times"),
        (("serve", three.folder / "ward.keras", "--requests", 3, "--reveal", "weights", *where), "the kinds of answer are logits, label"),
        (("serve", three.folder / "ward.keras", "--requests", 3, "--name", "a b", *where), "is no name for a model that stays"),
        (("serve", three.folder / "ward.keras", "--requests", 3, "--calibration", three.folder / "broken.keras", *where), "holds no array"),
        (("models", "limit", "ward", "--requests", 1, *where), "holds no right to a model"),
        (("models", "stop", "ward", *where), "holds no right to a model"),
        (("models", "update", "ward", three.folder / "ward.keras", "--requests", 1, *where), "has no right to a model named 'ward'"),
    ]
    for arguments, complaint in refused:
        code, shown = await confide(*arguments)
        assert code == 1, shown
        assert complaint in shown
    assert (await confide("serve", three.folder / "ward.keras", "--requests", 3, *where))[0] == 0
    code, shown = await confide("serve", three.folder / "ward.keras", "--requests", 3, *where)
    assert (code, "is there already" in shown) == (1, True)
    np.save(three.folder / "samples.npy", 3 * X)
    wide = ("--name", "wide", "--calibration", three.folder / "samples.npy", "--input-range", -1, 3)
    code, shown = await confide("serve", three.folder / "ward.keras", "--requests", 3, *wide, *where)
    assert (code, "wide is served" in shown) == (0, True), shown
    async with connect(three.cluster, "wide") as remote:
        assert remote.input_range == (-1.0, 3.0)
    right = three.folder / "rights" / "ward.model.json"
    right.rename(right.with_name("other.model.json"))
    code, shown = await confide("models", "stop", "other", *where)
    assert (code, "is the right to a model named 'ward'" in shown) == (1, True)


async def test_a_model_for_which_nothing_is_allowed_is_not_said_to_be_served(three):
    """As where a backup was put back: each worker waits for its owner."""
    saved(three.folder / "ward.keras")
    where = [word for address in three.addresses for word in ("--worker", address)] + ["--models", three.folder]
    await three.share(keras.models.load_model(three.folder / "ward.keras"), 0, name="ward")
    code, shown = await confide("models", "list", *where)
    letters = "".join(filter(str.isalpha, shown))  # a narrow table breaks lines
    assert (code, letters.count("nothingisallowedthere"), "served" in shown) == (1, 3, False), shown
    assert (await confide("models", "limit", "ward", "--requests", 2, "--reveal", "logits", *where))[0] == 0
    code, shown = await confide("models", "list", *where)
    assert (code, "served" in shown) == (0, True), shown
