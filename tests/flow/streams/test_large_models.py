"""What large models need, with random weights: the peak memory of each worker's process, from its start on, and answers near Keras'."""

import sys

import pytest

from benchmarks.large_models import CASES, measure

WORKERS = ("server_0", "server_1", "provider")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.filterwarnings("ignore::protocols.errors.Imprecise")  # random weights of 12 layers: 1 % of the range of the answers
@pytest.mark.parametrize("name", ["ResNet-50", "encoder"])
async def test_workers_stay_small(name, monkeypatch):
    """Without streams a worker had 1.7 to 2.6 GB for ResNet-50, and the encoder could not be asked: 10.9 GB of randomness an example."""
    monkeypatch.setattr("forked.MODULES", ())  # processes of their own, with no memory of others
    case = CASES[name]()
    figures = await measure(case, name)
    print(figures)
    assert {who: figures[f"peak_megabytes_{who}"] for who in WORKERS if figures[f"peak_megabytes_{who}"] >= case.bar} == {}
    assert figures["largest_error"] < 0.03 * figures["largest_output"]
    assert 1e6 * figures["megabytes_of_randomness"] > case.memory
