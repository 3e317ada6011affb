"""Which changes of an audit log are found, with a known head and without, and what happens when it cannot be written."""

import asyncio
import json
import os
import resource
import signal

import pytest

from actors import Actor, ActorSystem, AuditBroken, AuditUnwritable, message
from actors.observing.audit_file import BEGINNING, verified
from actors.observing.audit_log import AuditLog, head_of
from actors.observing.notes import noted
from actors.observing.observer import Observing


@pytest.fixture
async def path(tmp_path):
    """A log of 6 entries: opened, four, closed."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for number in range(4):
        log.write(who="a", what=f"message {number}", decision="answered")
    log.close()
    return path


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


async def test_a_chain_is_whole_and_goes_on_after_a_restart(path):
    before = verified(path)
    assert (before.entries, before.torn) == (6, ())
    log = AuditLog(path)
    log.close()
    after = verified(path, head=before.head)
    assert (after.entries, after.found) == (8, 6)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [json.loads(line)["entry"] for line in lines(path)] == list(range(1, 9))
    assert json.loads(lines(path)[0])["before"] == BEGINNING


@pytest.mark.parametrize("number", range(1, 6))
async def test_the_first_broken_entry_is_named(path, number):
    content = lines(path)
    content[number - 1] = content[number - 1].replace(b'"decision":"', b'"decision":"not ')
    path.write_bytes(b"".join(content))
    with pytest.raises(AuditBroken, match=f"entry {number} is the first that is broken"):
        verified(path)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda content: content[:2] + content[3:], 3),  # removed
        (lambda content: [*content[:2], content[3], content[2], *content[4:]], 3),  # moved
        (lambda content: content[:3] + content[2:], 4),  # twice
        (lambda content: [*content[:2], b"nothing\n", *content[3:]], 3),  # no entry
        (lambda content: [*content[:5], b"nothing\n"], 6),
    ],
)
async def test_entries_that_were_removed_moved_or_put_in_are_found(path, change, number):
    path.write_bytes(b"".join(change(lines(path))))
    with pytest.raises(AuditBroken, match=f"entry {number} is the first that is broken"):
        verified(path)


async def test_what_was_cut_off_at_the_end_is_found_by_a_known_head_only(path):
    head = verified(path).head
    path.write_bytes(b"".join(lines(path)[:4]))
    assert verified(path).entries == 4
    with pytest.raises(AuditBroken, match="cut off at the end"):
        verified(path, head=head)


async def test_a_file_whose_hashes_were_made_anew_is_found_by_a_known_head_only(path):
    head = verified(path).head
    path.unlink()
    AuditLog(path).close()
    verified(path)
    with pytest.raises(AuditBroken, match="made anew"):
        verified(path, head=head)


@pytest.mark.parametrize("kept", [1, 40])
async def test_a_line_that_a_dying_process_has_torn_is_told_and_the_chain_goes_on(path, kept):
    *whole, torn = lines(path)
    path.write_bytes(b"".join(whole) + torn[:kept])
    assert verified(path).torn == (6,)
    AuditLog(path).close()
    assert verified(path).torn == (6,)
    assert verified(path).entries == 8


async def test_the_figures_hold_the_whole_head(path):
    log = AuditLog(path)
    parts = {dict(one.labels)["part"]: float(one.value) for one in log.figures() if one.name == "confide_audit_head"}
    assert head_of(parts) == log.head == verified(path).head
    log.close()
    assert head_of({"0": 1.0}) == ""


async def test_what_is_no_log_of_this_user_alone_is_refused(path, tmp_path):
    log = AuditLog(path)
    with pytest.raises(AuditUnwritable, match="another process"):
        AuditLog(path)
    log.close()
    path.chmod(0o640)
    with pytest.raises(AuditUnwritable, match="chmod 600"):
        AuditLog(path)
    other = tmp_path / "other"
    for content in (b"a letter\n", b"a letter"):
        other.write_bytes(content)
        other.chmod(0o600)
        with pytest.raises(AuditUnwritable, match="no audit log"):
            AuditLog(other)
        assert other.read_bytes() == content
    link = tmp_path / "link"
    link.symlink_to(path)
    for unusable in (link, tmp_path / "nowhere" / "audit", tmp_path):
        with pytest.raises(AuditUnwritable, match="cannot be opened"):
            AuditLog(unusable)


class Door(Actor):
    """Counts who came in."""

    def __init__(self):
        self.entered = 0

    @message
    async def enter(self) -> int:
        self.entered += 1
        noted(entered=self.entered)
        return self.entered


@pytest.fixture
def full_disk(path):
    """Files of this process may not grow beyond what is there."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(more):
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, before[1]))

    def free():
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    yield fill, free
    free()
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("more", [0, 30])
async def test_what_cannot_be_written_down_is_not_answered_and_then_not_done(path, full_disk, more):
    fill, free = full_disk
    async with ActorSystem("ws://127.0.0.1:0", observing=Observing(audit=path)) as system, ActorSystem() as here:
        door = await system.spawn(Door, name="door")
        there = await here.connect(str(door), Door)
        assert await there.enter() == 1
        fill(more)
        with pytest.raises(AuditUnwritable):
            await there.enter()  # done, and not told
        with pytest.raises(AuditUnwritable):
            await there.enter()  # not done
        assert system.observer.audit.broken
        free()
        assert await there.enter() == 3
        assert not system.observer.audit.broken
    entries = [json.loads(line) for line in lines(path)]
    assert [entry["facts"]["entered"] for entry in entries if "facts" in entry] == [1, 2, 3]
    assert verified(path).entries == len(entries)


async def test_a_disk_that_has_failed_is_not_believed_again(path, monkeypatch):
    monkeypatch.setattr("actors.observing.audit_log.SYNC_EVERY", 0.0)
    async with ActorSystem("ws://127.0.0.1:0", observing=Observing(audit=path)) as system, ActorSystem() as here:
        there = await here.connect(str(await system.spawn(Door, name="door")), Door)

        def failed(file):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", failed)
            assert await there.enter() == 1
            await system_is_broken(system)
        with pytest.raises(AuditUnwritable, match="start this process anew"):
            await there.enter()


async def system_is_broken(system):
    async with asyncio.timeout(20):
        while not system.observer.audit.broken:
            await asyncio.sleep(0)
