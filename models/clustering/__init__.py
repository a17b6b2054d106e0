"""Clustering: points grouped without labels, and representations that are learned together with the groups."""
