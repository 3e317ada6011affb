"""Secure aggregation: exact sums under every pattern of dropouts, and refusals of everything that a dishonest server could try."""

import itertools
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import AggregationError, SharingError
from protocols.mpc.parties.keystream import KeyStream
from protocols.quantisation import Quantisation, word_type
from protocols.secure_aggregation import AggregationOwner, AggregationServer, AggregationTerms, shamir, terms
from protocols.secure_aggregation.graph import Graph, Nonces
from protocols.secure_aggregation.masks import add_masks

LENGTH = 5
STAGES = 5
"""An owner may vanish before it advertises (0), shares (1), masks (2), confirms (3), unmasks (4), or not at all (5)."""


def identities(n: int) -> list[Ed25519PrivateKey]:
    return [Ed25519PrivateKey.from_private_bytes(bytes([u, u >> 8] + [7] * 30)) for u in range(n)]


def session(n: int, length: int = LENGTH, label: str = "test", **options) -> tuple[AggregationTerms, list[AggregationOwner]]:
    keys, nonces = identities(n), [Nonces() for _ in range(n)]
    roster = [key.public_key().public_bytes_raw() for key in keys]
    agreed = terms(label, roster, length, commitments=[one.commitment for one in nonces], **options)
    return agreed, [AggregationOwner(agreed, *pair) for pair in zip(keys, nonces, strict=True)]


def vectors(n: int, length: int = LENGTH) -> np.ndarray:
    return KeyStream(bytes(16)).words((n, length))


def run(agreed: AggregationTerms, owners: list[AggregationOwner], x: np.ndarray, last: list[int]) -> np.ndarray:
    """A whole session in which owner u takes part in the rounds before `last[u]`."""
    server = AggregationServer(agreed)

    def there(stage: int, among) -> list[AggregationOwner]:
        return [owners[u] for u in sorted(among) if last[u] > stage]

    first = server.advertisements([owner.advertise() for owner in there(0, range(len(owners)))])
    sealed = server.shares([owner.share(first[owner.number], server.nonces) for owner in there(1, first)])
    for owner in there(2, sealed):
        server.add(owner.mask(sealed[owner.number], x[owner.number]))
    survivors = server.survivors()
    signed = server.confirmations([owner.confirm(survivors) for owner in there(3, survivors)])
    return server.total([owner.unmask(signed[owner.number]) for owner in there(4, signed)])


@pytest.mark.parametrize("first", range(STAGES + 1))
@pytest.mark.sample(1)
def test_every_pattern_of_dropouts_among_five_owners(first):
    x = vectors(5)
    opened = refused = 0
    for rest in itertools.product(range(STAGES + 1), repeat=4):
        last = [first, *rest]
        agreed, owners = session(5, cohort=3)
        masked, finished = ([u for u in range(5) if last[u] > stage] for stage in (2, 4))
        try:
            total = run(agreed, owners, x, last)
        except AggregationError:
            refused += 1
            assert len(finished) < 4, last  # four of five always suffice: each secret has four shares, three are needed
            continue
        opened += 1
        assert len(finished) >= 3, last
        np.testing.assert_array_equal(total, x[masked].sum(axis=0, dtype=np.uint64))
    assert refused + opened == 6**4
    assert refused
    assert opened or first < STAGES


@settings(max_examples=15)
@given(st.data())
@pytest.mark.long
def test_sums_of_many_owners_on_a_sparse_graph(data):
    n = data.draw(st.integers(34, 60))
    agreed, owners = session(n)
    lost = data.draw(st.lists(st.integers(0, n - 1), max_size=n // 12, unique=True))
    last = [data.draw(st.integers(1, STAGES - 1)) if u in lost else STAGES for u in range(n)]
    x = vectors(n)
    assert agreed.degree < n - 1
    total = run(agreed, owners, x, last)
    np.testing.assert_array_equal(total, x[[u for u in range(n) if last[u] > 2]].sum(axis=0, dtype=np.uint64))


def test_the_graph_is_regular_and_symmetric():
    agreed, owners = session(50)
    graph = Graph(agreed, [owner.advertise().nonce for owner in owners])
    for u in range(50):
        assert len(graph.neighbours(u)) == agreed.degree
        assert all(u in graph.neighbours(v) for v in graph.neighbours(u))


def to_stage(stage: int, n: int = 5):
    """A session that has come to a stage: (terms, owners, server, what the next step is given)."""
    agreed, owners = session(n, cohort=3)
    server, x = AggregationServer(agreed), vectors(n)
    given_ = [owner.advertise() for owner in owners]
    advertised = server.advertisements(given_)
    if stage == 1:
        return agreed, owners, server, given_
    sealed = server.shares([owner.share(advertised[owner.number]) for owner in owners])
    if stage == 2:
        return agreed, owners, server, sealed
    for owner in owners:
        server.add(owner.mask(sealed[owner.number], x[owner.number]))
    if stage == 3:
        return agreed, owners, server, server.survivors()
    return agreed, owners, server, [owner.confirm(server.survivors()) for owner in owners]


class TestAServerThatLies:
    def test_forged_advertisement(self):
        _, owners, _, given_ = to_stage(1)
        forged = [msgspec.structs.replace(given_[1], mask_key=given_[2].mask_key), *given_[2:]]
        with pytest.raises(AggregationError, match="signature of owner 1 is forged"):
            owners[0].share(forged)

    def test_advertisement_of_another_session(self):
        agreed, owners, _, given_ = to_stage(1)
        old = AggregationOwner(terms("yesterday", agreed.roster, LENGTH, cohort=3), identities(5)[1]).advertise()
        with pytest.raises(AggregationError, match="or of another session"):
            owners[0].share([old, *given_[2:]])

    def test_an_owner_twice(self):
        _, owners, _, given_ = to_stage(1)
        with pytest.raises(AggregationError, match="advertised twice"):
            owners[0].share([*given_[1:], given_[1]])

    def test_a_stranger(self):
        _, owners, _, given_ = to_stage(1)
        with pytest.raises(AggregationError, match="owner 9 advertised, and is not on the roster"):
            owners[0].share([*given_[1:], msgspec.structs.replace(given_[1], owner=9)])

    def test_too_few_to_hide_among(self):
        _, owners, _, given_ = to_stage(1)
        with pytest.raises(AggregationError, match="too few to hide among"):
            owners[0].share(given_[1:3])

    def test_shares_altered_or_swapped(self):
        _, owners, server, sealed = to_stage(2)
        boxes = sealed[0]
        boxes[1], boxes[2] = boxes[2], boxes[1]
        x = vectors(5)
        for owner in owners:
            server.add(owner.mask(sealed[owner.number], x[owner.number]))
        signed = [owner.confirm(server.survivors()) for owner in owners]
        opened = owners[0].unmask(signed[1:])
        assert opened.unreadable == (1, 2)
        assert set(opened.own_masks) == {3, 4}

    def test_a_sum_without_this_owner_or_over_too_few(self):
        for announced in ([1, 2, 3], [0, 1]):
            _, owners, _, _ = to_stage(3)
            with pytest.raises(AggregationError, match="a sum over"):
                owners[0].confirm(announced)

    def test_different_owners_are_told_different_sets(self):
        """Owner 0 dropped for half of them: nobody opens anything, so both secrets of owner 0 cannot be had."""
        _, owners, _, _ = to_stage(3)
        told = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]
        signed = [owner.confirm(told[owner.number]) for owner in owners]
        for owner in owners:
            consistent = [one for one in signed if told[one.owner] == told[owner.number] and one.owner != owner.number]
            with pytest.raises(AggregationError, match="too few to open the sum"):
                owner.unmask(consistent)

    def test_a_forged_confirmation(self):
        _, owners, _, signed = to_stage(4)
        with pytest.raises(AggregationError, match="signature of owner 1 is forged"):
            owners[0].unmask([msgspec.structs.replace(signed[1], signature=signed[2].signature), *signed[2:]])

    def test_a_step_asked_for_twice_or_out_of_order(self):
        _, owners, _, signed = to_stage(4)
        opened = owners[0].unmask(signed[1:])
        assert set(opened.own_masks).isdisjoint(opened.mask_keys)
        with pytest.raises(AggregationError, match="unmask was asked for, nothing is due"):
            owners[0].unmask(signed[1:])
        _, owners, _, _ = to_stage(1)
        with pytest.raises(AggregationError, match="confirm was asked for, share is due"):
            owners[0].confirm([0, 1, 2])


class TestOwnersThatMisbehave:
    def test_a_forged_advertisement_costs_that_owner_only(self):
        agreed, owners = session(5, cohort=3)
        sent = [owner.advertise() for owner in owners]
        sent[4] = msgspec.structs.replace(sent[4], signature=bytes(64))
        server = AggregationServer(agreed)
        assert len(server.advertisements(sent)) == 4
        assert "forged" in server.left_out[4]

    @pytest.mark.parametrize(("secret", "vanishes"), [("_mask_key", True), ("_own_mask", False)])
    def test_shares_of_another_secret_than_was_advertised(self, secret, vanishes):
        """Shares that belong together, with digests that fit: nothing but what was advertised tells that they are of something else."""
        agreed, owners = session(5, cohort=3)
        other = session(5, cohort=3)[1][4]
        server, x = AggregationServer(agreed), vectors(5)
        advertised = server.advertisements([owner.advertise() for owner in owners])
        right = getattr(owners[4], secret)
        setattr(owners[4], secret, getattr(other, secret))
        shared = owners[4].share(advertised[4])
        setattr(owners[4], secret, right)
        sealed = server.shares([owner.share(advertised[owner.number]) for owner in owners[:4]] + [shared])
        there = owners[:4] if vanishes else owners
        for owner in there:
            server.add(owner.mask(sealed[owner.number], x[owner.number]))
        signed = server.confirmations([owner.confirm(server.survivors()) for owner in there])
        opened = [owner.unmask(signed[owner.number]) for owner in there]
        with pytest.raises(AggregationError, match=r"secret of owner 4 .* another than it has advertised"):
            server.total(opened)
        assert set(server.faults) == {4}

    def test_two_vectors_or_a_wrong_one(self):
        _, owners, server, sealed = to_stage(2)
        masked = owners[0].mask(sealed[0], vectors(5)[0])
        server.add(masked)
        with pytest.raises(AggregationError, match="has sent one before"):
            server.add(masked)
        with pytest.raises(AggregationError, match=r"sent \(3,\)"):
            server.add(msgspec.structs.replace(masked, owner=1, vector=np.zeros(3, np.uint64)))
        with pytest.raises(AggregationError, match=r"\(5,\) uint64 is needed"):
            owners[1].mask(sealed[1], np.zeros(5))


def test_a_masked_vector_is_balanced_in_every_bit_and_differs_each_time():
    """The server's view of one owner: uniform whatever the vector is."""
    views = []
    for _ in range(2):
        agreed, owners = session(5, length=20_000, cohort=3)
        first = [owner.advertise() for owner in owners]
        sealed = AggregationServer(agreed)
        advertised = sealed.advertisements(first)
        boxes = sealed.shares([owner.share(advertised[owner.number]) for owner in owners])
        views.append(owners[0].mask(boxes[0], np.zeros(20_000, np.uint64)).vector)
    assert not (views[0] == views[1]).any()
    for bit in range(64):
        ones = int(((views[0] >> np.uint64(bit)) & np.uint64(1)).sum())
        assert abs(ones - 10_000) < 7 * np.sqrt(20_000) / 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cohort": 2}, "from 3 to all"),
        ({"cohort": 6}, "from 3 to all"),
        ({"degree": 3}, "an even number below 5"),
        ({"degree": 6}, "an even number below 5"),
    ],
)
def test_terms_that_make_no_sense(options, complaint):
    with pytest.raises(AggregationError, match=complaint):
        session(5, **options)


def test_a_threshold_that_would_let_a_server_have_both_secrets():
    agreed, _ = session(5)
    for threshold in (1, 2, 5):
        with pytest.raises(AggregationError, match="more than two thirds"):
            AggregationTerms("test", agreed.roster, LENGTH, threshold, 3, 4)
    with pytest.raises(AggregationError, match="twice"):
        AggregationTerms("test", agreed.roster[:4] + agreed.roster[:1], LENGTH, 3, 3, 4)


class TestShamir:
    @given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 8), st.randoms(use_true_random=False))
    def test_any_threshold_shares_give_the_secret(self, secret, threshold, more, random):
        shares = shamir.split(secret, threshold=threshold, shares=threshold + more)
        chosen = random.sample(range(threshold + more), threshold)
        assert shamir.combine({j: shares[j] for j in chosen}, threshold=threshold) == secret

    def test_fewer_say_nothing_and_are_refused(self):
        shares = shamir.split(bytes(32), threshold=3, shares=5)
        with pytest.raises(SharingError, match="2 shares are there, 3 are needed"):
            shamir.combine({0: shares[0], 1: shares[1]}, threshold=3)
        assert len({shares[0].tobytes() for shares in (shamir.split(bytes(32), threshold=2, shares=2) for _ in range(50))}) == 50

    def test_shares_of_different_secrets_are_noticed(self):
        first, second = (shamir.split(bytes([i]) * 32, threshold=2, shares=2) for i in (1, 255))
        outcomes = []
        for _ in range(20):
            second = shamir.split(bytes([255]) * 32, threshold=2, shares=2)
            try:
                outcomes.append(shamir.combine({0: first[0], 1: second[1]}, threshold=2))
            except SharingError:
                outcomes.append(None)
        assert bytes([1]) * 32 not in outcomes
        assert None in outcomes

    @pytest.mark.parametrize(("threshold", "shares"), [(0, 3), (4, 3)])
    def test_thresholds_that_make_no_sense(self, threshold, shares):
        with pytest.raises(SharingError, match="threshold"):
            shamir.split(bytes(32), threshold=threshold, shares=shares)


class TestQuantisation:
    @given(st.integers(1, 200), st.integers(1, 10_000), st.floats(0.01, 100), st.integers(0, 2**32))
    def test_the_weighted_mean_is_right_within_the_stated_error(self, owners, most, clip, seed):
        scheme = Quantisation(clip, most, owners)
        stream = KeyStream(seed.to_bytes(16, "little"))
        x = (stream.words((owners, 3)).astype(np.float64) / 2.0**63 - 1) * clip
        weights = (stream.words(owners) % np.uint64(most) + np.uint64(1)).astype(np.int64)
        total = np.sum(
            [scheme.encode([row[:1], row[1:]], int(w)) for row, w in zip(x, weights, strict=True)], axis=0, dtype=word_type(scheme.word)
        )
        assert scheme.weight(total) == weights.sum()
        expected = (weights[:, None] * x).sum(axis=0) / weights.sum()
        bound = owners / weights.sum() * 2.0 ** -(scheme.bits + 1) + clip * 1e-12
        np.testing.assert_allclose(scheme.mean(total), expected, rtol=0, atol=bound)

    def test_the_largest_sum_does_not_overflow(self):
        for most, word in [(1000, 64), (1, 32)]:
            scheme = Quantisation(8.0, most, 100)
            assert scheme.word == word
            total = np.sum([scheme.encode([np.array([8.0, -8.0])], most) for _ in range(100)], axis=0, dtype=word_type(word))
            np.testing.assert_allclose(scheme.mean(total), [8.0, -8.0], rtol=1e-12)

    @given(st.integers(1, 10**4), st.integers(1, 10**6), st.floats(0.001, 100))
    def test_bits_are_as_many_as_fit(self, owners, most, clip):
        scheme = Quantisation(clip, most, owners)
        largest = Fraction(clip) * most * owners
        limit = 2 ** (scheme.word - 1) - owners
        assert largest * Fraction(2) ** scheme.bits <= limit
        assert scheme.bits == 40 or largest * Fraction(2) ** (scheme.bits + 1) > limit
        assert 2.0 ** -(scheme.bits + 1) <= 1e-6

    def test_what_is_refused(self):
        scheme = Quantisation(1.0, 10, 3)
        with pytest.raises(AggregationError, match="not finite, or larger than clip=1"):
            scheme.encode([np.array([np.nan, 0.0])], 1)
        with pytest.raises(AggregationError, match="not finite, or larger than clip=1"):
            scheme.encode([np.array([0.0, -1.01])], 1)
        for weight in (0, 11):
            with pytest.raises(AggregationError, match="not from 1 to 10"):
                scheme.encode([np.zeros(2)], weight)
        with pytest.raises(AggregationError, match="fractional bits"):
            Quantisation(1e9, 10_000, 1000)
        with pytest.raises(AggregationError, match="positive and finite"):
            Quantisation(0.0, 1, 1)


def test_masks_cancel():
    x = vectors(1, 40_000)[0]
    y = x.copy()
    add_masks(y, {b"s" * 32: 1})
    assert not (x == y).any()
    add_masks(y, {b"s" * 32: -1})
    np.testing.assert_array_equal(x, y)
