"""Inference in the service: threads that fetch and decode images, batches, and a cache of embeddings."""
