"""The one way to write to a person: rich without markup, in wide lines where there is no terminal to fit."""

import os
import sys

from rich.console import Console


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Open a console on standard output or error."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 140
    return Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, width=width)
