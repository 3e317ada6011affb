"""Three workers, each as a user of its own, started as the unit file says: what a container or systemd would do, where root is at hand."""

import asyncio
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest

from certified import WORKERS, configured
from protocols import connect

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "confide@.service"
USERS = dict(zip(WORKERS, (64301, 64302, 64303), strict=True))
CONFIDE = ["-m", "federated.command"]
PYTHON = os.environ.get("CONFIDE_PYTHON", sys.executable)
"""What the workers run in: an interpreter, with what confide needs, that other users may run."""


def as_user(uid: int) -> list[str]:
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]


pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv to run as other users"),
]


@pytest.fixture
def place():
    """A folder that all users may pass through; that of pytest is for one."""
    folder = Path(tempfile.mkdtemp(prefix="confide-users-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def reads(uid: int, path: Path) -> bool:
    return subprocess.run([*as_user(uid), "test", "-r", str(path)], check=False).returncode == 0


class Service:
    """One worker as systemd would run it."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.uid, self.place, self.process = name, USERS[name], place, None
        self.state, self.cache = place / "state" / "confide" / name, place / "cache" / "confide" / name
        for folder in (self.state, self.cache):
            folder.mkdir(parents=True)
            folder.chmod(0o700)

    def filled(self, text: str) -> str:
        return text.replace("%i", self.name).replace("%S", str(self.place / "state")).replace("%C", str(self.place / "cache"))

    def own(self) -> None:
        for path in (self.state, self.cache, self.place / f"{self.name}.shares.key", *self.state.rglob("*")):
            os.chown(path, self.uid, self.uid)

    def environment(self) -> dict[str, str]:
        lines = [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith("Environment=")]
        return {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **dict(self.filled(line).split("=", 1) for line in lines)}

    async def start(self) -> None:
        (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
        program, *arguments = shlex.split(self.filled(line.partition("=")[2]))
        assert program == "/opt/confide/bin/confide"
        given = [
            str(self.place / "cluster.toml") if one == "/etc/confide/cluster.toml" else "0" if one == "9464" else one for one in arguments
        ]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            address = f"confide-{secrets.token_hex(8)}"
            manager.bind(f"\0{address}")
            manager.setblocking(False)
            self.process = await asyncio.create_subprocess_exec(
                *as_user(self.uid),
                PYTHON,
                *CONFIDE,
                *given,
                env=self.environment() | {"NOTIFY_SOCKET": f"@{address}"},
                cwd="/",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(manager, 100), 120) == b"READY=1"

    async def end(self, how=signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return await self.process.wait()

    def confide(self, *arguments) -> subprocess.CompletedProcess[str]:
        command = [*as_user(self.uid), PYTHON, *CONFIDE, *map(str, arguments)]
        return subprocess.run(command, env=self.environment(), cwd="/", capture_output=True, text=True, check=False)


@contextlib.asynccontextmanager
async def services(place):
    made = configured(place, {"ward": 'role = "client"\n'}, keeps=True)
    text = made.file.read_text()
    for name in WORKERS:
        text = text.replace(f'"{place}/shares-{name}"\n', f'"{place}/state/confide/{name}"\ndata_key = "{place}/{name}.shares.key"\n')
    made.file.write_text(text)
    found = []
    for name in WORKERS:
        service = Service(name, place)
        (service.state / "keys").mkdir(mode=0o700)
        for file in ("ca.pem", f"{name}.pem", f"{name}.key"):
            shutil.copy(made.keys / file, service.state / "keys" / file)
        (place / f"{name}.shares.key").write_text(secrets.token_hex(32))
        (place / f"{name}.shares.key").chmod(0o400)
        service.own()
        found.append(service)
    made.keys.chmod(0o700)
    if found[0].confide("--help").returncode:
        pytest.skip(f"other users cannot run {PYTHON} with this checkout: set CONFIDE_PYTHON")
    try:
        await asyncio.gather(*(one.start() for one in found))
        yield made, dict(zip(WORKERS, found, strict=True))
    finally:
        for one in found:
            if one.process is not None and one.process.returncode is None:
                await one.end(signal.SIGKILL)


async def test_three_users_serve_a_model_that_outlives_a_restart_of_one_and_see_nothing_of_each_other(place):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    model.save(place / "small.keras")
    x = np.random.default_rng(0).uniform(size=(5, 4)).astype(np.float32)
    expected = model.predict(x, verbose=0)
    async with services(place) as (made, workers):
        command = [
            sys.executable,
            *CONFIDE,
            "serve",
            place / "small.keras",
            "--requests",
            "3",
            "--cluster",
            made.file,
            "--keys",
            made.keys,
            "--as",
            "ward",
        ]
        served = await asyncio.to_thread(
            subprocess.run, [str(one) for one in [*command, "--models", place / "rights"]], capture_output=True, text=True, check=False
        )
        assert served.returncode == 0, served.stdout + served.stderr
        async with made.cluster("ward") as cluster, connect(cluster, "small", timeout=60) as remote:
            np.testing.assert_allclose(await remote.query(x), expected, atol=0.005)
            assert await workers["greg"].end(signal.SIGKILL) == -signal.SIGKILL
            await workers["greg"].start()
            np.testing.assert_allclose(await remote.query(x, timeout=60), expected, atol=0.005)
        julia, greg = workers["julia"], workers["greg"]
        (share,) = (greg.state / "model" / "small").glob("*.share")
        for path in (share, greg.state / "keys" / "greg.key", place / "greg.shares.key"):
            assert (reads(greg.uid, path), reads(julia.uid, path)) == (True, False)
        shown = greg.confide("vault", "check", greg.state, "--key", place / "greg.shares.key")
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert "2 requests and 10 examples counted" in shown.stdout
        assert [await one.end() for one in workers.values()] == [0, 0, 0]
