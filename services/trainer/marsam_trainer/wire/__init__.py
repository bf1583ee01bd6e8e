"""Between the wire and the domain: protos in, dataclasses out, and back. No decisions."""
