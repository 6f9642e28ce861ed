"""Score images and captions inside Snowflake: two vectorised UDFs, and a loop that fills a table with their results.

    from score_udf import register, score_table
    (wheel,) = session.file.put("dist/text_image_similarity-*.whl", "@ml.code", auto_compress=False)  # once, like the next line
    register(session, "@ml.code", wheel=wheel.target, access=["PICTURES"])
    score_table(session, "pairs", "pairs_scored", key="id")

    select score_pair(url, caption):similarity::float from pairs;
    select score_staged_file(build_scoped_file_url(@photos, path), caption) from pairs;

Both functions return `{"similarity": 0.31, "error": null}`, or no similarity and the error. `score_pair` needs an external
access integration that names the hosts of the images; `score_staged_file` needs none. The library's wheel comes from a
stage, and its dependencies come from PyPI through Snowflake's artifact repository.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

# Any setting of Config. For a model other than mini, put its folder as model.zip on the wheel's stage and set "model": "model".
SETTINGS: dict[str, Any] = {"model": "mini", "io_workers": 32}
LIMITS: dict[str, Any] = {"allow_local_files": False}  # a row must not read the sandbox's files

ROWS = 100  # per batch; Snowflake stops a batch after 180 s, and 100 downloads, 32 at a time, take up to 4 * 25 s
RESULT = "SCORE_PAIR_RESULT"  # a column while a table is scored
WHEELS = "text_image_similarity-*.whl"
PACKAGES = [
    *("torch>=2.10", "torchvision>=0.25", "transformers>=5.5,<6", "huggingface-hub>=1,<2", "tokenizers>=0.22"),
    *("safetensors>=0.5", "sentencepiece>=0.2.1", "protobuf>=5.29.6", "pillow>=13,<14", "httpx>=0.28,<0.29"),
    *(
        "httpcore>=1.0.9,<2",
        "h11>=0.16,<1.0",
        "socksio>=1,<2",
        "numpy>=2",
        "pandas>=2.2",
        "pyarrow>=18",
        "scipy>=1.14",
        "filelock>=3.20.3",
        "platformdirs>=4.2",
    ),
    *("cloudpickle", "snowflake-snowpark-python"),
]


def score_pair(urls: pd.Series, captions: pd.Series) -> pd.Series:
    """Return a result for each URL and caption."""
    if not isinstance(urls, pd.Series):  # Snowpark's local testing mode passes one row at a time
        return score_pair(pd.Series([urls], dtype=object), pd.Series([captions], dtype=object))[0]
    config, encoder = loaded()
    from text_image_similarity import Record, score_pairs

    records = (Record(*map(text_of, pair)) for pair in zip(urls, captions, strict=True))
    return as_series(list(score_pairs(records, config, encoder=encoder)), urls)


def score_staged_file(files: pd.Series, captions: pd.Series) -> pd.Series:
    """Return a result for each scoped URL of a staged image and caption."""
    if not isinstance(files, pd.Series):
        return score_staged_file(pd.Series([files], dtype=object), pd.Series([captions], dtype=object))[0]
    config, encoder = loaded()
    from text_image_similarity import ErrorCode, RowError, ScoreResult, score_images

    contents = [content_of(file) for file in files]
    found = [content for content in contents if isinstance(content, bytes)]
    texts = [text_of(text) for text, content in zip(captions, contents, strict=True) if isinstance(content, bytes)]
    scores = score_images(found, texts, config, encoder=encoder)
    results = [
        next(scores) if isinstance(content, bytes) else ScoreResult.failed(RowError(ErrorCode.FILE_NOT_FOUND, content))
        for content in contents
    ]
    return as_series(results, files)


def content_of(file: Any) -> bytes | str:
    """Return a staged file's bytes, or the reason why it cannot be read."""
    from snowflake.snowpark.files import SnowflakeFile

    if not isinstance(file, str):
        return "there is no file name"
    try:
        # Only scoped URLs, which Snowflake gives to those who may read the file: the function reads with its owner's rights.
        with SnowflakeFile.open(file, "rb", require_scoped_url=True) as opened:
            content: bytes = opened.read()
            return content
    except Exception as exc:  # Snowflake's own errors; only this row fails
        return f"{file}: {type(exc).__name__}: {exc}"


def text_of(value: Any) -> Any:
    """Return a text; None for SQL's NULL (NaN in pandas)."""
    return value if isinstance(value, str) else None


def as_series(results: Sequence[Any], like: pd.Series) -> pd.Series:
    """Return results as objects of SQL."""
    rows = [{"similarity": None if found.error else found.similarity, "error": found.error} for found in results]
    return pd.Series(rows, index=like.index, dtype=object)


@functools.cache
def loaded() -> tuple[Any, Any]:
    """Return the settings and the model, which are loaded once per process."""
    folder = unpacked()
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    from text_image_similarity import Config, Limits, load_encoder

    settings = {"model_cache": tempfile.mkdtemp(), **SETTINGS}
    if folder is not None and (folder / settings["model"]).is_dir():
        settings["model"] = str(folder / settings["model"])
    config = Config(**settings, limits=Limits(**LIMITS))
    return config, load_encoder(config)


def unpacked() -> Path | None:
    """Unpack the wheel and model.zip to a folder of this process, because the library's weights must be files outside a zip.

    Returns:
        The folder, or None if the library is already installed.
    """
    imports = Path(sys._xoptions.get("snowflake_import_directory", ""))
    archives = [*imports.glob(WHEELS), *imports.glob("model.zip")]
    if not any(path.suffix == ".whl" for path in archives):
        return None
    # A random name: others in the sandbox could put their own code into a folder with a known name, and it would be
    # imported.
    place = Path(tempfile.mkdtemp(prefix="text-image-similarity-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for archive in archives:
        with zipfile.ZipFile(archive) as file:
            file.extractall(place / "model" if archive.name == "model.zip" else place)
    return place


def register(session: Any, stage: str, *, wheel: str, access: Sequence[str] = (), permanent: bool = True) -> None:
    """Register `score_pair` and `score_staged_file`, from this file and the files on the stage.

    Args:
        session: A Snowpark session.
        stage: Stage with the wheel (and model.zip, if used), to which this file is uploaded.
        wheel: The wheel's name there.
        access: External access integrations that name the hosts of the images.
        permanent: Whether the functions outlive the session.
    """
    from snowflake.snowpark.types import PandasSeriesType, StringType, VariantType

    on_stage = f"{stage}/{wheel}"
    more = [f"{stage}/model.zip"] if SETTINGS["model"] == "model" else []
    for name in ("score_pair", "score_staged_file"):
        session.udf.register_from_file(
            os.path.abspath(__file__),  # noqa: PTH100
            name,
            return_type=PandasSeriesType(VariantType()),
            input_types=[PandasSeriesType(StringType()), PandasSeriesType(StringType())],
            name=name,
            is_permanent=permanent,
            stage_location=stage if permanent else None,
            replace=True,
            imports=[on_stage, *more],
            packages=PACKAGES,
            artifact_repository="snowflake.snowpark.pypi_shared_repository",
            resource_constraint={"architecture": "x86"},
            external_access_integrations=list(access),
            max_batch_size=ROWS,
        )


def score_table(
    session: Any,
    source: str,
    target: str,
    *,
    key: str,
    columns: tuple[str, str] = ("url", "caption"),
    rows: int = 10_000,
) -> int:
    """Score the rows of a table whose key is not in the target yet, and append them in transactions of `rows` rows.

    After any interruption, the same call resumes. To retry temporary failures, delete their rows from the target first.

    Args:
        session: A Snowpark session; a stored procedure's also works.
        source: The table; its columns are kept.
        target: The table with `similarity` and `error` added; created if it does not exist.
        key: A column of the source that is unique and never null.
        columns: The columns of references and of captions.
        rows: Rows per transaction, and so the most that an interruption can lose.

    Returns:
        The number of rows scored.

    Raises:
        ValueError: The key is sometimes null or not unique, so that a row could be left out; or the source has a column
            that the target adds.
    """
    from snowflake.snowpark.functions import call_udf, col, lit

    pairs = session.table(source)
    if taken := {"SIMILARITY", "ERROR", RESULT}.intersection(name.strip('"').upper() for name in pairs.columns):
        raise ValueError(f"{source} has a column {min(taken)} already; rename it, or score a view without it")
    if pairs.count() != pairs.filter(col(key).is_not_null()).select(key).distinct().count():
        raise ValueError(f"{key} has nulls or duplicates in {source}, so it cannot show which rows are done")

    def append(scored: Any, similarity: Any, error: Any) -> None:
        more = (similarity.cast("float").as_("similarity"), error.cast("string").as_("error"))
        scored.select(*pairs.columns, *more).write.save_as_table(target, mode="append")

    append(pairs.limit(0), lit(None), lit(None))  # creates the target, so that all errors below are real errors
    total = 0
    while True:
        todo = pairs.join(session.table(target).select(key), on=key, how="leftanti")
        todo = todo.limit(rows).cache_result()  # Snowpark's local testing mode mixes up rows from a join
        # The results are stored before their fields are read; otherwise, each of the two fields might call the function again.
        scored = todo.with_column(RESULT, call_udf("score_pair", *map(col, columns))).cache_result()
        if not (count := scored.count()):
            return total
        append(scored, col(RESULT)["similarity"], col(RESULT)["error"])
        total += count
