"""The errors that manifolds raise: each names what was received and what was wanted."""

__all__ = ["ConvergenceError", "DimensionError", "MembershipError"]


class DimensionError(ValueError):
    """The shape of an argument does not fit the manifold or the other arguments."""


class MembershipError(ValueError):
    """The values of an argument are no point of the manifold, or no tangent vector at the point."""


class ConvergenceError(RuntimeError):
    """An iterative algorithm stopped before it reached its tolerance; the message states how far it came."""
