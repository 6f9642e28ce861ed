"""Ledgers: the authoritative data of a catalogue, in a database."""

from __future__ import annotations

from .database import Database, Transaction, intact
from .generations import Generation, Generations, add_generation
from .ledger import Ledger
from .rows import Found
from .sqlite import SqliteDatabase
from .sqlite_file import MEMORY

__all__ = [
    "MEMORY",
    "Database",
    "Found",
    "Generation",
    "Generations",
    "Ledger",
    "SqliteDatabase",
    "Transaction",
    "add_generation",
    "intact",
]
