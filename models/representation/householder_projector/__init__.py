"""Householder Projector for Unsupervised Latent Semantics Discovery (Song, Zhang, Sebe and Wang, ICCV 2023).

A style generator's projections get r singular values of 1 and zeros: r equally strong directions of the latent space.
"""

from holonomy.models.representation.householder_projector.directions import Directions as Directions
from holonomy.models.representation.householder_projector.directions import (
    direction_attribute_matrix as direction_attribute_matrix,
)
from holonomy.models.representation.householder_projector.directions import dominance as dominance
from holonomy.models.representation.householder_projector.directions import latent_gram as latent_gram
from holonomy.models.representation.householder_projector.directions import path_length as path_length
from holonomy.models.representation.householder_projector.directions import path_lengths as path_lengths
from holonomy.models.representation.householder_projector.directions import (
    perceptual_path_length as perceptual_path_length,
)
from holonomy.models.representation.householder_projector.directions import sefa_directions as sefa_directions
from holonomy.models.representation.householder_projector.directions import squared_distance as squared_distance
from holonomy.models.representation.householder_projector.directions import traverse as traverse
from holonomy.models.representation.householder_projector.directions import trimmed_mean as trimmed_mean
from holonomy.models.representation.householder_projector.householder import (
    HouseholderOrthogonal as HouseholderOrthogonal,
)
from holonomy.models.representation.householder_projector.householder import Method as Method
from holonomy.models.representation.householder_projector.householder import compact_wy as compact_wy
from holonomy.models.representation.householder_projector.householder import householder_matrix as householder_matrix
from holonomy.models.representation.householder_projector.householder import householder_product as householder_product
from holonomy.models.representation.householder_projector.householder import householder_vectors as householder_vectors
from holonomy.models.representation.householder_projector.projector import HouseholderProjector as HouseholderProjector
from holonomy.models.representation.householder_projector.projector import Projector as Projector
from holonomy.models.representation.householder_projector.projector import StiefelProjector as StiefelProjector
from holonomy.models.representation.householder_projector.projector import affine_map as affine_map
from holonomy.models.representation.householder_projector.projector import (
    replace_style_projections as replace_style_projections,
)
