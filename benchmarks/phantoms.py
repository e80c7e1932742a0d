"""Seconds a parametric patient takes, at about 128^3 voxels, without surfaces and with all of them; kernels compiled.

``python benchmarks/phantoms.py [--seeds 1,2,3]``
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from raylign.projection.threads import threads
from raylign.simulation import (
    AortaConfig,
    FemurConfig,
    LumbarConfig,
    PelvisConfig,
    Subject,
    ThoraxConfig,
    aorta,
    lumbar,
    pelvis,
    proximal_femur,
    thorax,
)

_VOXELS = 128**3
MAKERS: dict[str, tuple[Callable[[Any, int], Subject], Callable[[bool], Any]]] = {
    "thorax": (thorax, lambda meshes: ThoraxConfig(voxel_mm=2.55, meshes=meshes)),
    "pelvis": (pelvis, lambda meshes: PelvisConfig(voxel_mm=2.9, meshes=meshes)),
    "lumbar": (lumbar, lambda meshes: LumbarConfig(voxel_mm=2.9, meshes=meshes)),
    "aorta": (aorta, lambda meshes: AortaConfig(voxel_mm=2.85, meshes=meshes)),
    "femur": (proximal_femur, lambda meshes: FemurConfig(voxel_mm=(1.0, 1.0, 1.5), shape=(128, 128, 128), meshes=meshes)),
}


def clocked(name: str, seed: int, meshes: bool) -> tuple[float, int, int]:
    """Wall seconds, voxels, and surfaces made."""
    make, config = MAKERS[name]
    begun = time.perf_counter()
    subject = make(config(meshes), seed)
    made = [subject.meshes[n] for n in subject.meshes]  # some are made when they are asked for
    return time.perf_counter() - begun, subject.volume.data.numel(), len(made)


def main() -> None:
    """Make, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3", help="of the patients, separated by commas")
    seeds = [int(s) for s in parser.parse_args().seeds.split(",")]
    print(f"{'':8}{'voxels / 128^3':>16}{'seconds':>10}{'surfaces':>10}{'seconds with':>14}", end="")
    print(f"   median of {len(seeds)}, {threads()} threads")
    for name in MAKERS:
        clocked(name, 0, True)  # compiles
        bare = sorted(clocked(name, seed, False) for seed in seeds)[len(seeds) // 2]
        full = sorted(clocked(name, seed, True) for seed in seeds)[len(seeds) // 2]
        print(f"{name:8}{bare[1] / _VOXELS:16.2f}{bare[0]:10.2f}{full[2]:10d}{full[0]:14.2f}")


if __name__ == "__main__":
    main()
