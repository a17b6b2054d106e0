"""Clustering as transductive few-shot learning: prototypes with Laplacian regularisation and labels as constraints.

Ziko, Boudiaf, Dolz, Granger, Ben Ayed, *Transductive Few-Shot Learning: Clustering is All You Need?*, 2021
(arXiv:2106.09516).
"""

from typing import TYPE_CHECKING, Any

from holonomy.models.clustering.transductive_few_shot.affinity import knn_affinity as knn_affinity
from holonomy.models.clustering.transductive_few_shot.bound import bound_update as bound_update
from holonomy.models.clustering.transductive_few_shot.bound import discrete_energy as discrete_energy
from holonomy.models.clustering.transductive_few_shot.bound import relaxed_energy as relaxed_energy
from holonomy.models.clustering.transductive_few_shot.episodes import Accuracy as Accuracy
from holonomy.models.clustering.transductive_few_shot.episodes import Episode as Episode
from holonomy.models.clustering.transductive_few_shot.episodes import evaluate_episodes as evaluate_episodes
from holonomy.models.clustering.transductive_few_shot.episodes import sample_episode as sample_episode
from holonomy.models.clustering.transductive_few_shot.features import normalize_features as normalize_features
from holonomy.models.clustering.transductive_few_shot.few_shot import TransductiveFewShot as TransductiveFewShot
from holonomy.models.clustering.transductive_few_shot.few_shot import laplacian_shot as laplacian_shot
from holonomy.models.clustering.transductive_few_shot.few_shot import simpleshot as simpleshot

if TYPE_CHECKING:
    from holonomy.models.clustering.transductive_few_shot.clusterer import LaplacianKPrototypes as LaplacianKPrototypes


def __getattr__(name: str) -> Any:
    # The estimator inherits from scikit-learn's, which loads when it is first asked for.
    if name == "LaplacianKPrototypes":
        from holonomy.models.clustering.transductive_few_shot.clusterer import LaplacianKPrototypes

        return LaplacianKPrototypes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
