"""Inference in the service: threads that fetch and decode, batches, remembered embeddings."""
