"""Online learning: single guarded optimizer steps on fresh pictures, measured before and after."""

from __future__ import annotations
