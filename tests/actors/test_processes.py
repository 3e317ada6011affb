"""Child processes: started, heard, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import sysconfig
import textwrap

import pytest

from actors import ChildFailed, ChildProcess, started_by_parent
from actors import processes as module

CHILD = """
import asyncio, sys
from actors import exit_with_parent, started_by_parent
async def main():
    secret = started_by_parent()
    print("some noise before", "x" * 100_000, flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    print("ready", secret.hex(), *sys.argv[1:], flush=True)
    await exit_with_parent(grace=float(sys.argv[2]) if len(sys.argv) > 2 else 5.0)
    if sys.argv[1] == "stubborn":
        while True: pass  # never lets the loop run again
    print("said goodbye", flush=True)
asyncio.run(main())
"""

PARENT = """
import asyncio, sys
from actors import ChildProcess
async def main():
    child = await ChildProcess.start("the_child", *sys.argv[1:])
    print(child.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Modules that can be run by `python -m`."""

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))

    root = os.path.dirname(os.path.dirname(module.__file__))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")
    write("the_child", CHILD)
    write("the_parent", PARENT)
    return write


async def gone(pid):
    """Waits until a process that is not our child has ended."""
    descriptor = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def test_a_child_says_where_it_is_and_ends_when_it_is_told(programs):
    async with await ChildProcess.start("the_child", "graceful") as child:
        assert child.address == f"{child.secret.hex()} graceful"
        assert child.returncode is None
        assert os.getpgid(child.pid) != os.getpgid(0)
        assert os.getsid(child.pid) == child.pid
    assert child.returncode == 0
    assert "said goodbye" in child.tail
    assert "to stderr" in child.tail
    assert child.secret.hex() not in repr(child)


async def test_a_child_that_does_not_end_by_itself_is_ended(programs):
    child = await ChildProcess.start("the_child", "stubborn", "60")
    await child.stop(grace=0.05)
    assert child.returncode == -signal.SIGTERM


async def test_a_child_that_ignores_being_terminated_is_killed(programs):
    programs(
        "deaf",
        """
        import signal, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready now", flush=True)
        while True: signal.pause()
        """,
    )
    child = await ChildProcess.start("deaf")
    await child.stop(grace=0.05)
    assert await child.wait() == -signal.SIGKILL


async def test_a_grandchild_that_holds_the_output_open(programs, monkeypatch):
    monkeypatch.setattr(module, "SILENT_WITHIN", 0.05)
    programs(
        "forking_child",
        """
        import os, signal, sys
        if not (pid := os.fork()): signal.pause()
        print("ready", pid, flush=True)
        sys.stdin.read()
        """,
    )
    child = await ChildProcess.start("forking_child")
    await child.stop()
    assert child.returncode == 0
    os.kill(int(child.address), signal.SIGKILL)


async def test_stopping_twice(programs):
    child = await ChildProcess.start("the_child", "graceful")
    await child.stop()
    await child.stop()
    assert child.returncode == 0


async def test_a_child_that_ends_before_it_is_ready_shows_its_last_lines(programs):
    programs("broken", "import sys\nprint('first')\nraise ValueError('why it broke')")
    with pytest.raises(ChildFailed, match="python -m broken: ended with code 1 before it was ready") as failed:
        await ChildProcess.start("broken")
    assert "ValueError: why it broke" in str(failed.value)
    assert "first" in str(failed.value)


async def test_a_module_that_does_not_exist(programs):
    with pytest.raises(ChildFailed, match="No module named no_such_module"):
        await ChildProcess.start("no_such_module")


async def test_a_child_that_is_late(programs):
    programs("late", "import sys, time\nprint('still working', flush=True)\nsys.stdin.read()\nsys.stdin.read()\n")
    with pytest.raises(ChildFailed, match=r"did not say 'ready ADDRESS' within 0.01 s"):
        await ChildProcess.start("late", ready_within=0.01)


async def test_a_child_floods_its_output_without_blocking(programs):
    programs(
        "flood",
        """
        import asyncio
        from actors import exit_with_parent
        print("ready now", flush=True)
        for number in range(20_000): print("line", number, "x" * 40)
        asyncio.run(exit_with_parent())
        """,
    )
    async with await ChildProcess.start("flood") as child:
        while "line 19999" not in child.tail:
            await asyncio.sleep(0)
    assert child.returncode == 0
    assert len(child.tail.splitlines()) <= 40


@pytest.mark.parametrize("mode", ["graceful", "stubborn"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_a_child_dies_with_its_parent(programs, mode, sign):
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "the_parent", mode, "0.1", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    ended = asyncio.create_task(gone(int(await parent.stdout.readline())))
    await asyncio.sleep(0)
    parent.send_signal(sign)
    await ended
    assert await parent.stdout.read() == b""
    await parent.wait()


async def test_a_child_dies_with_its_parent_even_if_somebody_holds_the_pipe(programs):
    """A process that the parent forked inherits the pipe; the child looks at its parent, too."""
    programs("forking", PARENT.replace("    print(", "    import os, signal\n    if not os.fork(): signal.pause()\n    print("))
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "forking", "graceful", "0.1", stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    ended = asyncio.create_task(gone(int(await parent.stdout.readline())))
    await asyncio.sleep(0)
    os.kill(parent.pid, signal.SIGKILL)
    await ended
    os.killpg(parent.pid, signal.SIGKILL)  # the fork
    assert await parent.stdout.read() == b""
    await parent.wait()


@pytest.mark.parametrize("seen", ["dies before it is looked for", "is not the direct parent"])
def test_a_parent_that_is_not_the_process_above(monkeypatch, seen):
    """The parent is known by the number that it told, not by who is above when the watch begins."""
    alive = [True, True, False]
    told = []
    monkeypatch.setattr(module.os, "getppid", lambda: 1)
    monkeypatch.setattr(module, "_lives", lambda parent: seen == "is not the direct parent" and alive.pop(0))
    monkeypatch.setattr(module.select, "select", lambda *_: ([], [], []))
    monkeypatch.setattr(module.os, "_exit", told.append)
    module._watch_parent(4242, lambda: told.append("gone"), 0.0)
    assert told == ["gone", 1]
    assert len(alive) == (0 if seen == "is not the direct parent" else 3)


async def test_who_lives():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await process.wait()
    assert [module._lives(number) for number in (os.getpid(), 1, process.pid)] == [True, True, False]


async def test_a_program_that_no_parent_started(monkeypatch):
    module._told.cache_clear()
    reader, writer = os.pipe()
    os.write(writer, b"not a secret\n")
    os.close(writer)
    monkeypatch.setattr(module.os, "read", lambda descriptor, count, read=os.read: read(reader, count))
    with pytest.raises(ChildFailed, match="no secret came on standard input"):
        started_by_parent()
    os.close(reader)
    module._told.cache_clear()


async def test_a_child_ends_although_whoever_stops_it_is_cancelled(programs):
    child = await ChildProcess.start("the_child", "stubborn", "60")
    stopping = asyncio.create_task(child.stop(grace=60))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert child.returncode == -signal.SIGKILL


async def test_what_a_child_logs_is_in_the_log_of_its_parent(programs, caplog):
    programs(
        "logging_child",
        """
        import logging, sys
        from actors.processes import log_to_parent
        log_to_parent()
        logging.getLogger("some.logger").warning("first line\\nsecond line")
        logging.getLogger("some.logger").info("nobody asked for this")
        print("log not of the logger", file=sys.stderr, flush=True)
        print("ready", flush=True)
        print("ready here", flush=True)
        sys.stdin.read()
        """,
    )
    async with await ChildProcess.start("logging_child") as child:
        while "not of the logger" not in child.tail:
            await asyncio.sleep(0)
        [record] = caplog.records
        assert (record.name, record.levelname) == ("some.logger", "WARNING")
        assert record.getMessage() == "python -m logging_child: first line\nsecond line"
        assert "first line\nsecond line" in child.tail


async def test_a_child_finds_its_own_libpython_first(programs, tmp_path, monkeypatch):
    """R exports LD_LIBRARY_PATH with folders of the system, where the libpython of another installation may be."""
    library = sysconfig.get_config_var("INSTSONAME") or ""
    if not library.startswith("libpython"):
        pytest.skip("this Python is linked statically: LD_LIBRARY_PATH cannot give it another libpython")
    (tmp_path / library).write_text("no library at all")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    async with await ChildProcess.start("the_child", "hello") as child:
        assert child.address.endswith(" hello")
    before = os.environ["LD_LIBRARY_PATH"]
    assert before == str(tmp_path)  # nobody else's environment has changed


async def test_where_nobody_has_set_a_path_for_libraries_none_is_set(programs, monkeypatch):
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    programs("a_child", CHILD.replace("secret.hex()", "'LD_LIBRARY_PATH' in __import__('os').environ"))
    async with await ChildProcess.start("a_child", "hello") as child:
        assert child.address == "False hello"
