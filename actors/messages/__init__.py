"""What may be sent: schemas, values, references, errors on the wire."""
