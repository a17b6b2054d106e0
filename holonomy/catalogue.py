"""The papers that Holonomy covers: one entry each, under the slug that names its model, example, test and check."""

import difflib
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Paper:
    """A published method.

    Attributes
    ----------
    slug : str
        The one name of the paper in code, tests and on the command line.
    title, venue : str
        As published; the venue with its year.
    family : str
        The folder of holonomy.models that its method is in, or ``theory``.
    minutes : float or None
        Typical time of ``holonomy run`` at the default size on two CPU cores; None until the example exists.
    data : str
        What the example runs on by default.
    seconds : float or None
        Typical time of ``holonomy verify`` on one CPU core; None where there are no checks.
    """

    slug: str
    title: str
    venue: str
    family: str
    minutes: float | None = None
    data: str = ""
    seconds: float | None = None

    @property
    def ready(self) -> bool:
        """Whether the example is there."""
        return find_spec(f"holonomy.examples.{self.slug}") is not None

    @property
    def checked(self) -> bool:
        """Whether theory has checks of it."""
        return find_spec(f"holonomy.theory.{self.slug}") is not None


#: What `holonomy verify` knows besides the papers.
GEOMETRY = Paper("geometry", "Metrics, connections and curvatures of the manifolds", "", "theory", seconds=20)

PAPERS = (
    Paper(
        "atlas",
        "Knowledge Composition using Task Vectors with Learned Anisotropic Scaling",
        "NeurIPS 2024",
        "adaptation",
    ),
    Paper(
        "boss_nas",
        "BossNAS: Exploring Hybrid CNN-transformers with Block-wisely Self-supervised Neural Architecture Search",
        "ICCV 2021",
        "search",
    ),
    Paper(
        "concrete_merging",
        "Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion",
        "arXiv 2023",
        "adaptation",
    ),
    Paper(
        "conjugate_direction",
        "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems",
        "ICML 2023",
        "operators",
    ),
    Paper(
        "convergent_learning",
        "Convergent Learning: Do different neural networks learn the same representations?",
        "ICLR 2016",
        "interpretability",
    ),
    Paper(
        "deep_architect",
        "DeepArchitect: Automatically Designing and Training Deep Architectures",
        "arXiv 2017",
        "search",
    ),
    Paper(
        "deep_learning_theory",
        "The Principles of Deep Learning Theory",
        "Cambridge UP 2022",
        "theory",
        minutes=1.5,
        data="ensembles of random networks",
        seconds=15,
    ),
    Paper(
        "diffscaler",
        "Diffscaler: Enhancing the Generative Prowess of Diffusion Transformers",
        "arXiv 2024",
        "adaptation",
    ),
    Paper(
        "dynamic_subspace_learners",
        "Attention-based Dynamic Subspace Learners for Medical Image Analysis",
        "IEEE J-BHI 2022",
        "representation",
    ),
    Paper(
        "feature_selection",
        "Optimizing Feature Set for Click-Through Rate Prediction",
        "WWW 2023",
        "recommendation",
    ),
    Paper("flora", "FLoRA: Low-Rank Core Space for N-dimension", "arXiv 2024", "adaptation"),
    Paper(
        "geodesic_mixup",
        "Geodesic Multi-Modal Mixup for Robust Fine-Tuning",
        "NeurIPS 2023",
        "adaptation",
        minutes=2.0,
        data="halves of digits",
        seconds=4,
    ),
    Paper(
        "grassmann_class",
        "Get the Best of Both Worlds: Improving Accuracy and Transferability by Grassmann Class Representation",
        "ICCV 2023",
        "representation",
        minutes=2.0,
        data="digits",
        seconds=6,
    ),
    Paper(
        "hebbian_projection",
        "Hebbian Learning based Orthogonal Projection for Continual Learning of Spiking Neural Networks",
        "ICLR 2024",
        "architectures",
    ),
    Paper(
        "householder_projector",
        "Householder Projector for Unsupervised Latent Semantics Discovery",
        "ICCV 2023",
        "representation",
        minutes=2.0,
        data="discs",
        seconds=5,
    ),
    Paper("hydra", "Rethinking Positive Pairs in Contrastive Learning", "arXiv 2024", "representation"),
    Paper(
        "intrinsic_dimension",
        "Measuring the Intrinsic Dimension of Objective Landscapes",
        "ICLR 2018",
        "adaptation",
        minutes=1.5,
        data="digits",
        seconds=5,
    ),
    Paper("latent_quantization", "Disentanglement via Latent Quantization", "NeurIPS 2023", "representation"),
    Paper(
        "learned_proximal",
        "What's in a Prior? Learned Proximal Networks for Inverse Problems",
        "ICLR 2024",
        "inverse",
    ),
    Paper(
        "loki",
        "Geometry-Aware Adaptation for Pretrained Models",
        "NeurIPS 2023",
        "adaptation",
        minutes=1.5,
        data="digits",
        seconds=10,
    ),
    Paper(
        "manifold_linearizing",
        "Unsupervised Manifold Linearizing and Clustering",
        "ICCV 2023",
        "clustering",
        minutes=2.0,
        data="digits",
        seconds=5,
    ),
    Paper(
        "matryoshka",
        "Matryoshka Representation Learning",
        "NeurIPS 2022",
        "representation",
        minutes=1.0,
        data="pairs of digits",
    ),
    Paper(
        "molrg_diffusion",
        "Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering",
        "arXiv 2024",
        "clustering",
        minutes=2.0,
        data="digits, mixtures of subspaces",
        seconds=12,
    ),
    Paper(
        "multi_head_scan",
        "MHS-VM: Multi-Head Scanning in Parallel Subspaces for Vision Mamba",
        "arXiv 2024",
        "architectures",
    ),
    Paper(
        "multigrid_operator",
        "MgNO: Efficient Parameterization of Linear Operators via Multigrid",
        "ICLR 2024",
        "operators",
    ),
    Paper("multiview_zero_shot", "Transductive Multi-view Zero-Shot Learning", "IEEE TPAMI 2015", "clustering"),
    Paper(
        "platonic_alignment",
        "Escaping Plato's Cave: Towards the Alignment of 3D and Text Latent Spaces",
        "CVPR 2025",
        "interpretability",
    ),
    Paper("poincare_resnet", "Poincaré ResNet", "ICCV 2023", "architectures", minutes=1.5, data="digits", seconds=5),
    Paper("pointer_network", "Pointer Networks", "NIPS 2015", "architectures"),
    Paper(
        "relative",
        "Relative representations enable zero-shot latent space communication",
        "ICLR 2023",
        "representation",
        minutes=1.0,
        data="digits",
    ),
    Paper("selectable_kan", "Activation Space Selectable Kolmogorov-Arnold Networks", "arXiv 2024", "architectures"),
    Paper(
        "sensitivity_sampling",
        "Sharper Bounds for ℓp Sensitivity Sampling",
        "ICML 2023",
        "theory",
        minutes=2,
        data="random matrices, diabetes, breast cancer",
        seconds=8,
    ),
    Paper(
        "sharp_darts",
        "sharpDARTS: Faster and More Accurate Differentiable Architecture Search",
        "arXiv 2019",
        "search",
    ),
    Paper(
        "sie",
        "Self-supervised learning of Split Invariant Equivariant representations",
        "ICML 2023",
        "representation",
    ),
    Paper(
        "sparse_subspace_vi",
        "Training Bayesian Neural Networks with Sparse Subspace Variational Inference",
        "ICLR 2024",
        "bayesian",
    ),
    Paper(
        "stationary",
        "Stationary Representations: Optimally Approximating Compatibility and Implications for Improved Model "
        "Replacements",
        "CVPR 2024",
        "representation",
        minutes=1.0,
        data="digits",
    ),
    Paper(
        "subspace_rerouting",
        "Using Mechanistic Interpretability to Craft Adversarial Attacks against Large Language Models",
        "arXiv 2025",
        "interpretability",
    ),
    Paper("supervised_dictionary", "Supervised Dictionary Learning with Auxiliary Covariates", "arXiv 2022", "inverse"),
    Paper(
        "svfit",
        "SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values",
        "arXiv 2024",
        "adaptation",
    ),
    Paper(
        "transductive_few_shot",
        "Transductive Few-Shot Learning: Clustering is All You Need?",
        "arXiv 2021",
        "clustering",
        minutes=1.5,
        data="glyphs, digits",
        seconds=6,
    ),
    Paper(
        "ulsam",
        "ULSAM: Ultra-Lightweight Subspace Attention Module for Compact Convolutional Neural Networks",
        "WACV 2020",
        "architectures",
    ),
    Paper(
        "unified_embedding",
        "Unified Embedding: Battle-Tested Feature Representations for Web-Scale ML Systems",
        "NeurIPS 2023",
        "recommendation",
    ),
    Paper(
        "unsupervised_pretraining",
        "On the Provable Advantage of Unsupervised Pretraining",
        "ICLR 2024",
        "theory",
    ),
    Paper(
        "wasserstein_dependency",
        "Wasserstein Dependency Measure for Representation Learning",
        "NeurIPS 2019",
        "representation",
    ),
    Paper(
        "wide_cnn",
        "What Can Be Learnt With Wide Convolutional Neural Networks?",
        "ICML 2023",
        "theory",
        minutes=1.5,
        data="digits, points on products of spheres",
        seconds=8,
    ),
)


class UnknownPaperError(LookupError):
    """No paper has the slug; the message names the nearest."""


def find(slug: str) -> Paper:
    """Return the paper of a slug.

    Raises
    ------
    UnknownPaperError
        If there is none.
    """
    papers = {paper.slug: paper for paper in PAPERS}
    if slug in papers:
        return papers[slug]
    near = difflib.get_close_matches(slug.lower().replace("-", "_"), papers, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownPaperError(f"no paper {slug!r}: {hint}`holonomy list` shows all {len(PAPERS)}")
