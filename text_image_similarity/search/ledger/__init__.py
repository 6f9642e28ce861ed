"""Ledgers: the truth of a catalogue, in a database."""

from __future__ import annotations

from .database import Database, Transaction
from .generations import Generation, Generations, add_generation
from .ledger import Ledger
from .rows import Found
from .sqlite import SqliteDatabase

__all__ = [
    "Database",
    "Found",
    "Generation",
    "Generations",
    "Ledger",
    "SqliteDatabase",
    "Transaction",
    "add_generation",
]
