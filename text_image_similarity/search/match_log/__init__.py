"""The match log: queries to a catalogue, their results, and what people did with them."""

from __future__ import annotations

from .entries import EventKind, LogEntry, LogEvent, new_match_id
from .export import export_log
from .match_log import MatchLog
from .opening import open_match_log
from .privacy import LogQueries, masked, masked_query
from .storage import LogStorage
from .summary import LogSummary, describe_query, summarize
from .training_pairs import TrainingExport, export_training
from .writer import MOST_BYTES, LogRecord, LogWriter

__all__ = [
    "MOST_BYTES",
    "EventKind",
    "LogEntry",
    "LogEvent",
    "LogQueries",
    "LogRecord",
    "LogStorage",
    "LogSummary",
    "LogWriter",
    "MatchLog",
    "TrainingExport",
    "describe_query",
    "export_log",
    "export_training",
    "masked",
    "masked_query",
    "new_match_id",
    "open_match_log",
    "summarize",
]
