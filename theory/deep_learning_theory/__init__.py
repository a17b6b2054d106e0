"""The Principles of Deep Learning Theory (Roberts, Yaida and Hanin, Cambridge 2022): wide networks and what 1/n adds.

Kernels, tangent kernels and their fluctuations by recursions in depth; critical initialisations; what sympy derives of
them; training at infinite width; how rates and shapes scale.
"""

from holonomy.theory.deep_learning_theory.checks import checks as checks
from holonomy.theory.deep_learning_theory.criticality import CriticalPoint as CriticalPoint
from holonomy.theory.deep_learning_theory.criticality import critical_point as critical_point
from holonomy.theory.deep_learning_theory.recursions import LayerStats as LayerStats
from holonomy.theory.deep_learning_theory.recursions import fluctuation_recursion as fluctuation_recursion
from holonomy.theory.deep_learning_theory.recursions import kernel_recursion as kernel_recursion
from holonomy.theory.deep_learning_theory.recursions import ntk_recursion as ntk_recursion
from holonomy.theory.deep_learning_theory.recursions import susceptibilities as susceptibilities
from holonomy.theory.deep_learning_theory.recursions import vertex_recursion as vertex_recursion
from holonomy.theory.deep_learning_theory.symbolic import solve_scale_invariant as solve_scale_invariant
from holonomy.theory.deep_learning_theory.symbolic import symbolic_coefficients as symbolic_coefficients
from holonomy.theory.deep_learning_theory.training import CriticalMLP as CriticalMLP
from holonomy.theory.deep_learning_theory.training import infinite_width_predict as infinite_width_predict
from holonomy.theory.deep_learning_theory.training import layer_rates as layer_rates
from holonomy.theory.deep_learning_theory.training import nngp_posterior as nngp_posterior
from holonomy.theory.deep_learning_theory.training import optimal_aspect_ratio as optimal_aspect_ratio
from holonomy.theory.deep_learning_theory.training import vertex_rate as vertex_rate
