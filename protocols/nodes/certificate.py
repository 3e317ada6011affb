"""The certificate of one node in a folder of keys: `ca.pem`, `NAME.pem` and `NAME.key`."""

from __future__ import annotations

from pathlib import Path
from ssl import SSLError

from protocols.errors import ClusterError
from protocols.workers.worker_process import Encryption, mutual


def encryption(folder: Path, name: str) -> Encryption:
    """Return the TLS of a node of a cluster, to listen and to connect: both sides show certificates of one authority.

    Raises:
        ClusterError: a file is missing, or is not what it should be.
    """
    paths = [folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem"]
    for path in paths:
        if not path.is_file():
            raise ClusterError(f"{path} is missing: {name} needs {', '.join(each.name for each in paths)}; see confide certs")
    try:
        return mutual(*paths)
    except (SSLError, OSError) as error:
        raise ClusterError(f"the certificates of {name} in {folder} cannot be used: {error}") from None
