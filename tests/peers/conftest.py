"""An optional group: collected only where ``-m peers`` asks for it, with the markers that geomstats' test cases use."""

from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    for name in ("ignore", "mathprop", "random", "redundant", "shape", "slow", "smoke", "type", "validation", "vec"):
        config.addinivalue_line("markers", f"{name}: of geomstats' test cases")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if "peers" not in str(config.getoption("markexpr")).replace("not peers", "") else None
