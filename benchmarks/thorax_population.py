"""Measures a thousand phantom chests against published human ranges, and looks for structures that cut into each other.

``python benchmarks/thorax_population.py [--subjects 1000] [--meshes 25] [--out build/thorax_population]``

Chests are measured as they are described, without voxels. Every subject: traits, shape, clearances between structures. Every
``--meshes``-th: all meshes, whether they are closed, face outward and do not run through themselves. Works in chunks of 50; a run
that was interrupted goes on where it stopped. One thread; prints the tables of docs/phantoms.md.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("RAYLIGN_THREADS", "1")

import numpy as np
import trimesh
from numpy.typing import NDArray

from raylign.data import Mesh
from raylign.simulation.phantoms import thorax_marks
from raylign.simulation.phantoms.surface_checks import self_intersections
from raylign.simulation.phantoms.thorax import chest_of
from raylign.simulation.phantoms.thorax_checks import clearances
from raylign.simulation.phantoms.thorax_draw import Chest
from raylign.simulation.phantoms.thorax_meshes import ThoraxMeshes

F64 = NDArray[np.float64]
CHUNK = 50
# trait: published interval for women and for men (mean -+ 2 standard deviations where those are given), and where from
PUBLISHED = {
    "lv_volume_ml": ((86.0, 178.0), (106.0, 214.0), "Kawel-Boehm 2015: 132 ± 23, 160 ± 27"),
    "lv_volume_index": ((56.0, 96.0), (57.0, 105.0), "Kawel-Boehm 2015: 76 ± 10, 81 ± 12 ml/m2"),
    "lv_mass_index": ((28.0, 56.0), (35.0, 71.0), "Petersen 2017: 42 ± 7, 53 ± 9 g/m2"),
    "lv_diameter_mm": ((39.0, 53.0), (42.0, 59.0), "Lang 2005: range"),
    "lv_long_axis_mm": ((70.0, 95.0), (76.0, 107.0), "1.41 and 1.40 outer diameters (Stoylen 2016), of Lang 2005's range"),
    "wall_thickness_mm": ((3.5, 7.1), (4.1, 8.5), "Kawel 2012: 5.3 ± 0.9, 6.3 ± 1.1"),
    "heart_width_mm": ((103.0, 155.0), (106.8, 154.8), "Brakohiapa 2017: 129 ± 13, 130.8 ± 12"),
    "cardiothoracic_ratio": ((0.382, 0.574), (0.388, 0.544), "Brakohiapa 2017: 0.478 ± 0.048, 0.466 ± 0.039"),
}
OTHERS = (
    "length_by_outer_diameter", "lv_frontal_tilt_deg", "ascending_aorta_mm", "descending_aorta_mm", "kyphosis_deg", "age_years",
    "height_mm", "bmi_kg_per_m2",
)  # fmt: skip


def subject(seed: int, whole: bool) -> dict[str, F64]:
    """All that is measured on one chest."""
    chest = chest_of(seed)
    traits = thorax_marks.traits(chest)
    traits["length_by_outer_diameter"] = traits["lv_long_axis_mm"] / (traits["lv_diameter_mm"] + 2 * traits["wall_thickness_mm"])
    traits["lv_volume_index"] = traits["lv_volume_ml"] / traits["bsa_m2"]
    traits["lv_mass_index"] = traits["lv_mass_g"] / traits["bsa_m2"]
    points = thorax_marks.points(chest)
    left = np.concatenate([chest.heart.left_points(16, 20, outside) for outside in (False, True)])
    return {
        "seed": np.array([float(seed)]),
        **{f"trait/{k}": np.array([v]) for k, v in traits.items()},
        **{f"gap/{k}": np.array([v]) for k, v in clearances(chest).items()},
        "marks": np.stack([points[k] for k in sorted(points) if not k.startswith(("rib_left_11", "rib_right_11"))]).ravel(),
        "left": left.ravel(),
        "left_unit": ((left - chest.heart.base) @ chest.heart.frame.T).ravel() * (90 / chest.heart.length),
        "left_own": ((left - chest.heart.base) @ chest.heart.frame.T).ravel(),
        **{f"mesh/{k}": np.array([float(v)]) for k, v in meshes(chest, whole).items()},
    }


def meshes(chest: Chest, whole: bool) -> dict[str, int]:
    """Meshes looked at, and how many are not closed, face inward, or run through themselves; none unless ``whole``."""
    found = ThoraxMeshes(chest, (0.0, 0.0, 0.0))
    names = list(found) if whole else []
    counts = {"looked_at": len(names), "open": 0, "inward": 0, "crossed": 0}
    for name in names:
        mesh = found[name]
        counts["crossed"] += self_intersections(mesh) > 0
        body = _trimesh(mesh)
        counts["open"] += not (body.is_watertight and body.is_winding_consistent)
        counts["inward"] += body.volume <= 0
    return counts


def _trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def components(rows: F64) -> tuple[int, F64]:
    """How many principal components hold 95 % of the variance, and the shares of the first five."""
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    shares = np.cumsum(values) / values.sum()
    return int(np.searchsorted(shares, 0.95)) + 1, values[:5] / values.sum()


def collect(args: argparse.Namespace) -> dict[str, F64]:
    """All chunks, made or read."""
    args.out.mkdir(parents=True, exist_ok=True)
    chunks = []
    for first in range(0, args.subjects, CHUNK):
        last = min(first + CHUNK, args.subjects)
        path = args.out / f"{first:05d}-{last:05d}-{args.meshes}.npz"
        if not path.exists():
            start = time.process_time()
            rows = [subject(seed, seed % args.meshes == 0) for seed in range(first, last)]
            part = path.with_suffix(".part.npz")
            np.savez(part, **{k: np.stack([r[k] for r in rows]) for k in rows[0]})
            part.rename(path)
            print(f"{last} subjects, {(time.process_time() - start) / (last - first):.2f} s of processor time each", flush=True)
        with np.load(path) as stored:
            chunks.append({k: stored[k] for k in stored.files})
    return {k: np.concatenate([c[k] for c in chunks]) for k in chunks[0]}


def report(found: dict[str, F64]) -> None:
    """The tables."""
    female = found["trait/female"][:, 0] > 0.5
    print(f"\n{len(female)} subjects, {int(female.sum())} women\n")
    print("| measure | sex | published | interval | measured, mean ± sd | range | within |\n|---|---|---|---|---|---|---|")
    for name, (*both, source) in PUBLISHED.items():
        for sex, which, (low, high) in zip(("women", "men"), (female, ~female), both, strict=True):
            v = found[f"trait/{name}"][which, 0]
            d = 3 if high < 1 else 1
            share = 100 * ((v >= low) & (v <= high)).mean()
            measured = f"{v.mean():.{d}f} ± {v.std():.{d}f} | {v.min():.{d}f} to {v.max():.{d}f}"
            print(f"| {name} | {sex} | {source} | {low:g} to {high:g} | {measured} | {share:.1f} % |")
    print("\n| measure | sex | mean ± sd | range |\n|---|---|---|---|")
    for name in OTHERS:
        for sex, which in (("women", female), ("men", ~female)):
            v = found[f"trait/{name}"][which, 0]
            print(f"| {name} | {sex} | {v.mean():.2f} ± {v.std():.2f} | {v.min():.2f} to {v.max():.2f} |")
    pairs = found["trait/rib_pairs"][:, 0]
    print("\nrib pairs: " + ", ".join(f"{int(n)}: {int((pairs == n).sum())}" for n in np.unique(pairs)))
    print("\n| gap, mm | smallest | 5th percentile | median | below 0 |\n|---|---|---|---|---|")
    for name in (k for k in found if k.startswith("gap/")):
        v = found[name][:, 0]
        print(f"| {name[4:]} | {v.min():.2f} | {np.percentile(v, 5):.2f} | {np.median(v):.2f} | {int((v < 0).sum())} |")
    looked, opened, inward, crossed = (int(found[f"mesh/{k}"].sum()) for k in ("looked_at", "open", "inward", "crossed"))
    print(f"\nmeshes: {looked} looked at, {opened} open, {inward} facing inward, {crossed} running through themselves\n")
    print("| shape | numbers | components for 95 % | shares of the first five, % |\n|---|---|---|---|")
    for name, label in SHAPES:
        count, shares = components(found[name])
        print(f"| {label} | {found[name].shape[1]} | {count} | {', '.join(f'{100 * s:.0f}' for s in shares)} |")


SHAPES = (
    ("marks", "landmarks"),
    ("left", "left ventricle, in the chest"),
    ("left_own", "left ventricle, in its own axes"),
    ("left_unit", "the same, lengths alike"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--meshes", type=int, default=25, help="look at all meshes of every so manieth subject")
    parser.add_argument("--out", type=Path, default=Path("build/thorax_population"))
    report(collect(parser.parse_args()))


if __name__ == "__main__":
    main()
