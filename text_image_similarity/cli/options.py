"""Options that several commands have in common, and the `Config` they make."""

from __future__ import annotations

import argparse
from typing import get_args

from ..config import Config, Engine, Precision, PreprocessMode


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model and how it runs."""
    config = Config()
    add = parser.add_argument
    add("--model", help=f"hub id, local folder, or one of fast, accurate, mini (default: fast, {config.model})")
    add("--revision", help="commit, tag or branch of a hub model (default: the pinned one)")
    add("--device", default=config.device, help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    add("--precision", default=config.precision, choices=get_args(Precision), help="default: %(default)s")
    add("--engine", default=config.engine, choices=get_args(Engine), help="what runs the model (default: %(default)s)")
    add(
        "--preprocess",
        default=config.preprocess,
        choices=get_args(PreprocessMode),
        help="exact, or fast: large JPEGs at a reduced scale, scores move a little (default: %(default)s)",
    )
    add("--embedding-cache", metavar="FILE", help="keep embeddings in FILE, for later runs and other processes")
    add("--cache-dir", metavar="FOLDER", help="where exported models are kept (default: the user's cache folder)")
    add("--batch-size", type=int, default=config.batch_size, help="pictures encoded at once (default: %(default)s)")


def add_column_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a table's columns."""
    add = parser.add_argument
    add("--url-col", default="url", help="column of image references (default: %(default)s)")
    add("--caption-col", default="caption", help="column of captions (default: %(default)s)")


def model_config(options: argparse.Namespace) -> Config:
    """Return the settings that the model options ask for.

    Raises:
        ConfigError: One is outside its choices or range.
    """
    return Config(
        model=options.model or Config().model,
        revision=options.revision,
        device=options.device,
        precision=options.precision,
        engine=options.engine,
        preprocess=options.preprocess,
        embedding_cache=options.embedding_cache,
        cache_dir=options.cache_dir,
        batch_size=options.batch_size,
    )
