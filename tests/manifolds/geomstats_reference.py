"""geomstats, where it is installed."""

from typing import Any

import numpy as np
import pytest


def geomstats(module: str) -> Any:
    """Import a module of geomstats.geometry, or skip the test."""
    if not hasattr(np, "trapz"):  # version 2.8 asks for a name that numpy 2.4 dropped
        vars(np)["trapz"] = np.trapezoid
    return pytest.importorskip(f"geomstats.geometry.{module}")
