"""Score a Spark DataFrame, or from within SQL, as Arrow batches in Spark's Python workers, not in the driver."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..config import Config, pair_score
from ..errors import InputTypeError, UsageError
from ..formats import check_columns, check_no_columns
from ..pipeline import portable
from ..records import OUT_COLUMNS
from ..system import require

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def score_dataframe(df: DataFrame, config: Config, *, col_url: str = "url", col_text: str = "caption") -> DataFrame:
    """Add `similarity` and `error` to a Spark DataFrame.

    Scoring is lazy, as usual in Spark. Each Python worker loads the model once; downloads and encoding overlap within a
    partition, even across Arrow batches.

    Args:
        df: Any DataFrame; its other columns keep their types and values.
        config: The settings of the run. Relative paths in them start from the driver's working folder; `device="auto"`
            uses the GPU that Spark assigned to the task.
        col_url: Column of images: references (strings or numbers), encoded files (binary), or structs of `bytes` and
            `path`.
        col_text: Column of captions, of strings or numbers.

    Returns:
        The columns of `df`, then `similarity` (double, null for a failed row) and `error` (string, null for a scored
        one).

    Raises:
        InputTypeError: `df` is not a Spark DataFrame.
        UsageError: A column is missing or of another type, a column `similarity` or `error` already exists, or Spark
            cannot pass a column to Python.
        ConfigError: The kind of score needs reference captions.
        MissingExtraError: PySpark is not installed.

    Example:
        score_dataframe(spark.read.parquet("pairs"), Config(model="mini")).write.parquet("scored")
    """
    pair_score(config, "score_dataframe")
    require("scoring on Spark", "pyspark", extra="spark")
    from pyspark.errors import PySparkNotImplementedError
    from pyspark.sql.types import DoubleType, StringType, StructField, StructType

    from .worker import score_task

    _check(df, (col_url, col_text))
    names = df.columns
    numbered = df.toDF(*(f"c{i}" for i in range(len(names))))  # names may occur twice and contain dots
    columns = (f"c{names.index(col_url)}", f"c{names.index(col_text)}")
    added = [StructField("similarity", DoubleType()), StructField("error", StringType())]
    schema = StructType([*numbered.schema.fields, *added])
    try:
        scored = numbered.mapInArrow(partial(score_task, config=portable(config), columns=columns), schema)
    except PySparkNotImplementedError as exc:  # raised for an interval of years and months
        kinds = [
            f"{field.name!r} ({kind})" for field in df.schema if "interval" in (kind := field.dataType.simpleString())
        ]
        raise UsageError(f"Spark cannot pass some columns to Python; drop or cast {', '.join(kinds)}") from exc
    return scored.toDF(*names, *OUT_COLUMNS)


def similarity_udf(config: Config) -> Any:
    """Return a function for SQL and the DataFrame API: `similarity(url, caption)` is a struct.

    The first argument is a string, a binary value or a struct of `bytes` and `path`, and the second one is a string.

    The function is an iterator pandas UDF, marked as not deterministic, because Spark's optimiser might otherwise score
    a row twice.

    Args:
        config: The settings, as for `score_dataframe`.

    Returns:
        A UDF that returns `struct<similarity: double, error: string>`, in which one of the two is null.

    Raises:
        ConfigError: The kind of score needs reference captions.
        MissingExtraError: PySpark is not installed.

    Example:
        spark.udf.register("similarity", similarity_udf(Config(model="mini")))
    """
    pair_score(config, "similarity(url, caption)")
    require("scoring on Spark", "pyspark", extra="spark")
    from pyspark.sql.functions import pandas_udf  # type: ignore[attr-defined]

    from .worker import series_scorer

    udf: Any = pandas_udf(series_scorer(portable(config)), "similarity double, error string")
    return udf.asNondeterministic()


def _check(df: DataFrame, columns: tuple[str, str]) -> None:
    """Refuse a DataFrame that cannot be scored.

    Raises:
        InputTypeError, UsageError: The DataFrame cannot be scored.
    """
    from pyspark.sql import types

    if not hasattr(df, "mapInArrow"):
        hint = "create one with spark.createDataFrame" if hasattr(df, "columns") else ""
        raise InputTypeError.of("df", "a Spark DataFrame", df, hint)
    fields = df.schema.fields
    check_columns([field.name for field in fields], columns, "the DataFrame")
    names = [field.name for field in fields]
    ignore_case = df.sparkSession.conf.get("spark.sql.caseSensitive") != "true"
    check_no_columns(names, OUT_COLUMNS, "the DataFrame", "rename or drop it", ignore_case=ignore_case)
    numbers = (
        types.ByteType,
        types.ShortType,
        types.IntegerType,
        types.LongType,
        types.FloatType,
        types.DoubleType,
        types.DecimalType,
    )
    texts = (types.StringType, types.CharType, types.VarcharType, types.NullType)
    for field in fields:
        kind = field.dataType
        is_image = isinstance(kind, types.BinaryType) or (
            isinstance(kind, types.StructType) and not {"bytes", "path"}.isdisjoint(kind.names)
        )
        if field.name in columns and not (
            isinstance(kind, (*texts, *numbers)) or (is_image and field.name == columns[0])
        ):
            wanted = "string, binary or a struct of bytes and path" if field.name == columns[0] else "string"
            raise UsageError(
                f"column {field.name!r} is of type {kind.simpleString()}, not {wanted}; cast it, or name another column"
            )
