"""Make the compiled kernels ready before anything is timed."""

from __future__ import annotations

import time


def warm_kernels() -> float:
    """Run a registration of a few voxels and what else has kernels of its own, and give the seconds it took.

    Numba compiles the kernels when they are first called on a machine, which takes tens of seconds, and keeps them in
    a cache, from which they load in a fraction of one.
    """
    import torch

    from raylign.data import Volume, XRay
    from raylign.geometry import View
    from raylign.projection import project
    from raylign.registration import Problem, SearchConfig, centred, registrar
    from raylign.similarity import similarity

    begun = time.perf_counter()
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, 24, dtype=torch.float64)] * 3, indexing="ij")
    data = ((x + 0.2) ** 2 + 2 * y**2 + z**2 < 0.4).to(torch.float32) * 700 - 650
    affine = torch.diag(torch.tensor([5.0, 5.0, 5.0, 1.0], dtype=torch.float64))
    volume = Volume(data, affine, "HU", truncated=((False, False),) * 3)
    view = View.from_carm(sid=1000, sod=700, pixel_spacing=3.0, shape=(64, 64))
    image = project(volume, view, centred(volume))[0, 0]
    xray = XRay(image, view, torch.ones(view.shape, dtype=torch.bool))
    search = SearchConfig(degrees=2.0, mm=2.0, hypotheses=4, refined=3)
    registrar("direct", search=search).register(Problem(volume, (xray,), centred(volume)))
    similarity("patch-ncc")(image[None], image, None)  # windows without gradients
    return time.perf_counter() - begun
