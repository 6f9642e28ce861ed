"""Catalogues in the service: queries share batches of the models with scoring, and scans with each other."""
