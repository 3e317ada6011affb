"""What private trainings have spent: as dp-accounting says, written before an epoch, and never given back by a new start."""

import dp_accounting
import pytest

from privacy import DPSGD, BudgetSpent, Ledger
from protocols.accounting.spending import FILE, Spending
from protocols.errors import CheckpointError

SETTINGS = DPSGD(noise_multiplier=2.0, max_grad_norm=1.0)


def expected(z, epochs, delta=1e-5):
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(z), epochs)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize("z", [0.5, 1.0, 8.0])
@pytest.mark.parametrize("epochs", [1, 3, 20])
async def test_epsilon_is_that_of_dp_accounting_for_each_adversary(z, epochs):
    spending = Spending()
    await spending.begin(DPSGD(noise_multiplier=z, max_grad_norm=1.0), None, None, (0, epochs))
    for epoch in range(epochs):
        spending.pay(epoch)
    spent = spending.spent()
    assert spent.epsilon == pytest.approx(expected(z, epochs), rel=0.005)
    assert spent.alone == pytest.approx(expected(z * 2**0.5, epochs), rel=0.005)
    assert spent.alone < spent.epsilon


async def test_who_resumes_goes_on_counting_and_an_epoch_is_paid_for_once(tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="x", max_epsilon=50.0, delta=1e-5)
    first, second = Spending(), Spending()
    await first.begin(SETTINGS, tmp_path, ledger, (0, 3))
    first.pay(0)
    first.pay(1)  # here the process ends
    await second.resume(SETTINGS, tmp_path, ledger, (1, 3))
    second.pay(1)
    second.pay(2)
    assert second.spent().epsilon == pytest.approx(expected(2.0, 3), rel=0.005)
    assert sum(release.count for release in ledger.releases) == 3
    second.told(2)
    second.pay(2)
    assert sum(release.count for release in ledger.releases) == 4
    assert second.spent().epsilon == pytest.approx(expected(2.0, 4), rel=0.005)


async def test_a_model_that_was_trained_before_begins_with_what_that_cost(tmp_path):
    spending, other = Spending(), Spending()
    await spending.begin(SETTINGS, None, None, (0, 2))
    spending.pay(0)
    spending.pay(1)
    await spending.begin(SETTINGS, tmp_path, None, (0, 1))
    spending.pay(0)
    await other.resume(SETTINGS, tmp_path, None, (1, 1))
    assert spending.spent() == other.spent()
    assert other.spent().epsilon == pytest.approx(expected(2.0, 3), rel=0.005)


async def paid(spending, begins, folder, epochs):
    """Pay for epochs of one training; return the epsilon of all that was paid for."""
    await begins(SETTINGS, folder, None, epochs)
    for epoch in range(*epochs):
        spending.pay(epoch)
    return spending.spent().epsilon


async def test_who_resumes_counts_what_was_spent_elsewhere_in_between(tmp_path):
    spending, other = Spending(), Spending()
    await paid(spending, spending.begin, None, (0, 1))
    await paid(spending, spending.begin, tmp_path, (0, 2))
    assert await paid(spending, spending.begin, None, (0, 6)) == pytest.approx(expected(2.0, 9), rel=0.005)
    assert await paid(spending, spending.resume, tmp_path, (2, 3)) == pytest.approx(expected(2.0, 10), rel=0.005)
    assert await paid(spending, spending.resume, tmp_path, (3, 4)) == pytest.approx(expected(2.0, 11), rel=0.005)
    assert await paid(other, other.resume, tmp_path, (4, 4)) == spending.spent().epsilon, "the folder knows now"


async def test_a_budget_is_kept_over_trainings_that_a_folder_does_not_know(tmp_path):
    spending = Spending()
    await paid(spending, spending.begin, tmp_path, (0, 2))
    await paid(spending, spending.begin, None, (0, 6))
    few = DPSGD(noise_multiplier=2.0, max_grad_norm=1.0, max_epsilon=expected(2.0, 5))
    with pytest.raises(BudgetSpent):
        await spending.resume(few, tmp_path, None, (2, 3))
    assert spending.spent().epsilon == pytest.approx(expected(2.0, 8), rel=0.005)


async def test_epochs_that_an_earlier_version_wrote_are_counted(tmp_path):
    (tmp_path / FILE).write_bytes(b'{"multipliers": [2.0, 2.0], "paid": 2}')
    spending = Spending()
    await paid(spending, spending.begin, None, (0, 3))
    for last in (3, 4):  # once, however often it is resumed
        assert await paid(spending, spending.resume, tmp_path, (last - 1, last)) == pytest.approx(expected(2.0, 3 + last), rel=0.005)


@pytest.mark.parametrize("content", [None, b'{"multipliers": [2.0], "paid": 1, "marks": ["a", "b"]}', b"{", b'{"multipliers": "none"}'])
async def test_a_folder_that_does_not_say_what_was_spent_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="spent"):
        await Spending().resume(SETTINGS, tmp_path, None, (1, 2))


async def test_more_than_the_budget_is_refused_before_anything_is_written(tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="x", max_epsilon=3.0, delta=1e-5)
    few = DPSGD(noise_multiplier=2.0, max_grad_norm=1.0, max_epsilon=3.0)
    for settings, counted in ((SETTINGS, ledger), (few, None)):
        with pytest.raises(BudgetSpent):
            await Spending().begin(settings, tmp_path, counted, (0, 20))
    assert ledger.epsilon() == 0
    assert not (tmp_path / FILE).exists()


async def test_what_others_have_spent_since_is_seen_before_an_epoch(tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="x", max_epsilon=4.0, delta=1e-5)
    spending = Spending()
    await spending.begin(SETTINGS, None, ledger, (0, 2))
    ledger.spend(dp_accounting.GaussianDpEvent(1.25))
    with pytest.raises(BudgetSpent):
        spending.pay(0)
    assert spending.spent().epsilon == 0
