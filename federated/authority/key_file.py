"""A private key in a file, encrypted under a passphrase: PKCS #8 with PBES2 (RFC 8018), scrypt (RFC 7914) and AES-256-CBC.

`cryptography` reads such files, as OpenSSL does (`openssl pkey -in ca.key`), but writes PBKDF2 with 2,048 iterations only, which costs a
guess less than a millisecond. scrypt with N = 2^14, r = 8, p = 5 takes 16 MiB and about a fifth of a second a guess; more memory would be
refused by OpenSSL.
"""

from __future__ import annotations

import os
from base64 import encodebytes
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from federated.authority.private_files import read_private
from federated.errors import KeysError

SigningKey: TypeAlias = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey

N, R, P = 1 << 14, 8, 5
SHORTEST = 12
"""Characters of a passphrase."""
_PBES2 = bytes.fromhex("2a864886f70d01050d")  # 1.2.840.113549.1.5.13
_SCRYPT = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_AES_256_CBC = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42
_SEQUENCE, _OCTETS, _OBJECT, _INTEGER = 0x30, 0x04, 0x06, 0x02


def pem(key: SigningKey, passphrase: str | None) -> bytes:
    """Return a key as PEM.

    Args:
        key: to be kept.
        passphrase: of at least 12 characters; None: not encrypted.

    Raises:
        KeysError: the passphrase is too short.
    """
    plain = serialization.NoEncryption()
    if passphrase is None:
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    if len(passphrase) < SHORTEST:
        raise KeysError(f"the passphrase has {len(passphrase)} characters: at least {SHORTEST} are needed, some random words for instance")
    content = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, plain)
    salt, start = os.urandom(16), os.urandom(16)
    derived = Scrypt(salt, length=32, n=N, r=R, p=P).derive(passphrase.encode())
    padder, encryptor = padding.PKCS7(128).padder(), Cipher(algorithms.AES(derived), modes.CBC(start)).encryptor()
    encrypted = encryptor.update(padder.update(content) + padder.finalize()) + encryptor.finalize()
    numbers = b"".join(_der(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in (N, R, P))
    derivation = _der(_SEQUENCE, _der(_OBJECT, _SCRYPT) + _der(_SEQUENCE, _der(_OCTETS, salt) + numbers))
    scheme = _der(_SEQUENCE, _der(_OBJECT, _AES_256_CBC) + _der(_OCTETS, start))
    algorithm = _der(_SEQUENCE, _der(_OBJECT, _PBES2) + _der(_SEQUENCE, derivation + scheme))
    text = encodebytes(_der(_SEQUENCE, algorithm + _der(_OCTETS, encrypted)))
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + text + b"-----END ENCRYPTED PRIVATE KEY-----\n"


def _der(tag: int, content: bytes) -> bytes:
    """Tag, length and content (X.690, 8.1.3)."""
    size = len(content)
    length = bytes([size]) if size < 128 else (size.to_bytes((size.bit_length() + 7) // 8, "big"))
    return bytes([tag]) + (length if size < 128 else bytes([0x80 | len(length)]) + length) + content


def is_encrypted(path: Path) -> bool:
    """Whether a passphrase is needed for a key file of this user; raises `KeysError` if it cannot be read."""
    content = read_private(path)
    return b"ENCRYPTED" in content


def read(path: Path, passphrase: str | None) -> SigningKey:
    """Return the key in a file.

    Args:
        path: of the file, which only this user may read.
        passphrase: None for a file that is not encrypted.

    Raises:
        KeysError: it cannot be read, the passphrase is wrong or missing, or it is another kind of key.
    """
    content = read_private(path)
    try:
        key = serialization.load_pem_private_key(content, password=None if passphrase is None else passphrase.encode())
    except TypeError:
        needed = "is encrypted: a passphrase is needed" if b"ENCRYPTED" in content else "is not encrypted, and a passphrase was given"
        raise KeysError(f"{path} {needed}") from None
    except ValueError:
        what = "the passphrase is wrong, or the file is damaged" if b"ENCRYPTED" in content else "it is no private key in PEM"
        raise KeysError(f"{path} cannot be used: {what}") from None
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey):
        raise KeysError(f"{path} has a key that does not sign certificates here: Ed25519, elliptic curves and RSA do")
    return key
