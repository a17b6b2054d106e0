"""Representations: features that are learned for what comes after them."""
