"""Programs for Triton's python backend, one per model. Triton runs copies of them, in a model repository."""
