"""Score how well each image matches its caption.

    from text_image_similarity import Config, Record, score_pairs
    for result in score_pairs([Record(url="dog.jpg", text="a dog on grass")], Config()):
        print(result.similarity, result.error)

Names are imported from their modules when they are first used, so importing this package loads no torch, no pandas and
no NumPy (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .system import lazy_names, package_version

if TYPE_CHECKING:
    from .config import Config, Dialect, Limits
    from .dataset import CaptionedImage, read_dataset, split_dataset
    from .encoders import Encoder, ModelInfo, load_encoder
    from .errors import (
        BusyError,
        ConfigError,
        DatabaseError,
        DeviceLostError,
        ErrorCode,
        InputTypeError,
        MissingExtraError,
        ModelError,
        ModelNameError,
        ModelUnavailableError,
        RowError,
        StoppedError,
        TableError,
        TextImageSimilarityError,
        TooManyFailuresError,
        UsageError,
    )
    from .evaluation import Evaluation, RatingEvaluation, evaluate, evaluate_ratings
    from .metrics import Calibration
    from .pipeline import (
        Classification,
        Engine,
        LocalEngine,
        RunStats,
        Scorer,
        Tile,
        classify,
        embed_images,
        embed_texts,
        image_similarity,
        score_images,
        score_pairs,
        similarity_matrix,
        similarity_tiles,
        text_similarity,
    )
    from .records import Record, ScoreResult
    from .search import (
        CaptionDatabase,
        Catalog,
        Field,
        ImageDatabase,
        ItemMatch,
        Match,
        Matches,
        Predictor,
        Product,
        Query,
        Term,
        create_predictor,
        open_catalog,
    )
    from .tables import Summary, TableOptions, score_csv, score_frame, score_table
    from .training.config import TrainConfig
    from .training.loop import TrainProgress, TrainResult, train

    __version__: str

__all__ = [
    "BusyError",
    "Calibration",
    "CaptionDatabase",
    "CaptionedImage",
    "Catalog",
    "Classification",
    "Config",
    "ConfigError",
    "DatabaseError",
    "DeviceLostError",
    "Dialect",
    "Encoder",
    "Engine",
    "ErrorCode",
    "Evaluation",
    "Field",
    "ImageDatabase",
    "InputTypeError",
    "ItemMatch",
    "Limits",
    "LocalEngine",
    "Match",
    "Matches",
    "MissingExtraError",
    "ModelError",
    "ModelInfo",
    "ModelNameError",
    "ModelUnavailableError",
    "Predictor",
    "Product",
    "Query",
    "RatingEvaluation",
    "Record",
    "RowError",
    "RunStats",
    "ScoreResult",
    "Scorer",
    "StoppedError",
    "Summary",
    "TableError",
    "TableOptions",
    "Term",
    "TextImageSimilarityError",
    "Tile",
    "TooManyFailuresError",
    "TrainConfig",
    "TrainProgress",
    "TrainResult",
    "UsageError",
    "classify",
    "create_predictor",
    "embed_images",
    "embed_texts",
    "evaluate",
    "evaluate_ratings",
    "image_similarity",
    "load_encoder",
    "open_catalog",
    "read_dataset",
    "score_csv",
    "score_frame",
    "score_images",
    "score_pairs",
    "score_table",
    "similarity_matrix",
    "similarity_tiles",
    "split_dataset",
    "text_similarity",
    "train",
]

_HOMES = {
    "config": ("Config", "Dialect", "Limits"),
    "dataset": ("CaptionedImage", "read_dataset", "split_dataset"),
    "encoders": ("Encoder", "ModelInfo", "load_encoder"),
    "errors": (
        "BusyError",
        "ConfigError",
        "DatabaseError",
        "DeviceLostError",
        "ErrorCode",
        "InputTypeError",
        "MissingExtraError",
        "ModelError",
        "ModelNameError",
        "ModelUnavailableError",
        "RowError",
        "StoppedError",
        "TooManyFailuresError",
        "TableError",
        "TextImageSimilarityError",
        "UsageError",
    ),
    "evaluation": ("Evaluation", "RatingEvaluation", "evaluate", "evaluate_ratings"),
    "metrics": ("Calibration",),
    "pipeline": (
        "Classification",
        "Engine",
        "LocalEngine",
        "RunStats",
        "Scorer",
        "Tile",
        "classify",
        "embed_images",
        "embed_texts",
        "image_similarity",
        "score_images",
        "score_pairs",
        "similarity_matrix",
        "similarity_tiles",
        "text_similarity",
    ),
    "records": ("Record", "ScoreResult"),
    "search": (
        "CaptionDatabase",
        "Catalog",
        "Field",
        "ImageDatabase",
        "ItemMatch",
        "Match",
        "Matches",
        "Predictor",
        "Product",
        "Query",
        "Term",
        "create_predictor",
        "open_catalog",
    ),
    "tables": ("Summary", "TableOptions", "score_csv", "score_frame", "score_table"),
    "training": ("TrainConfig", "TrainProgress", "TrainResult", "train"),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES, {"__version__": package_version})
