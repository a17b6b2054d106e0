"""Sensitivity sampling: which rows of a tall matrix keep ||Ax||_p for every x.

Woodruff and Yasuda, Sharper Bounds for l_p Sensitivity Sampling (ICML 2023, arXiv 2306.00732 v2). Implemented:
leverage scores, Lewis weights, l_p sensitivities exactly and in certified bounds, the samplers with all their rules,
root leverage sampling in rounds, flattening, the sample complexities, the measured distortion, l_p regression, and
``checks`` of what the paper and its sources state.

Where it departs from the paper's text: sensitivities for p = 1 come from an interior-point method with a certificate,
since reweighted least squares stalls; the Lewis weights for p > 2 from the multiplicative ascent of the concave
programme (`lewis`), since the usual iteration diverges from p = 4 on; and bounds of sensitivities hold for any weights
(`bounds`), not at the exact fixed point alone.
"""

from holonomy.theory.sensitivity_sampling.bounds import sample_complexity as sample_complexity
from holonomy.theory.sensitivity_sampling.bounds import sensitivity_bounds as sensitivity_bounds
from holonomy.theory.sensitivity_sampling.checks import checks as checks
from holonomy.theory.sensitivity_sampling.distortion import Prober as Prober
from holonomy.theory.sensitivity_sampling.distortion import distortion as distortion
from holonomy.theory.sensitivity_sampling.distortion import subspace_distortion as subspace_distortion
from holonomy.theory.sensitivity_sampling.flatten import flatten_rows as flatten_rows
from holonomy.theory.sensitivity_sampling.instances import flat_matrix as flat_matrix
from holonomy.theory.sensitivity_sampling.instances import flat_total as flat_total
from holonomy.theory.sensitivity_sampling.instances import replicated_identity as replicated_identity
from holonomy.theory.sensitivity_sampling.instances import tight_instance as tight_instance
from holonomy.theory.sensitivity_sampling.leverage import leverage_scores as leverage_scores
from holonomy.theory.sensitivity_sampling.lewis import lewis_weights as lewis_weights
from holonomy.theory.sensitivity_sampling.recursive import recursive_root_leverage as recursive_root_leverage
from holonomy.theory.sensitivity_sampling.regression import lp_regression as lp_regression
from holonomy.theory.sensitivity_sampling.requirement import required_rows as required_rows
from holonomy.theory.sensitivity_sampling.sampler import NotFittedError as NotFittedError
from holonomy.theory.sensitivity_sampling.sampler import RowSample as RowSample
from holonomy.theory.sensitivity_sampling.sampler import RowSampler as RowSampler
from holonomy.theory.sensitivity_sampling.sensitivities import lp_sensitivities as lp_sensitivities
from holonomy.theory.sensitivity_sampling.sensitivities import total_sensitivity as total_sensitivity
