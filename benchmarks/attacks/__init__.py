"""Attacks by a malicious client: one list for the benchmarks and the tests.

Each attack is a single attempt, which the caller repeats at any rate. No request leaves this machine, and `Target.size`
limits them all.
"""

from .attack import ATTACKS, attack, strike
from .pictures import picture
from .requests import WORST, hostile_host, long_texts
from .target import Target

__all__ = ["ATTACKS", "WORST", "Target", "attack", "hostile_host", "long_texts", "picture", "strike"]
