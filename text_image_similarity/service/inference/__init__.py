"""The service's models at work: threads that fetch and decode, batches, known embeddings."""
