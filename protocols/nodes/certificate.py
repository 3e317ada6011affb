"""The certificate of one node in a folder of keys: `ca.pem`, `NAME.pem` and `NAME.key`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from actors.credentials.files import Paths
from actors.errors import BadCredentials
from protocols.authority.admission import AdmissionSettings
from protocols.errors import ClusterError
from protocols.workers.worker_process import Encryption, mutual

DEFAULT = AdmissionSettings()


def admitting(files: Paths, listed: Mapping[str, str] | None, admission: AdmissionSettings) -> Encryption:
    """Return the TLS of these files, for those whom a cluster file lets in; `encryption` says what the arguments are."""
    if listed is None:
        return mutual(files)
    names = dict(listed)
    return mutual(files, admits=lambda certificate: admission.refusal(certificate, names), list_needed=admission.list_needed)


def encryption(folder: Path, name: str, *, listed: Mapping[str, str] | None = None, admission: AdmissionSettings = DEFAULT) -> Encryption:
    """Return the TLS of a node of a cluster, to listen and to connect: both sides show certificates of one authority.

    `ca.crl` in the folder, if it is there, is the list of those who were revoked. Files that are replaced are read again.

    Args:
        folder: of the files.
        name: of the node.
        listed: name of each node of the cluster file -> its role; None: there is no such file.
        admission: what that file demands of certificates.

    Raises:
        ClusterError: a file is missing, or is not what it should be.
    """
    files = Paths.of(folder, name)
    paths = [files.certificate, files.key, files.authority]
    for path in paths:
        if not path.is_file():
            raise ClusterError(f"{path} is missing: {name} needs {', '.join(each.name for each in paths)}; see confide certs")
    try:
        return admitting(files, listed, admission)
    except BadCredentials as error:
        raise ClusterError(f"the certificates of {name} in {folder} cannot be used: {error}") from None
