"""Random few-shot tasks, and mean accuracy over them with its interval."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holonomy.models.clustering.transductive_few_shot.inputs import points, whole_labels

__all__ = ["Accuracy", "Episode", "evaluate_episodes", "sample_episode"]

#: From support (tasks, m, d), its labels (tasks, m) and queries (tasks, q, d) to labels (tasks, q).
Classify = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Episode:
    """A task: features of support and queries, and their labels from 0, in the order of `classes`.

    Attributes
    ----------
    support, query : ndarray
        (m, d) and (q, d), sorted by class.
    support_labels, query_labels : ndarray
        (m,) and (q,), 0 to n_way - 1.
    classes : ndarray
        (n_way,): what the classes are called in the data.
    """

    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Accuracy:
    """Mean over episodes, half the width of its 95 % interval, 1.96 std/sqrt(episodes), and each episode's."""

    mean: float
    half_width: float
    per_episode: np.ndarray

    @classmethod
    def of(cls, per_episode: np.ndarray) -> "Accuracy":
        """Summarise accuracies of episodes, or differences of them, which gives a paired interval."""
        spread = float(per_episode.std(ddof=1)) if len(per_episode) > 1 else 0.0
        return cls(float(per_episode.mean()), 1.96 * spread / len(per_episode) ** 0.5, per_episode)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.mean, self.half_width, self.per_episode))


def sample_episode(
    features: Any,
    labels: Any,
    n_way: int,
    n_shot: int | Sequence[int],
    n_query: int | Sequence[int],
    generator: np.random.Generator,
    alpha: float | None = None,
) -> Episode:
    """Draw classes, and of each its support and its queries, without repetition.

    Parameters
    ----------
    features, labels : array-like or Tensor
        (N, d), and integers (N,).
    n_way : int
        Classes, at least 2.
    n_shot : int or sequence of int
        Labelled features of each class, at least 1.
    n_query : int or sequence of int
        Queries of each class; a sequence may have zeros.
    generator : numpy.random.Generator
        Draws.
    alpha : float, optional
        Unbalanced episodes: the n_way n_query queries fall to classes by shares of a Dirichlet(alpha, ..., alpha) law;
        what a class does not have falls to the others.

    Returns
    -------
    Episode

    Raises
    ------
    ValueError
        Where there are not as many classes, or not as many features of each, or a number is out of its range.
    """
    return _draw(_pool(features, labels), n_way, n_shot, n_query, generator, alpha)


def _pool(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Features, the classes' names, and the places of each class."""
    x = points("sample_episode", "features", features)
    y = whole_labels("sample_episode", "labels", labels, x.shape[:1])
    names, places = np.unique(y, return_inverse=True)
    return x, names, [np.flatnonzero(places == k) for k in range(len(names))]


def _draw(
    pool: tuple[np.ndarray, np.ndarray, list[np.ndarray]],
    n_way: int,
    n_shot: int | Sequence[int],
    n_query: int | Sequence[int],
    generator: np.random.Generator,
    alpha: float | None,
) -> Episode:
    features, names, members = pool
    counts = np.array([len(own) for own in members])
    shots, queries = _sizes(n_way, n_shot, n_query, alpha)
    if len(names) < n_way:
        raise ValueError(
            f"sample_episode: 'n_way' must be at most the {len(names)} classes that there are, got {n_way}"
        )
    chosen = generator.choice(len(names), n_way, replace=False)
    if alpha is not None:
        queries = _unbalanced(queries, counts[chosen] - shots, alpha, generator)
    lacking = (counts[chosen] < shots + queries).nonzero()[0]
    if len(lacking):
        which = lacking[0]
        raise ValueError(
            f"sample_episode: class {names[chosen[which]]} has {counts[chosen[which]]} features, and 'n_shot' with "
            f"'n_query' wants {shots[which] + queries[which]}"
        )
    orders = [generator.permutation(members[one]) for one in chosen]
    support = np.concatenate([order[:s] for order, s in zip(orders, shots, strict=True)])
    query = np.concatenate([order[s : s + q] for order, s, q in zip(orders, shots, queries, strict=True)])
    ways = np.arange(n_way)
    return Episode(features[support], ways.repeat(shots), features[query], ways.repeat(queries), names[chosen])


def evaluate_episodes(
    classify: Classify,
    features: Any,
    labels: Any,
    n_episodes: int,
    n_way: int = 5,
    n_shot: int | Sequence[int] = 1,
    n_query: int | Sequence[int] = 15,
    *,
    generator: np.random.Generator,
    alpha: float | None = None,
    batch: int = 200,
) -> Accuracy:
    """Mean accuracy of a method over random episodes; the same episodes for every method that is given the same seed.

    Parameters
    ----------
    classify : callable
        From support (tasks, m, d), its labels (tasks, m) and queries (tasks, q, d) to labels (tasks, q).
    features, labels, n_way, n_shot, n_query, generator, alpha
        As of `sample_episode`.
    n_episodes : int
        Episodes.
    batch : int, default 200
        Episodes that are held, and handed to `classify`, at once.

    Returns
    -------
    Accuracy
        Unpacks into mean, half-width of the 95 % interval, and the accuracy of each episode.

    Raises
    ------
    ValueError
        As `sample_episode`, and where labels come back in another shape.
    """
    if n_episodes < 1 or batch < 1:
        raise ValueError(f"evaluate_episodes: 'n_episodes' and 'batch' must be positive, got {n_episodes} and {batch}")
    pool = _pool(features, labels)
    found: list[np.ndarray] = []
    for low in range(0, n_episodes, batch):
        episodes = [
            _draw(pool, n_way, n_shot, n_query, generator, alpha) for _ in range(low, min(low + batch, n_episodes))
        ]
        wanted = np.stack([one.query_labels for one in episodes])
        predicted = np.asarray(
            classify(
                np.stack([one.support for one in episodes]),
                np.stack([one.support_labels for one in episodes]),
                np.stack([one.query for one in episodes]),
            )
        )
        if predicted.shape != wanted.shape:
            raise ValueError(f"evaluate_episodes: 'classify' gave shape {predicted.shape}, wanted {wanted.shape}")
        found.append((predicted == wanted).mean(1))
    return Accuracy.of(np.concatenate(found))


def _sizes(
    n_way: int, n_shot: int | Sequence[int], n_query: int | Sequence[int], alpha: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Shots and queries of each class."""
    if n_way < 2:
        raise ValueError(f"sample_episode: 'n_way' must be at least 2, got {n_way}")
    result = []
    for name, value, least in (("n_shot", n_shot, 1), ("n_query", n_query, 0)):
        sizes = np.asarray(value)
        if sizes.ndim and sizes.shape != (n_way,):
            raise ValueError(f"sample_episode: {name!r} must be one number or {n_way} of them, got {value}")
        if sizes.min() < least:
            raise ValueError(f"sample_episode: {name!r} must be at least {least}, got {value}")
        result.append(np.broadcast_to(sizes, n_way).astype(np.int64))
    if result[1].sum() < 1:
        raise ValueError(f"sample_episode: 'n_query' must leave a query, got {n_query}")
    if alpha is not None and not alpha > 0:
        raise ValueError(f"sample_episode: 'alpha' must be positive, got {alpha}")
    return result[0], result[1]


def _unbalanced(queries: np.ndarray, room: np.ndarray, alpha: float, generator: np.random.Generator) -> np.ndarray:
    """Numbers of queries by random shares, none above what there is."""
    total = int(queries.sum())
    if total > room.clip(0).sum():
        raise ValueError(f"sample_episode: 'n_query' wants {total} queries of classes that have {room.tolist()}")
    shares = generator.dirichlet(np.full(len(queries), alpha))
    found = np.minimum(generator.multinomial(total, shares), room)
    while found.sum() < total:
        left = room - found
        found += np.minimum(generator.multinomial(total - found.sum(), left / left.sum()), left)
    return found
