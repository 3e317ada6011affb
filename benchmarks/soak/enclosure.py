"""Namespaces of its own: a network with a wire to each worker, processes that end together, mounts that nobody else sees.

Where the system lets us make them, by root or by user namespaces, the soak runs inside as the first process. When that ends, however it
ends, the kernel ends all others, and takes networks and mounts away: nothing can be left behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

INSIDE = "CONFIDE_SOAK_INSIDE"
BRIDGE = "soak"
HOST = "10.213.0.254"
TOOLS = ("unshare", "nsenter", "ip", "mount")


def inside() -> bool:
    """Whether this process is the first in namespaces of its own."""
    return os.environ.get(INSIDE) == "1" and os.getpid() == 1


def unshared() -> list[str] | None:
    """Return the command that runs another in namespaces of its own; None: this system does not let us, or a tool is missing."""
    if sys.platform != "linux" or not all(shutil.which(tool) for tool in TOOLS):
        return None
    plain = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    commands = [plain] if os.geteuid() == 0 else []
    commands.append([plain[0], "--user", "--map-root-user", *plain[1:]])
    for command in commands:
        probe = [*command, "sh", "-c", "ip link add probe type bridge && mount -t tmpfs none /mnt"]
        if subprocess.run(probe, capture_output=True, timeout=30).returncode == 0:
            return command
    return None


def run_inside(command: list[str], arguments: list[str]) -> int:
    """Run this module's package in namespaces; return its exit code. SIGTERM to us ends it and all that it started."""
    process = subprocess.Popen([*command, sys.executable, "-m", "benchmarks.soak", *arguments], env=os.environ | {INSIDE: "1"})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # those inside get it from the terminal, too, and end well
    signal.signal(signal.SIGTERM, lambda *_: process.kill())
    return process.wait()


def _shell(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def wire(count: int) -> list[str]:
    """Make a bridge, and networks 0 to count - 1 with a wire to it; return their addresses."""
    _shell("mount", "--make-rprivate", "/")
    _shell(
        "mount", "-t", "tmpfs", "none", "/dev/shm"
    )  # libfaketime leaves locks there, named by numbers of processes, which begin anew here
    Path("/run/netns").mkdir(exist_ok=True)
    _shell("mount", "-t", "tmpfs", "none", "/run/netns")
    _shell("ip", "link", "set", "lo", "up")
    _shell("ip", "link", "add", BRIDGE, "type", "bridge")
    _shell("ip", "addr", "add", f"{HOST}/24", "dev", BRIDGE)
    _shell("ip", "link", "set", BRIDGE, "up")
    for number in range(count):
        name, address = f"net{number}", f"10.213.0.{number + 1}"
        _shell("ip", "netns", "add", name)
        _shell("ip", "link", "add", f"wire{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _shell("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _shell("ip", "-n", name, "link", "set", device, "up")
        _shell("ip", "link", "set", f"wire{number}", "up")
        plug(number)
    return [f"10.213.0.{number + 1}" for number in range(count)]


def cut(number: int) -> None:
    """Take the wire of a network out of the bridge: what is sent vanishes, and nobody is told."""
    _shell("ip", "link", "set", f"wire{number}", "nomaster")


def plug(number: int) -> None:
    """Put the wire back."""
    _shell("ip", "link", "set", f"wire{number}", "master", BRIDGE)


def within(number: int) -> list[str]:
    """Return what a command is preceded by to run in a network."""
    return ["nsenter", f"--net=/run/netns/net{number}"]


def small_disk(folder: Path, mebibytes: int) -> None:
    """Mount a small file system of its own on a folder."""
    _shell("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "none", str(folder))


def reap() -> None:
    """Take the return codes of processes whose parents have ended, as the first process has to."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def others() -> list[str]:
    """Return what else runs in these namespaces, by its command."""
    reap()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() or f"[{entry.name} {state}]")
            except OSError:
                continue
    return found
