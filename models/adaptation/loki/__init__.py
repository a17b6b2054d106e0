"""Loki: predictions in a whole metric space of labels by a classifier that was trained on some of them.

Roberts, Li, Huang, Adila, Schoenberg, Liu, Pick, Ma, Albarghouthi, Sala, *Geometry-Aware Adaptation for Pretrained
Models*, NeurIPS 2023 (arXiv:2307.12226). Beyond it: structured metrics (`Tree`, `Grid`, `Points`), whose sums of
distances take O(N) a query, loci by linear programs, exact for every metric, and temperatures from held-out data.
"""

from typing import TYPE_CHECKING, Any

from holonomy.manifolds.kernels.simplex import project_simplex as project_simplex
from holonomy.models.adaptation.loki.baselines import argmax_predict as argmax_predict
from holonomy.models.adaptation.loki.baselines import barycentre_predict as barycentre_predict
from holonomy.models.adaptation.loki.baselines import nearest_embedding_predict as nearest_embedding_predict
from holonomy.models.adaptation.loki.baselines import random_unseen_predict as random_unseen_predict
from holonomy.models.adaptation.loki.calibrate import calibrate_temperature as calibrate_temperature
from holonomy.models.adaptation.loki.grids import Grid as Grid
from holonomy.models.adaptation.loki.grids import Points as Points
from holonomy.models.adaptation.loki.head import LokiHead as LokiHead
from holonomy.models.adaptation.loki.head import loki_polytope as loki_polytope
from holonomy.models.adaptation.loki.head import loki_smooth as loki_smooth
from holonomy.models.adaptation.loki.head import loki_straight_through as loki_straight_through
from holonomy.models.adaptation.loki.locus import is_locus_cover as is_locus_cover
from holonomy.models.adaptation.loki.locus import locus as locus
from holonomy.models.adaptation.loki.locus import minimum_locus_cover as minimum_locus_cover
from holonomy.models.adaptation.loki.locus import next_class as next_class
from holonomy.models.adaptation.loki.locus import pair_locus as pair_locus
from holonomy.models.adaptation.loki.metrics import class_means as class_means
from holonomy.models.adaptation.loki.metrics import embedding_metric as embedding_metric
from holonomy.models.adaptation.loki.metrics import graph_metric as graph_metric
from holonomy.models.adaptation.loki.metrics import grid_metric as grid_metric
from holonomy.models.adaptation.loki.metrics import hierarchy_metric as hierarchy_metric
from holonomy.models.adaptation.loki.metrics import manifold_metric as manifold_metric
from holonomy.models.adaptation.loki.metrics import manifold_predict as manifold_predict
from holonomy.models.adaptation.loki.metrics import spectral_embedding as spectral_embedding
from holonomy.models.adaptation.loki.metrics import tree_metric as tree_metric
from holonomy.models.adaptation.loki.predict import StructuredMetric as StructuredMetric
from holonomy.models.adaptation.loki.predict import expected_squared_distance as expected_squared_distance
from holonomy.models.adaptation.loki.predict import frechet_predict as frechet_predict
from holonomy.models.adaptation.loki.predict import frechet_scores as frechet_scores
from holonomy.models.adaptation.loki.predict import temper as temper
from holonomy.models.adaptation.loki.trees import Tree as Tree

if TYPE_CHECKING:
    from holonomy.models.adaptation.loki.classifier import LokiClassifier as LokiClassifier


def __getattr__(name: str) -> Any:
    # The estimator inherits from scikit-learn's, which loads when it is first asked for.
    if name == "LokiClassifier":
        from holonomy.models.adaptation.loki.classifier import LokiClassifier

        return LokiClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
