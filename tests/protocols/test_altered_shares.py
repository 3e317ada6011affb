"""Secure aggregation against owners that alter what opens the sum, and against a server that would choose who masks with whom."""

import dataclasses
import math

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import AggregationError
from protocols.quantisation import Quantisation
from protocols.secure_aggregation import AggregationOwner, AggregationServer, shamir, terms
from protocols.secure_aggregation.graph import ATTEMPTS, Graph, Nonces, commitment
from protocols.secure_aggregation.owner import DIGEST_BYTES

N, LENGTH = 10, 40
SCHEME = Quantisation(8.0, 100, N)
X = np.random.default_rng(0).normal(0, 0.1, (N, LENGTH))


def keys(n):
    return [Ed25519PrivateKey.from_private_bytes(bytes([u, u >> 8] + [7] * 30)) for u in range(n)]


def roster(n):
    return [key.public_key().public_bytes_raw() for key in keys(n)]


def played(*, share=lambda one: one, mask=lambda one: one, opened=lambda one: one, gone=()):
    """A session of ten owners, whose messages pass through functions; `gone` owners share, and then vanish."""
    agreed = terms("run round 1", roster(N), LENGTH + 1, word=SCHEME.word)
    owners, server = [AggregationOwner(agreed, key) for key in keys(N)], AggregationServer(agreed)
    advertised = server.advertisements([owner.advertise() for owner in owners])
    sealed = server.shares([share(owner.share(advertised[u])) for u, owner in enumerate(owners)])
    there = [owner for u, owner in enumerate(owners) if u in sealed and u not in gone]
    for owner in there:
        server.add(mask(owner.mask(sealed[owner.number], SCHEME.encode([X[owner.number]], 50))))
    alive = server.survivors()
    signed = server.confirmations([owner.confirm(alive) for owner in there])
    return server, alive, lambda: server.total([opened(owner.unmask(signed[owner.number])) for owner in there])


def assert_right(total, alive):
    np.testing.assert_allclose(SCHEME.mean(total), X[alive].mean(axis=0), rtol=0, atol=1e-6)
    SCHEME.check(total, len(alive))


def of(owner, what):
    return lambda one: what(one) if one.owner == owner else one


def altered(kind, change):
    """An owner's opened shares of others, each changed."""

    def alter(one):
        return msgspec.structs.replace(one, **{kind: {v: change(share.copy()) for v, share in getattr(one, kind).items()}})

    return alter


def add_one(share):
    share[0] = (int(share[0]) + 1) % shamir.PRIME
    return share


CHANGES = {
    "one limb": add_one,
    "all of it": lambda share: (share * 3 + 1) % np.uint64(shamir.PRIME),
    "no field elements": lambda share: share + np.uint64(shamir.PRIME),
    "another form": lambda share: share[:3],
    "another type": lambda share: share.astype(np.float64),
    "nothing": lambda share: np.zeros(0, np.uint64),
}


@pytest.mark.parametrize("owner", range(N))
def test_an_owner_that_alters_its_share_is_named_and_the_mean_is_right(owner):
    server, alive, total = played(opened=of(owner, altered("own_masks", add_one)))
    assert_right(total(), alive)
    assert set(server.faults) == {owner}
    assert "altered its share" in server.faults[owner]


@pytest.mark.parametrize("kind", ["own_masks", "mask_keys"])
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_it_makes_of_it(kind, change):
    server, alive, total = played(opened=of(4, altered(kind, CHANGES[change])), gone=[9])
    assert_right(total(), alive)
    assert set(server.faults) == {4}


def test_as_many_as_leave_a_threshold():
    liars = {0, 5, 7}  # of the nine neighbours of each, or eight others' shares, seven are needed

    def lie(one):
        return altered("own_masks", add_one)(one) if one.owner in liars - {7} else one

    server, alive, total = played(opened=lie)
    assert_right(total(), alive)
    assert set(server.faults) == {0, 5}
    server, _, total = played(opened=lambda one: altered("own_masks", add_one)(one) if one.owner in liars else one)
    with pytest.raises(AggregationError, match="cannot be reconstructed: 6 shares are there, 7 are needed"):
        total()
    assert set(server.faults) == liars


def test_a_lever_on_a_single_mask():
    """A multiple of the inverse of its Lagrange coefficient moves just the mask that the server would take away."""
    weight = int(shamir._at_zero(tuple(range(1, 2 * (N - 1) // 3 + 2)))[0])

    def pull(one):
        masks = {u: share.copy() for u, share in one.own_masks.items()}
        masks[5][0] = (int(masks[5][0]) + pow(weight, -1, shamir.PRIME)) % shamir.PRIME
        return msgspec.structs.replace(one, own_masks=masks)

    server, alive, total = played(opened=of(0, pull))
    assert_right(total(), alive)
    assert set(server.faults) == {0}


def swap_of(one, *, digests):
    """Shares sealed for neighbours 1 and 2 change places, their digests with them or not."""
    boxes, cut = dict(one.sealed), 2 * DIGEST_BYTES
    first, second = boxes[1], boxes[2]
    boxes[1], boxes[2] = (second, first) if digests else (first[:cut] + second[cut:], second[:cut] + first[cut:])
    return msgspec.structs.replace(one, sealed=boxes)


@pytest.mark.parametrize("digests", [True, False])
def test_shares_that_their_receivers_cannot_read(digests):
    server, alive, total = played(share=of(3, lambda one: swap_of(one, digests=digests)))
    assert_right(total(), alive)
    assert set(server.faults) == {1, 2, 3}
    assert "cannot read the shares from owner 3: one of them lies" in server.faults[3]


def test_an_owner_that_shares_with_some_only_is_left_out():
    server, alive, total = played(share=of(3, lambda one: msgspec.structs.replace(one, sealed={1: one.sealed[1]})))
    assert 3 not in alive
    assert "has not sealed shares for each" in server.left_out[3]
    assert_right(total(), alive)


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_an_owner_that_deals_shares_that_do_not_belong_together(monkeypatch, wrong):
    """Its shares are as their digests say, and some are of another secret: found by what it has advertised of its mask."""
    split = shamir.split

    def crooked(secret, *, threshold, shares):
        dealt = split(secret, threshold=threshold, shares=shares)
        for j in range(wrong):
            dealt[j] = add_one(dealt[j])
        return dealt

    agreed = terms("run round 1", roster(N), LENGTH + 1, word=SCHEME.word)
    owners, server = [AggregationOwner(agreed, key) for key in keys(N)], AggregationServer(agreed)
    advertised = server.advertisements([owner.advertise() for owner in owners])
    shares = []
    for u, owner in enumerate(owners):
        monkeypatch.setattr(shamir, "split", crooked if u == 6 else split)
        shares.append(owner.share(advertised[u]))
    sealed = server.shares(shares)
    for u, owner in enumerate(owners):
        server.add(owner.mask(sealed[u], SCHEME.encode([X[u]], 50)))
    signed = server.confirmations([owner.confirm(server.survivors()) for owner in owners])
    opened = [owner.unmask(signed[owner.number]) for owner in owners]
    if wrong <= 2:
        assert_right(server.total(opened), range(N))
    else:
        with pytest.raises(AggregationError, match="secret of owner 6 cannot be reconstructed"):
            server.total(opened)
    assert set(server.faults) == {6}


def test_a_sum_that_no_updates_have_is_refused():
    """What an owner masks cannot be seen, but its weight, and what is beyond all bounds, can."""

    def garbage(one):
        return msgspec.structs.replace(one, vector=one.vector + np.uint64(1 << 40))

    _, alive, total = played(mask=of(2, garbage))
    with pytest.raises(AggregationError, match="an owner has sent what is no update"):
        SCHEME.check(total(), len(alive))


@pytest.mark.parametrize("word", [32, 64])
@pytest.mark.parametrize("headroom", [1, 4])
def test_the_bounds_of_a_sum_are_tight(word, headroom):
    scheme = Quantisation(8.0, (1 if word == 32 else 1000) * headroom, 5)
    assert scheme.word == word
    most = scheme.most_weight // headroom
    total = sum((scheme.encode([np.array([8.0, -8.0])], most) for _ in range(4)), start=scheme.encode([np.zeros(2)], most))
    scheme.check(total, 5, headroom=headroom)
    for weight in (0, 4, 5 * most + 1, -1):
        total[-1] = np.array(weight).astype(total.dtype)
        with pytest.raises(AggregationError, match="has a weight that they cannot have"):
            scheme.check(total, 5, headroom=headroom)
    total[-1] = 5 * most
    total[0] = math.ceil(8.0 * 5 * most * headroom * 2.0**scheme.bits) + 5 * headroom + 1
    with pytest.raises(AggregationError, match="has values that they cannot have"):
        scheme.check(total, 5, headroom=headroom)


# Who masks with whom.


def sparse(n=50, label="run", nonces=None):
    nonces = nonces or [Nonces() for _ in range(n)]
    return terms(label, roster(n), LENGTH + 1, commitments=[one.commitment for one in nonces]), nonces


def test_no_label_can_be_tried():
    """The order of other terms would need nonces that owners have committed to and do not reveal for them."""
    agreed, nonces = sparse()
    revealed = [one.reveal() for one in nonces]
    assert len(Graph(agreed, revealed).neighbours(0)) == agreed.degree
    identity = keys(1)[0]
    for number in range(10_000):
        with pytest.raises(AggregationError, match="the terms do not have this owner's commitment"):
            AggregationOwner(dataclasses.replace(agreed, label=f"run {number}"), identity, nonces[0])
    for wrong in ([], revealed[:-1], [bytes(32), *revealed[1:]]):
        with pytest.raises(AggregationError, match="not those that the owners have committed to"):
            Graph(agreed, wrong)


def test_orders_of_two_sessions_have_nothing_in_common():
    agreed, nonces = sparse()
    first = Graph(agreed, [one.reveal() for one in nonces])
    agreed, _ = sparse(nonces=nonces)
    second = Graph(agreed, [one.reveal() for one in nonces])
    assert [first.neighbours(u) for u in range(50)] != [second.neighbours(u) for u in range(50)]


def test_a_nonce_is_revealed_for_terms_with_its_commitment_only():
    agreed, nonces = sparse()
    with pytest.raises(AggregationError, match="do not have this owner's commitment"):
        AggregationOwner(agreed, keys(1)[0], Nonces())
    with pytest.raises(AggregationError, match="do not have this owner's commitment"):
        AggregationOwner(agreed, keys(1)[0])
    before = nonces[0].commitment
    nonce = AggregationOwner(agreed, keys(1)[0], nonces[0]).advertise().nonce
    assert commitment(nonce) == before
    assert nonces[0].commitment == nonce
    with pytest.raises(AggregationError, match="do not have this owner's commitment"):
        AggregationOwner(agreed, keys(1)[0], nonces[0])  # a second order for the same terms


def test_a_server_cannot_try_orders_for_long():
    nonces = Nonces()
    for _ in range(ATTEMPTS):
        nonces.reveal()
    with pytest.raises(AggregationError, match="it is given to no more"):
        nonces.reveal()


def test_terms_of_a_sparse_graph_need_commitments():
    with pytest.raises(AggregationError, match="each needs one where not all mask with all"):
        terms("run", roster(50), LENGTH)


def test_without_all_nonces_nobody_is_told_an_order():
    agreed, nonces = sparse(34)
    owners = [AggregationOwner(agreed, key, one) for key, one in zip(keys(34), nonces, strict=True)]
    sent = [owner.advertise() for owner in owners]
    with pytest.raises(AggregationError, match="33 of 34 owners advertised"):
        AggregationServer(agreed).advertisements(sent[1:])
    wrong = msgspec.structs.replace(sent[0], nonce=bytes(32))
    with pytest.raises(AggregationError, match="33 of 34"):
        AggregationServer(agreed).advertisements([wrong, *sent[1:]])
