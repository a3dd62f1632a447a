"""A case in, a measurement out."""
