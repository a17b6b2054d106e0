"""Optimizers: torch.optim's interface and conventions, for parameters on manifolds and plain ones side by side.

`RiemannianSGD` and `RiemannianAdam` step each parameter on the manifold that it has (see
`holonomy.manifolds.ManifoldParameter`), batch the parameters of one manifold and shape into one call, transport their
moments along, and hand every plain parameter to torch's own SGD, Adam or AdamW. `HybridOptimizer` steps any torch
optimizer for the plain parameters beside one of ours.
"""

from holonomy.optim.adam import RiemannianAdam as RiemannianAdam
from holonomy.optim.hybrid import HybridOptimizer as HybridOptimizer
from holonomy.optim.sgd import RiemannianSGD as RiemannianSGD
