"""Householder projector: a generator's style projections with equally strong, few directions of the latent space."""
