"""Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering (Wang et al., arXiv 2409.02426).

On a mixture of low-rank Gaussians, to train a denoiser is to cluster subspaces: the mixture in closed form, a denoiser
with its form and bases to learn, the clustering that it amounts to, derivatives and edits of any denoiser.
"""

from holonomy.models.clustering.molrg_diffusion.denoiser import MoLRGDenoiser as MoLRGDenoiser
from holonomy.models.clustering.molrg_diffusion.denoiser import closed_form_loss as closed_form_loss
from holonomy.models.clustering.molrg_diffusion.denoiser import denoising_loss as denoising_loss
from holonomy.models.clustering.molrg_diffusion.denoiser import memorising_denoiser as memorising_denoiser
from holonomy.models.clustering.molrg_diffusion.denoiser import wiener_denoiser as wiener_denoiser
from holonomy.models.clustering.molrg_diffusion.generalization import generalization_score as generalization_score
from holonomy.models.clustering.molrg_diffusion.generalization import nearest_distances as nearest_distances
from holonomy.models.clustering.molrg_diffusion.jacobian import edit as edit
from holonomy.models.clustering.molrg_diffusion.jacobian import edit_directions as edit_directions
from holonomy.models.clustering.molrg_diffusion.jacobian import jacobian as jacobian
from holonomy.models.clustering.molrg_diffusion.jacobian import jacobian_rank as jacobian_rank
from holonomy.models.clustering.molrg_diffusion.mixture import MoLRG as MoLRG
from holonomy.models.clustering.molrg_diffusion.mixture import random_molrg as random_molrg
from holonomy.models.clustering.molrg_diffusion.sampling import ddim as ddim
from holonomy.models.clustering.molrg_diffusion.sampling import edm_sigmas as edm_sigmas
from holonomy.models.clustering.molrg_diffusion.sampling import heun as heun
from holonomy.models.clustering.molrg_diffusion.schedules import VESchedule as VESchedule
from holonomy.models.clustering.molrg_diffusion.schedules import VPSchedule as VPSchedule
from holonomy.models.clustering.molrg_diffusion.subspaces import KSubspaces as KSubspaces
from holonomy.models.clustering.molrg_diffusion.subspaces import principal_subspace as principal_subspace
from holonomy.models.clustering.molrg_diffusion.subspaces import subspace_recovery_error as subspace_recovery_error
