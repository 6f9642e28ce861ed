"""Catalogues in the service: terms are encoded in the same batches as pairs, and queries are answered together."""
