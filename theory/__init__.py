"""Numerical checks of what papers state: one module a paper, each with ``checks(seed) -> list[Check]``."""

from holonomy.theory.check import Check as Check
