"""Poincaré ResNet (van Spengler, Berkhout, Mettes; ICCV 2023, arXiv 2303.14027).

A residual network whose every feature map is a map of points in the Poincaré ball, from the pixels on.

Implemented: the Poincaré linear and convolution layers of HNN++ with norm-preserving initialisation; batch
normalisation about the gyromidpoint, and about the Fréchet mean with implicit gradients; the residual join by Möbius
addition; hand-written backward passes that save inputs only; the networks, the Euclidean baselines, and the evaluation
under attack and out of distribution.

Where it differs from the paper's text or published code:

- lambda_x = 2 / (1 - c |x|^2) in the linear layer, so that the weight I/2 is the identity (the code has its reciprocal,
  up to the factor).
- The ball axis of the residual join is the channel axis (the code's is the width).
- The convolution's identity is a Dirac kernel, compensated for the scaling of patches: norms stay the same through any
  number of layers without batch norm. The published identity matrix is ``init="identity_eye"``.
- The curvature's gradients are the derivatives, reduced to the shape of c; all pass gradcheck, and are differentiable.
- The convolution does not unfold, and neither logarithm nor exponential at the boundary of the ball is formed between
  layers (see `gyroplanes`); values and gradients equal the unfolded formulas.
- Batch norm keeps running statistics by default; ``track_running_stats=False`` uses batch statistics always.
"""

from holonomy.models.architectures.poincare_resnet.baselines import EuclideanResNet as EuclideanResNet
from holonomy.models.architectures.poincare_resnet.baselines import FusionResNet as FusionResNet
from holonomy.models.architectures.poincare_resnet.baselines import HyperbolicHeadResNet as HyperbolicHeadResNet
from holonomy.models.architectures.poincare_resnet.batchnorm import PoincareBatchNorm as PoincareBatchNorm
from holonomy.models.architectures.poincare_resnet.batchnorm import PoincareBatchNorm1d as PoincareBatchNorm1d
from holonomy.models.architectures.poincare_resnet.batchnorm import PoincareBatchNorm2d as PoincareBatchNorm2d
from holonomy.models.architectures.poincare_resnet.batchnorm import update_batchnorm as update_batchnorm
from holonomy.models.architectures.poincare_resnet.layers import PoincareAvgPool2d as PoincareAvgPool2d
from holonomy.models.architectures.poincare_resnet.layers import PoincareConv2d as PoincareConv2d
from holonomy.models.architectures.poincare_resnet.layers import PoincareLinear as PoincareLinear
from holonomy.models.architectures.poincare_resnet.layers import PoincareMLR as PoincareMLR
from holonomy.models.architectures.poincare_resnet.layers import PoincareReLU as PoincareReLU
from holonomy.models.architectures.poincare_resnet.layers import PoincareResidual as PoincareResidual
from holonomy.models.architectures.poincare_resnet.layers import beta_ratio as beta_ratio
from holonomy.models.architectures.poincare_resnet.network import PoincareBasicBlock as PoincareBasicBlock
from holonomy.models.architectures.poincare_resnet.network import PoincareResNet as PoincareResNet
from holonomy.models.architectures.poincare_resnet.network import poincare_resnet as poincare_resnet
from holonomy.models.architectures.poincare_resnet.network import poincare_resnet20 as poincare_resnet20
from holonomy.models.architectures.poincare_resnet.network import poincare_resnet32 as poincare_resnet32
from holonomy.models.architectures.poincare_resnet.network import poincare_resnet44 as poincare_resnet44
from holonomy.models.architectures.poincare_resnet.statistics import frechet_mean as frechet_mean
from holonomy.models.architectures.poincare_resnet.statistics import poincare_midpoint as poincare_midpoint
