"""What Can Be Learnt With Wide Convolutional Neural Networks? (Cagnetta, Favero, Wyart, ICML 2023).

Kernels of hierarchical convolutional networks at infinite width, their spectra by sectors, and learning curves of
kernel regression with them: how fast a target of a given spatial scale is learnt.
"""

from holonomy.theory.wide_cnn.checks import checks as checks
from holonomy.theory.wide_cnn.curves import LearningCurve as LearningCurve
from holonomy.theory.wide_cnn.curves import predicted_exponent as predicted_exponent
from holonomy.theory.wide_cnn.curves import student_errors as student_errors
from holonomy.theory.wide_cnn.curves import teacher_student_curve as teacher_student_curve
from holonomy.theory.wide_cnn.kernel import HierarchicalKernel as HierarchicalKernel
from holonomy.theory.wide_cnn.kernel import sample_multisphere as sample_multisphere
from holonomy.theory.wide_cnn.network import WideCNN as WideCNN
from holonomy.theory.wide_cnn.spectrum import effective_dimension as effective_dimension
from holonomy.theory.wide_cnn.spectrum import gegenbauer_spectrum as gegenbauer_spectrum
from holonomy.theory.wide_cnn.spectrum import sector_eigenvalues as sector_eigenvalues
from holonomy.theory.wide_cnn.spectrum import torus_spectrum as torus_spectrum
