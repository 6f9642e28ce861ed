"""Filters on products' fields, as a tree that each store compiles.

    parse_filter('category = "Footwear" and price <= 90', fields)

`reference` defines the meaning of a filter; `sql` compiles it for SQL databases.
"""

from __future__ import annotations

from .mapping import MOST_BRACKETS
from .parse import MOST_CHARACTERS, parse_filter
from .reference import matches
from .tree import And, Compare, Comparison, Exists, Filter, Not, OneOf, Or, to_dict

__all__ = [
    "MOST_BRACKETS",
    "MOST_CHARACTERS",
    "And",
    "Compare",
    "Comparison",
    "Exists",
    "Filter",
    "Not",
    "OneOf",
    "Or",
    "matches",
    "parse_filter",
    "to_dict",
]
