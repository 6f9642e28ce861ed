"""Attacks by a malicious client: one list for the benchmarks and the tests.

Each attack is one blow; whoever uses it repeats it, as fast or as slowly as suits. All stay on this machine, and all are
bounded by `Target.size`.
"""

from .attack import ATTACKS, attack, strike
from .pictures import picture
from .requests import WORST, hostile_host, long_texts
from .target import Target

__all__ = ["ATTACKS", "WORST", "Target", "attack", "hostile_host", "long_texts", "picture", "strike"]
