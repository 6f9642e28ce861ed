"""Folders that other users may write to or replace: who owns them, which links lead there, and private ones in them."""

from __future__ import annotations

from .links import PINNED, follow_links, shown
from .owners import check_own, forbid_others_to_write, identity_of, others_may_write
from .private import pinned, private_folder

__all__ = [
    "PINNED",
    "check_own",
    "follow_links",
    "forbid_others_to_write",
    "identity_of",
    "others_may_write",
    "pinned",
    "private_folder",
    "shown",
]
