"""Pictures with their captions, for training and evaluation.

Four sources: a Parquet file with the columns of the hub set jxie/flickr8k (`image` with its bytes, `caption_0` ...), a
folder of such files named after splits (`train.parquet`, or `train-00000-of-00002.parquet`), a CSV or Parquet table of
references and captions, and a set on the hub. A photo is one item whatever its source: rows with the same bytes or the
same reference are merged with all their captions, so that no photo can land in two splits. Copies that differ in a
single byte, as after saving again, count as two photos.
"""

from __future__ import annotations

from .images import CaptionedImage, ImageLoader, load_image
from .read import own_splits, read_dataset, read_splits, reference, split_dataset
from .sources import Table, open_table

__all__ = [
    "CaptionedImage",
    "ImageLoader",
    "Table",
    "load_image",
    "open_table",
    "own_splits",
    "read_dataset",
    "read_splits",
    "reference",
    "split_dataset",
]
