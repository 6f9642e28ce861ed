"""Train a dual encoder on pictures with captions."""
