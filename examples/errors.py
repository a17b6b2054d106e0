"""What goes wrong before an example starts, told to its user as one line."""

from importlib import import_module
from types import ModuleType


class UsageError(Exception):
    """A request that cannot be run as it stands; the message says what to change."""


class DataError(UsageError, ValueError):
    """The data that ``--data`` names is not of the form that the example wants."""


class MissingPackageError(UsageError, ImportError):
    """A package of the ``examples`` extra is not installed."""


def require(module: str, package: str) -> ModuleType:
    """Import a module of an optional package.

    Parameters
    ----------
    module : str
        Full name of the module.
    package : str
        Name of the package that has it, for the message.

    Raises
    ------
    MissingPackageError
        If it is not installed; the message holds the line that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{package} is not installed; the examples' packages come with: pip install 'holonomy[examples]'"
        ) from error
