"""What classes in scikit-learn's manner share where scikit-learn itself need not be installed."""

import inspect
from typing import Any, Self

__all__ = ["Estimator"]


class Estimator:
    """Parameters that are those of the constructor, read and set by name; fitted attributes end in an underscore."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name.

        Raises
        ------
        ValueError
            If there is no parameter of that name.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"parameter must be one of {', '.join(known)}, got {name!r}")
            setattr(self, name, value)
        return self

    def check_fitted(self, attribute: str) -> None:
        """Refuse to go on without a fitted attribute.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        if not hasattr(self, attribute):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit(x) first")
