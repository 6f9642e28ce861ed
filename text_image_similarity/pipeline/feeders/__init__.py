"""Feeders: separate processes that fetch, decode and resize images for the process that encodes them.

The parent (`pool`) sends references and gets pixels back through shared memory (`ring`); a feeder (`program`) does
the same for each image as a thread of the run would, so errors and pixels are the same. `plan` decides how many feeders
there are, and the limits of each.
"""

from __future__ import annotations

from .plan import FeederPlan, FeederSettings, look_ahead_of, plan_feeders
from .pool import Feeders
from .starting import LazyFeeders

__all__ = [
    "FeederPlan",
    "FeederSettings",
    "Feeders",
    "LazyFeeders",
    "look_ahead_of",
    "plan_feeders",
]
