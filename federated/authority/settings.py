"""What is so of an authority unless somebody says otherwise. Light: the command line reads it to show its help."""

DAYS = 365
"""Days until the certificate of a member expires."""
OWN_DAYS = 3650
"""Days until that of the authority itself does."""
PASSPHRASE_FILE = "CONFIDE_AUTHORITY_PASSPHRASE_FILE"
"""The variable that names a file with the passphrase."""
