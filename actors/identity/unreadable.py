"""What `cryptography` raises where bytes are no certificate, list, request or key, or one of another kind than it knows."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""None of the last four is a `ValueError`. Parts of what was read are parsed when they are asked for: their readers raise these, too."""
