"""Catalogues in the service: terms are encoded in batches with pairs, and waiting queries are answered together."""
