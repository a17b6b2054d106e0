"""Word vectors in text files: a word and its numbers a line, as word2vec and fastText write them."""

from pathlib import Path

import numpy as np

from holonomy.examples.errors import DataError

__all__ = ["load_word_vectors"]


def load_word_vectors(path: Path, limit: int = 200_000) -> dict[str, np.ndarray]:
    """Load the first words of a file.

    Parameters
    ----------
    path : Path
        UTF-8 text; a first line of two numbers, how many words and how long, is passed over.
    limit : int
        Words at most.

    Returns
    -------
    dict of str to ndarray
        Vectors, float32, in the order of the file; of a repeated word the first.

    Raises
    ------
    DataError
        If the file is not there, has no words, or lines of different lengths or of what are no numbers.
    """
    if not path.is_file():
        raise DataError(f"--data: {path} is not there; wanted a text file of word vectors")
    found: dict[str, np.ndarray] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            word, *values = line.rstrip().split(" ")
            if number == 1 and len(values) == 1:
                continue
            try:
                vector = np.array(values, dtype=np.float32)
            except ValueError as error:
                raise DataError(
                    f"--data: {path}, line {number}: wanted a word and numbers, got {line[:60]!r}"
                ) from error
            width = len(next(iter(found.values()))) if found else len(vector)
            if len(vector) != width or width == 0:
                raise DataError(f"--data: {path}, line {number} has {len(vector)} numbers, wanted {width or 'some'}")
            found.setdefault(word, vector)
            if len(found) == limit:
                break
    if not found:
        raise DataError(f"--data: {path} has no word vectors")
    return found
