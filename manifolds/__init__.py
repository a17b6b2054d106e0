"""Manifolds: types with exact geometry, the parameters that live on them, and what is built on their operations."""

from holonomy.manifolds.base import Manifold as Manifold
from holonomy.manifolds.checks import SlopeCheck as SlopeCheck
from holonomy.manifolds.checks import check_gradient as check_gradient
from holonomy.manifolds.checks import check_hessian as check_hessian
from holonomy.manifolds.checks import check_logmap as check_logmap
from holonomy.manifolds.checks import check_retraction as check_retraction
from holonomy.manifolds.checks import check_transport as check_transport
from holonomy.manifolds.errors import ConvergenceError as ConvergenceError
from holonomy.manifolds.errors import DimensionError as DimensionError
from holonomy.manifolds.errors import MembershipError as MembershipError
from holonomy.manifolds.euclidean import Euclidean as Euclidean
from holonomy.manifolds.grassmann import Grassmann as Grassmann
from holonomy.manifolds.interop import from_geoopt as from_geoopt
from holonomy.manifolds.lorentz import Lorentz as Lorentz
from holonomy.manifolds.parameter import ManifoldParameter as ManifoldParameter
from holonomy.manifolds.parameter import find_manifold as find_manifold
from holonomy.manifolds.parameter import find_manifolds as find_manifolds
from holonomy.manifolds.parameter import manifold_parameters as manifold_parameters
from holonomy.manifolds.parametrize import OnManifold as OnManifold
from holonomy.manifolds.parametrize import rebase as rebase
from holonomy.manifolds.poincare_ball import PoincareBall as PoincareBall
from holonomy.manifolds.simplex import Simplex as Simplex
from holonomy.manifolds.sphere import Sphere as Sphere
from holonomy.manifolds.stiefel import Stiefel as Stiefel
