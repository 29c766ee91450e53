"""Hybrid time: commit clocks made to respect what a write saw.

After Kulkarni et al., "Logical Physical Clocks" (2014), kept in one integer: microseconds that are
pushed forward by one where the clock alone would contradict causality. Time is an argument; nothing
here asks a clock.
"""

from __future__ import annotations


def tick(commit_time: int, *seen: int) -> int:
    """The hybrid time of a write with `commit_time` that saw writes with the hybrid times `seen`."""
    return max(commit_time, *(s + 1 for s in seen)) if seen else commit_time
