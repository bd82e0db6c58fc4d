"""Exact answers by independent NumPy and HiGHS code, read once."""

import json
from functools import cache
from pathlib import Path


@cache
def cases(kind: str) -> list[dict]:
    """The cases of one kind, e.g. two_agent, weakly_coupled, circulant or restless."""
    path = Path(__file__).with_name("cases.json")
    return json.loads(path.read_text())[kind]
