"""Score a table on Spark, as a job: `spark-submit score_job.py INPUT OUTPUT`.

INPUT and OUTPUT are places that Spark's readers and writers accept: paths, s3://, abfss://, gs://, dbfs:/ and others.
See docs/spark.md.
"""

from __future__ import annotations

import argparse

from pyspark.sql import SparkSession

from text_image_similarity import Config
from text_image_similarity.spark import score_dataframe


def main() -> None:
    """Read a table, spread its rows over tasks, score them, and write the result."""
    parser = argparse.ArgumentParser(
        description="Add similarity and error to a table of (image reference, caption) rows."
    )
    parser.add_argument("input", metavar="INPUT", help="table to score")
    parser.add_argument("output", metavar="OUTPUT", help="place for the scored table")
    formats = ("parquet", "orc", "json")  # formats whose files name their columns
    parser.add_argument(
        "--format", default="parquet", choices=formats, help="format of INPUT and OUTPUT (default: parquet)"
    )
    parser.add_argument("--url-col", default="url", help="column of image references (default: url)")
    parser.add_argument("--caption-col", default="caption", help="column of captions (default: caption)")
    parser.add_argument(
        "--model", default="fast", help="hub id, a folder that every worker has, fast, accurate or mini"
    )
    parser.add_argument("--score", default="cosine", help="cosine, unit, clip_score or clipscore")
    parser.add_argument(
        "--partitions", type=int, help="number of tasks to spread the rows over (default: as in the input)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    options = parser.parse_args()

    spark = SparkSession.builder.appName("text-image-similarity").getOrCreate()
    pairs = spark.read.format(options.format).load(options.input)
    if options.partitions:
        pairs = pairs.repartition(options.partitions)
    config = Config(model=options.model, score=options.score, isolate_decoder=True)
    scored = score_dataframe(pairs, config, col_url=options.url_col, col_text=options.caption_col)
    scored.write.format(options.format).mode("overwrite" if options.overwrite else "error").save(options.output)


if __name__ == "__main__":
    main()
