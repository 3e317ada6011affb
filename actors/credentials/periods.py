"""How long before it expires a certificate is spoken of."""

WARN_DAYS = 30
"""Days before a certificate expires from which on there is a warning a day."""
URGENT_DAYS = 7
"""Days before it expires from which on that is an error a day."""
