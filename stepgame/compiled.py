"""The one place where numba is asked to compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

__all__ = ["compiled"]

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a numeric function on first use; the result is cached on disk and releases the GIL."""
    return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))
