"""The projector measured beside other packages: one analytic phantom, one geometry, one run."""

from __future__ import annotations

from raylign.bench.phantom import Ellipsoid, body, line_integrals, voxelised

__all__ = ["Ellipsoid", "body", "line_integrals", "voxelised"]
