"""Clustering as transductive few-shot learning: prototypes with Laplacian regularisation and labels as constraints.

Ziko, Boudiaf, Dolz, Granger, Ben Ayed, *Transductive Few-Shot Learning: Clustering is All You Need?*, 2021
(arXiv:2106.09516).
"""

from holonomy.models.clustering.transductive_few_shot.affinity import knn_affinity as knn_affinity
from holonomy.models.clustering.transductive_few_shot.bound import bound_update as bound_update
from holonomy.models.clustering.transductive_few_shot.bound import discrete_energy as discrete_energy
from holonomy.models.clustering.transductive_few_shot.bound import relaxed_energy as relaxed_energy
