"""Every example runs, prints what it promises, and leaves nothing behind."""

import asyncio
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=1500, cwd=EXAMPLES)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo():
    done = subprocess.run(
        [sys.executable, "demo.py", "--epochs", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
        cwd=EXAMPLES,
    )
    shown = done.stdout
    assert done.returncode == 0, shown
    assert not [word for word in ("absl", "oneDNN", "cuda", "cpu_feature_guard", "cuInit") if word in shown], shown
    assert shown.count("Actual:") == 3
    assert "bytes sent online" in shown
    assert "3 of 3" in shown


def test_sharing_by_hand():
    shown = run("sharing_by_hand.py")
    assert "together: 77777" in shown
    assert "added share by share: 133" in shown
    assert "five parties: 77777" in shown


def test_secure_average():
    learned, expected = run("secure_average.py").splitlines()[-2:]
    assert learned.partition("[")[2] == expected.partition("[")[2]
    assert "the weighted mean" in learned


@pytest.mark.long
def test_what_is_trained_on_shares_is_served_as_it_lies():
    lines = run("trained_and_served.py", "2000").splitlines()
    told = [float(line.partition("accuracy ")[2].partition("%")[0]) for line in lines if "test images" in line]
    assert len(told) == 2
    assert min(told) > 65
    right = [int(line.split()[2]) for line in lines if "answers to the client" in line]
    assert len(right) == 2
    assert min(right) >= 4, "of twelve: ten classes"
    assert lines[-1] == "no weight was opened"


def test_counter():
    assert run("counter.py").splitlines() == ["here: 4", "over a websocket: 42"]


def test_a_federated_round_by_hand(monkeypatch, capsys):
    """In this process, which has loaded TensorFlow."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / "federated_round_by_hand.py"), run_name="__main__")
    *owners, together = [float(word.rstrip("%")) for word in capsys.readouterr().out.split() if word.endswith("%")][1:]
    assert len(owners) == 3
    assert together > max(owners)


def test_owners_with_trainers_of_their_own():
    lines = run("own_trainer.py").splitlines()
    assert [line.partition(",")[0] for line in lines[:3]] == ["scikit-learn"] * 3
    assert float(lines[3].split()[-1]) > 0.95
    assert float(lines[-1].split()[-1]) > 0.95


@pytest.mark.long
def test_a_hundred_owners():
    shown = run("hundred_owners.py", "--rounds", "28")
    assert "round 28:" in shown
    federated, central = [float(word.strip("%;")) for word in shown.splitlines()[-1].split() if "%" in word]
    assert federated > 94
    assert federated > central - 2.5


@pytest.mark.long
def test_a_secure_federation():
    shown = run("secure_federation.py")
    assert shown.count("9 of 10 owners") == 8
    masked, shared = [float(word.strip("%,")) for word in shown.splitlines()[-1].split() if "%" in word]
    assert masked == pytest.approx(shared, abs=0.2)
    assert masked > 85


@pytest.mark.long
def test_a_private_federation():
    shown = run("private_federation.py", "--rounds", "8")
    accuracy, epsilon = (float(word.strip("%,")) for word in shown.split("with noise:")[1].split()[1:6:4])
    bound = float(shown.split("epsilon is at least ")[1].split()[0])
    assert accuracy > 65
    assert 1.5 < epsilon < 4.0
    assert bound < epsilon


@pytest.mark.long
def test_adapters_of_a_language_model():
    shown = run("lora.py")
    lines = shown.splitlines()
    assert "bit-equal afterwards: 14 of 14" in shown
    each, adapters = (int(part.split()[-1].replace(",", "")) for part in lines[-2].split(";")[:2])
    assert adapters <= each < 1.05 * adapters
    before, after = (float(word) for word in lines[-1].split() if word.replace(".", "").isdigit())
    assert after < before


@pytest.mark.long
def test_private_training():
    last = run("private_training.py", "--epochs", "3").splitlines()[-2:]
    assert float(last[0].split("accuracy ")[1].split(",")[0]) > 0.6
    assert 2.9 < float(last[1].split("epsilon ")[1].split(",")[0]) <= 3.0


@pytest.mark.parametrize(("rounds", "least"), [(2, 0.92), pytest.param(4, 0.93, marks=pytest.mark.long)])
def test_three_machines(rounds, least):
    shown = run("three_machines.py", "--rounds", str(rounds))
    assert "3 certificates in keys" in shown
    assert shown.count("has joined ") >= 2  # in the table of `confide status`
    last = next(line for line in shown.splitlines() if line.startswith(f"hub: round {rounds}: 2 of 2 owners"))
    assert float(last.partition("val_accuracy ")[2].partition(",")[0]) > least
    assert "hub: saved model.keras" in shown


@pytest.mark.long
def test_two_hospitals():
    shown = run("two_hospitals.py", "2000", "2")
    lines = shown.splitlines()
    assert shown.count("whoever has the grant") == 4
    assert lines.index("greg was killed and is started again") == next(i for i, line in enumerate(lines) if line.startswith("epoch 1")) + 1
    assert sum(line.startswith("epoch 1") for line in lines) == 1
    assert float(lines[-1].split("accuracy ")[1].split("%")[0]) > 75


@pytest.mark.long
def test_all_of_it_together():
    shown = run("all_together.py", "4000", "6")
    lines = [line for line in shown.splitlines() if line.startswith("epoch ")]
    spent = [float(line.split("epsilon ")[1].split()[0]) for line in lines]
    assert len(spent) == 6
    assert spent == sorted(spent)
    assert 2.0 < spent[-1] <= 3.0
    accuracy, answered = shown.splitlines()[-2:]
    assert float(accuracy.split("accuracy ")[1].split("%")[0]) > 65
    assert int(answered.split()[0]) >= 4, "of twelve: ten classes"
    assert answered.endswith("no weight was opened")


@pytest.mark.long
def test_a_residual_network():
    shown = run("resnet.py", "--images", "32")
    assert "predicted without seeing them" in shown
    assert 0 < float(shown.split("furthest from Keras: ")[1].split()[0]) < 0.02


async def test_serve_and_client_in_two_terminals(tmp_path):
    model = tmp_path / "mnist.keras"
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "serve.py", *["localhost:0"] * 3, "--model", str(model), "--epochs", "1"),
        cwd=EXAMPLES,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        addresses = []
        async for line in owner.stdout:
            if line.startswith(b"serving"):
                addresses = line.decode().split()[-3:]
                break
        shown = await asyncio.to_thread(run, "client.py", *addresses, "--images", "5", "6", "7")
        assert shown.count("Actual:") == 3
        rest = (await owner.stdout.read()).decode()
        assert rest.splitlines() == [f"answered request {n}" for n in (1, 2, 3)]
        assert await owner.wait() == 0
        assert model.exists(), "there was none, so it was trained and saved"
    finally:
        if owner.returncode is None:
            owner.kill()
            await owner.wait()


@pytest.mark.parametrize("name", sorted(file.name for file in EXAMPLES.glob("*.py")))
def test_every_example_says_what_it_is(name):
    assert (EXAMPLES / name).read_text().startswith('"""')


@pytest.mark.long
def test_trees_of_two_hospitals():
    shown = run("hospitals_trees.py", "300", "3")
    assert "3 trees on 300 patients, each of depth 3" in shown
    assert "the first split: patch " in shown
    together, alone = (float(word.rstrip("%,")) for word in shown.splitlines()[-1].split() if "%" in word)
    assert together > 90
    assert alone > 80


def test_private_regression():
    shown = run("private_regression.py", "500", "20")
    [line] = [line for line in shown.splitlines() if line.startswith("accuracy")]
    together, alone = (float(word.rstrip("%,")) for word in line.split() if "%" in word)
    assert together > 90
    assert alone > 80
    assert "coefficients: [" in shown
