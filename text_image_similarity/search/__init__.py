"""Search: rank images by words and captions by images, directly or with a database.

    from text_image_similarity import create_predictor
    predictor = create_predictor("mini")
    predictor.build_image_database("photos/")
    for match in predictor.search_database("a dog on grass", top_k=5):
        print(match.similarity, match.item)

Images are processed as in `score_pairs`, with the same references, limits, decoding and batches, and therefore the same
similarities. A predictor's search is exact. For products with fields, `open_catalog` opens a catalogue instead.
"""

from __future__ import annotations

from .calibrate import CatalogCalibration, Judgement
from .catalog import Catalog, open_catalog
from .database import CaptionDatabase, ImageDatabase, ModelIdentity
from .fields import Field
from .ingest import AddReport
from .opening import set_model
from .predictor import ItemMatch, Predictor, create_predictor
from .product_columns import ProductColumns
from .product_sources import is_source, open_source
from .product_tables import ProductTable
from .products import Product
from .query import AWAY, Match, Matches, Query, Reason, Term
from .searcher import Searcher
from .table_catalog import open_table_catalog
from .vectors import contents

__all__ = [
    "AWAY",
    "AddReport",
    "CaptionDatabase",
    "Catalog",
    "CatalogCalibration",
    "Field",
    "ImageDatabase",
    "ItemMatch",
    "Judgement",
    "Match",
    "Matches",
    "ModelIdentity",
    "Predictor",
    "Product",
    "ProductColumns",
    "ProductTable",
    "Query",
    "Reason",
    "Searcher",
    "Term",
    "contents",
    "create_predictor",
    "is_source",
    "open_catalog",
    "open_source",
    "open_table_catalog",
    "set_model",
]
