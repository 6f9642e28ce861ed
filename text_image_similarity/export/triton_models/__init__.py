"""The models of a Triton repository that run on its python backend; the server has a copy of this package beside each.

They import what the package's scoring itself uses, so a picture is decoded and a caption is read there as everywhere.
"""

from __future__ import annotations
