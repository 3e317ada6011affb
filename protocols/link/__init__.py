"""One computation between two servers: rounds on the wire, the seal, agreements."""
