"""Errors of geometric operations, ours and the peers', against fifty digits: ``python -m benchmarks.accuracy``."""
