"""Catalogues behind the service: queries share the models' batches with scoring, and the scans with each other."""
