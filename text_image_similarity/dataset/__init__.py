"""Images with their captions, for training and evaluation.

Sources are the tables that `formats` reads, folders of tables named after splits, and data sets on the hub. A table has
either the columns of the data set jxie/flickr8k (`image` with the bytes, `caption_0` ...) or references and captions. A
photo is one item regardless of its source: rows with the same bytes or the same reference are merged with all their
captions, so that no photo can be in two splits. Copies that differ in even one byte, such as files that were saved
again, count as two photos.
"""

from __future__ import annotations

from .hub_table import HubTable, is_hub, open_source
from .images import CaptionedImage, ImageLoader, load_image
from .read import own_splits, read_dataset, read_splits
from .splits import split_dataset

__all__ = [
    "CaptionedImage",
    "HubTable",
    "ImageLoader",
    "is_hub",
    "load_image",
    "open_source",
    "own_splits",
    "read_dataset",
    "read_splits",
    "split_dataset",
]
