"""Key streams against AES one block at a time, sub keys against HKDF written out."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from protocols.mpc.parties import keystream
from protocols.mpc.parties.keystream import KeyStream, derive, fresh_key

keys = st.binary(min_size=16, max_size=16)


def blocks(key: bytes, count: int) -> bytes:
    """The definition of counter mode: the encryptions of 0, 1, 2, ..."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(b"".join(i.to_bytes(16, "big") for i in range(count)))


def test_the_first_words_are_the_published_ones():
    """AES-128 of the zero block under the zero key: NIST AESAVS, appendix B.1 and C.1."""
    assert KeyStream(bytes(16)).words(2).astype("<u8").tobytes().hex() == "66e94bd4ef8a2c3b884cfa59ca342b2e"


@given(keys, st.integers(0, 50))
def test_words_are_the_little_endian_key_stream(key, count):
    expected = np.frombuffer(blocks(key, count // 2 + 1), "<u8")[:count]
    np.testing.assert_array_equal(KeyStream(key).words(count), expected)


@given(keys, st.lists(st.sampled_from([0, 1, 2, 3, 17, 32_768, 32_769, 70_000]), max_size=4))
def test_pieces_of_any_size_follow_one_another(key, counts):
    stream = KeyStream(key)
    pieces = [stream.words(count) for count in counts]
    np.testing.assert_array_equal(np.concatenate([*pieces, np.empty(0, np.uint64)]), KeyStream(key).words(sum(counts)))


def test_fill_overwrites_all_of_the_output_and_nothing_else():
    around = np.full((4, 3, 5), 7, np.uint64)
    KeyStream(bytes(16)).fill(around[1:3])
    np.testing.assert_array_equal(around[1:3], KeyStream(bytes(16)).words((2, 3, 5)))
    assert (around[[0, 3]] == 7).all()


def test_different_keys_give_different_words():
    assert not np.isin(KeyStream(bytes(16)).words(1000), KeyStream(bytes(15) + b"\x01").words(1000)).any()


@pytest.mark.parametrize(
    "out", [np.empty(4, np.int64), np.empty(4, np.uint32), np.empty((4, 4), np.uint64)[:, ::2], np.frombuffer(bytes(16), np.uint64)]
)
def test_fill_refuses_what_it_cannot_write(out):
    with pytest.raises(ValueError, match="C-contiguous uint64 array that can be written is needed"):
        KeyStream(bytes(16)).fill(out)


def test_a_stream_ends(monkeypatch):
    monkeypatch.setattr(keystream, "MAX_WORDS", 10)
    stream = KeyStream(bytes(16))
    stream.words(9)
    with pytest.raises(ValueError, match="has given 9 words and ends at 10"):
        stream.words(2)
    stream.words(1)


def test_repr_shows_no_key():
    key = b"correct horse 16"
    stream = KeyStream(key)
    stream.words(3)
    assert repr(stream) == "<KeyStream at word 3>"


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_key_has_sixteen_bytes(length):
    with pytest.raises(ValueError, match=f"the key has {length} bytes: 16 are needed"):
        KeyStream(bytes(length))


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869, sections 2.2 and 2.3, for one block of output."""
    extracted = hmac.digest(bytes(32), key, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)[:16]


@given(keys)
def test_derive_is_hkdf_of_kind_length_and_label(key):
    info = b"s" + bytes([0] * 7 + [4]) + b"wire" + b"i" + bytes([0] * 7 + [2]) + b"-3" + b"b" + bytes([0] * 7 + [1]) + b"x"
    assert derive(key, "wire", -3, b"x") == hkdf(key, info)


labels = st.lists(st.text(max_size=3) | st.binary(max_size=3) | st.integers(-300, 300), min_size=1, max_size=3).map(tuple)


@given(labels, labels)
def test_two_sequences_of_labels_never_give_one_key(one, other):
    assert (derive(bytes(16), *one) == derive(bytes(16), *other)) == (one == other)


@pytest.mark.parametrize(("one", "other"), [(("ab", "c"), ("a", "bc")), (("1",), (1,)), (("a",), (b"a",)), (("a",), ("a", ""))])
def test_labels_keep_their_kind_and_their_ends(one, other):
    assert derive(bytes(16), *one) != derive(bytes(16), *other)


def test_derive_refuses_short_keys_and_no_labels():
    with pytest.raises(ValueError, match="the key has 15 bytes: at least 16"):
        derive(bytes(15), "a")
    with pytest.raises(ValueError, match="there is no label"):
        derive(bytes(16))


def test_fresh_keys_fit_and_differ():
    made = {fresh_key() for _ in range(100)}
    assert len(made) == 100
    assert all(len(key) == 16 for key in made)
