"""Subspace training, of Measuring the Intrinsic Dimension of Objective Landscapes (Li et al., ICLR 2018).

A module of D parameters is trained through d numbers v, theta = theta_0 + P v, with a fixed random P.
"""

from holonomy.models.adaptation.intrinsic_dimension.projections import DenseProjection as DenseProjection
from holonomy.models.adaptation.intrinsic_dimension.projections import FastfoodProjection as FastfoodProjection
from holonomy.models.adaptation.intrinsic_dimension.projections import RandomProjection as RandomProjection
from holonomy.models.adaptation.intrinsic_dimension.projections import SparseProjection as SparseProjection
from holonomy.models.adaptation.intrinsic_dimension.projections import StiefelProjection as StiefelProjection
from holonomy.models.adaptation.intrinsic_dimension.projections import fwht as fwht
from holonomy.models.adaptation.intrinsic_dimension.subspace_model import SubspaceConfig as SubspaceConfig
from holonomy.models.adaptation.intrinsic_dimension.subspace_model import SubspaceModel as SubspaceModel
from holonomy.models.adaptation.intrinsic_dimension.subspace_model import inject_subspace as inject_subspace
from holonomy.models.adaptation.intrinsic_dimension.subspace_model import load_intrinsic as load_intrinsic
from holonomy.models.adaptation.intrinsic_dimension.subspace_model import merge_subspace as merge_subspace
from holonomy.models.adaptation.intrinsic_dimension.subspace_model import save_intrinsic as save_intrinsic
