"""Programs for Triton's python backend, one per model. Triton runs them in a model repository, as copies."""
