"""Score a Parquet file on Spark, in a process of its own: python -m tests.support.parity_on_spark MASTER IN OUT BASE_DIR PARTITIONS."""

from __future__ import annotations

import sys

from pyspark.sql import SparkSession

from text_image_similarity import Config, Limits
from text_image_similarity.spark import score_dataframe

if __name__ == "__main__":
    master, source, target, base_dir, partitions = sys.argv[1:]
    builder = SparkSession.builder.config(
        map={
            "spark.master": master,
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.sql.execution.arrow.maxRecordsPerBatch": "70",
        }
    )
    spark = builder.getOrCreate()
    config = Config(model="mini", base_dir=base_dir, retries=0, limits=Limits(allow_private_addresses=True))
    pairs = spark.read.parquet(source).repartition(int(partitions))
    score_dataframe(pairs, config).write.parquet(target)
    workers = len(spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos())
    sys.stdout.write(f"executors, driver included: {workers}\n")
    spark.stop()
