"""Turn panics of the tokenizers library, which is written in Rust, into errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def panics_are_errors() -> Iterator[None]:
    """Turn a panic of the tokenizers library, which no `except Exception` would catch, into a RuntimeError.

    One cause of a panic is a pattern in `tokenizer.json` that takes too long to match a caption.
    """
    try:
        yield
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":  # pyo3's class, which cannot be imported
            raise
        raise RuntimeError(f"the model's tokenizer cannot read this text: {exc}") from exc
