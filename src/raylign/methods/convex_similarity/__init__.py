"""Gao et al., "A fully differentiable framework for 2D/3D registration and the projective spatial transformers" (IEEE TMI 2024).

A network is taught a similarity of an X-ray and a projected volume whose gradient by the pose points to the right pose, from far
away too: its training compares that gradient with the one of the squared geodesic distance, and so differentiates twice, through
the projector. Registration descends the similarity, and is then refined.
"""
