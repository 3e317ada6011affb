"""The certificate of one node in a folder of keys: `ca.pem`, `NAME.pem` and `NAME.key`."""

from __future__ import annotations

from pathlib import Path

from actors.credentials.files import Paths
from actors.errors import BadCredentials
from protocols.errors import ClusterError
from protocols.workers.worker_process import Encryption, mutual


def encryption(folder: Path, name: str) -> Encryption:
    """Return the TLS of a node of a cluster, to listen and to connect: both sides show certificates of one authority.

    `ca.crl` in the folder, if it is there, is the list of those who were revoked. Files that are replaced are read again.

    Raises:
        ClusterError: a file is missing, or is not what it should be.
    """
    files = Paths.of(folder, name)
    paths = [files.certificate, files.key, files.authority]
    for path in paths:
        if not path.is_file():
            raise ClusterError(f"{path} is missing: {name} needs {', '.join(each.name for each in paths)}; see confide certs")
    try:
        return mutual(files)
    except BadCredentials as error:
        raise ClusterError(f"the certificates of {name} in {folder} cannot be used: {error}") from None
