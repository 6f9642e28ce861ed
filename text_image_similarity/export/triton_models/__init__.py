"""The programs of Triton's python backend, one for each model: they are copied into a repository, and run there by Triton."""
