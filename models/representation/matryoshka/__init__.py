"""Matryoshka Representation Learning (Kusupati et al., NeurIPS 2022): one vector whose every prefix is an embedding."""

from holonomy.models.representation.matryoshka.cascade import AdaptiveClassifier as AdaptiveClassifier
from holonomy.models.representation.matryoshka.nested import MatryoshkaContrastive as MatryoshkaContrastive
from holonomy.models.representation.matryoshka.nested import MatryoshkaEncoder as MatryoshkaEncoder
from holonomy.models.representation.matryoshka.nested import MatryoshkaLinear as MatryoshkaLinear
from holonomy.models.representation.matryoshka.nested import MatryoshkaLoss as MatryoshkaLoss
from holonomy.models.representation.matryoshka.nested import default_nesting as default_nesting
from holonomy.models.representation.matryoshka.nested import nested_rotation as nested_rotation
from holonomy.models.representation.matryoshka.nested import truncate as truncate
from holonomy.models.representation.matryoshka.retrieval import adaptive_retrieval as adaptive_retrieval
from holonomy.models.representation.matryoshka.retrieval import funnel_retrieval as funnel_retrieval
from holonomy.models.representation.matryoshka.retrieval import retrieval_flops as retrieval_flops
