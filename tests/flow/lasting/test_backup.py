"""Backups of what a worker keeps: made while it runs, checked, and put back without giving a quota anew."""

import shutil

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from federated.command import app
from inner_workers import NAMES
from protocols import connect
from protocols.errors import QuotaSpent, ServingError, VaultError
from protocols.owner.placing.managed import ManagedModel
from protocols.storage import backup

X = np.random.default_rng(0).uniform(size=(20, 4)).astype(np.float32)


def two_weights():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="small")


async def ask(three, times=1):
    async with connect(three.cluster, "small", timeout=30) as remote:
        for _ in range(times):
            found = await remote.query(X[:3])
    return found


async def put_back(three, place, **how):
    """Restore the backup of one worker in the place of its folder, of which the key is kept."""
    folder = three.folder / NAMES[place]
    await three.stop(place)
    shutil.move(folder, three.folder / "away")
    folder.mkdir()
    shutil.move(three.folder / "away" / "key", folder / "key")
    shutil.rmtree(three.folder / "away")
    backup.restore(three.folder / f"backup-{place}", folder, **how)
    await three.start(place)


def back_up(three, place):
    return backup.back_up(three.folder / NAMES[place], three.folder / f"backup-{place}")


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_an_old_backup_of_one_worker_gives_no_quota_anew(three, place):
    right = await three.share(two_weights(), 4)
    expected = await ask(three)
    (found,) = back_up(three, place)  # while it runs
    assert (found.counted.requests, found.counted.examples, found.damage) == (1, 3, "")
    await ask(three, 2)
    await put_back(three, place)
    with pytest.raises((QuotaSpent, ServingError)):  # nothing at all, until its owner says so
        await ask(three)
    async with three.cluster as cluster:
        await ManagedModel(cluster, right).limit(1 if place < 2 else 3)  # more than the third party has counted: it knows of 1 of 3
    np.testing.assert_allclose(await ask(three), expected, atol=0.005)
    with pytest.raises(QuotaSpent):
        await ask(three)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_who_vouches_wrongly_that_nothing_was_answered_since_still_lifts_no_quota_at_the_others(three, place):
    await three.share(two_weights(), 4)
    back_up(three, place)
    await ask(three, 3)
    await put_back(three, place, nothing_since=True)
    await ask(three)
    with pytest.raises(QuotaSpent):
        await ask(three)


async def test_the_commands_check_back_up_and_restore(three):
    await three.share(two_weights(), 4)
    await ask(three, 2)
    folder, copy, new = three.folder / NAMES[0], three.folder / "backup", three.folder / "new"
    for beside in ("keys", "lost+found"):  # as the units have it, and the root of a volume
        for place in (folder, new):
            (place / beside).mkdir(parents=True)

    def confide(*arguments):
        shown = CliRunner().invoke(app, ["vault", *map(str, arguments)], env={"COLUMNS": "300"})
        assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exception
        return shown.exit_code, shown.output

    code, shown = confide("check", folder)
    assert (code, "model small, version 1" in shown, "2 requests and 6 examples counted" in shown) == (0, True, True), shown
    code, shown = confide("backup", folder, copy)
    assert (code, "without the key" in shown) == (0, True), shown
    assert not list(copy.rglob("key"))
    assert copy.stat().st_mode & 0o777 == 0o700
    code, shown = confide("backup", folder, copy)
    assert (code, "is there already" in shown) == (1, True)
    assert confide("check", copy, "--key", folder / "key")[0] == 0
    code, shown = confide("restore", copy, folder)
    assert (code, "holds shares already" in shown) == (1, True), shown
    code, shown = confide("restore", copy, new, "--key", folder / "key")
    assert (code, "not answered of until" in shown) == (0, True), shown
    assert not (new / "key").exists()
    code, shown = confide("restore", copy, three.folder / "other", "--key", three.folder / NAMES[1] / "key")
    assert (code, "another party's" in shown) == (1, True), shown

    (share,), (counts,) = copy.rglob("*.share"), copy.rglob("*.counts")
    for path, complaint in ((share, "is not what was backed up"), (counts, "is not what was backed up")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        code, shown = confide("restore", copy, three.folder / "other", "--key", folder / "key")
        assert (code, complaint in shown) == (1, True), shown
        path.unlink()
        code, shown = confide("check", copy, "--key", folder / "key")
        assert (code, "this backup is not complete" in shown) == (1, True), shown
        path.write_bytes(whole)
    listed = copy / "backup.json"
    text = listed.read_text()
    for old, new_text, complaint in (('"format": 1', '"format": 2', "upgrade confide first"), ('"made": "2', '"made": "3', "was altered")):
        listed.write_text(text.replace(old, new_text))
        code, shown = confide("restore", copy, three.folder / "other", "--key", folder / "key")
        assert (code, complaint in shown) == (1, True), shown
    listed.unlink()
    code, shown = confide("restore", copy, three.folder / "other", "--key", folder / "key")
    assert (code, "is no backup, or was not finished" in shown) == (1, True), shown
    assert not (three.folder / "other").exists()

    (share,) = folder.rglob("*.share")
    share.write_bytes(share.read_bytes()[:-1] + b"?")
    code, shown = confide("check", folder)
    assert (code, "DAMAGED" in shown, "1 versions, 1 damaged" in shown) == (1, True, True), shown
    with pytest.raises(VaultError, match="nothing was backed up"):
        backup.back_up(folder, three.folder / "third")
    assert not (three.folder / "third").exists()
    (folder / "later" / "name").mkdir(parents=True)
    (folder / "later" / "name" / "1.share").touch()
    code, shown = confide("check", folder)
    assert (code, "was a later one used" in shown) == (1, True), shown
