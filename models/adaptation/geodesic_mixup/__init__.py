"""Geodesic multi-modal mixup (Oh, So, Byun, Lim, Shin, Jeon, Song, NeurIPS 2023, arXiv:2203.03897).

Fine-tuning of two towers whose embeddings lie apart on the sphere, with points of the geodesics between image and text
as hard negatives (`m2_mix_loss`) and between samples of one modality as soft positives (`v_mix_loss`, `l_mix_loss`,
`vl_mix_loss`), all together in `GeodesicMultiModalMixup`. In `holonomy.models.representation` are the plain and the
reweighted contrastive loss (`contrastive`), measures of the two clouds (`alignment`), recall and arithmetic
(`retrieval`) and the error of calibration (`calibration`).

Where this departs from the authors' code: arcs are the sphere's geodesics by the chord, which need no clamp and no
fallback for close points; the middle row of an odd batch is not counted twice.
"""

from holonomy.models.adaptation.geodesic_mixup.losses import GeodesicMultiModalMixup as GeodesicMultiModalMixup
from holonomy.models.adaptation.geodesic_mixup.losses import l_mix_loss as l_mix_loss
from holonomy.models.adaptation.geodesic_mixup.losses import m2_mix_halves as m2_mix_halves
from holonomy.models.adaptation.geodesic_mixup.losses import m2_mix_loss as m2_mix_loss
from holonomy.models.adaptation.geodesic_mixup.losses import v_mix_loss as v_mix_loss
from holonomy.models.adaptation.geodesic_mixup.losses import vl_mix_loss as vl_mix_loss
from holonomy.models.adaptation.geodesic_mixup.mixing import geodesic_mix as geodesic_mix
from holonomy.models.adaptation.geodesic_mixup.mixing import linear_mix as linear_mix
from holonomy.models.representation.alignment import alignment as alignment
from holonomy.models.representation.alignment import modality_gap as modality_gap
from holonomy.models.representation.alignment import relative_alignment as relative_alignment
from holonomy.models.representation.alignment import uniformity as uniformity
from holonomy.models.representation.contrastive import clip_contrastive_loss as clip_contrastive_loss
from holonomy.models.representation.contrastive import hard_negative_loss as hard_negative_loss
