"""Copies of a patient: what deforming costs, how rigid bones stay, how well meshes follow, and a picture.

``python benchmarks/copies.py [--ct PATH --labels FILE] [--spacing MM] [--copies N] [--picture FILE]``

Without ``--ct`` the patient is a made thorax (seed 3). Times are of the processor, one thread, the least of the copies.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

import raylign
from raylign.data import LabelMap, Mesh
from raylign.geometry import View
from raylign.simulation.anchors import BONES
from raylign.simulation.deformation import Deformation, DeformationConfig, anchors_for
from raylign.simulation.resolution import resampled
from raylign.simulation.seeds import generator
from raylign.simulation.subject import Subject
from raylign.simulation.subjects import label_surface, subject_from_ct
from raylign.simulation.variation import VariationConfig, vary

_GROUPS = ("vertebrae_", "rib_", "sternum", "scapula_", "clavicula_", "humerus_", "hip_", "femur_", "sacrum", "liver", "aorta")


def patient(options: argparse.Namespace) -> Subject:
    if options.ct is None:
        from raylign.simulation import thorax

        return thorax(seed=3)
    volume = raylign.read_volume(options.ct, unit=None if Path(options.ct).is_dir() else "HU")
    labels = None if options.labels is None else raylign.read_labels(options.labels)
    subject = subject_from_ct(volume, labels, id=Path(options.ct).name)
    return subject if options.spacing is None else resampled(subject, (options.spacing,) * 3)


def strain(map_: Deformation, labels: LabelMap, name: str) -> tuple[float, float] | None:
    """Mean change (%) of distances over 5 mm within a structure, and mean distance (mm) from the nearest rigid motion."""
    at = (labels.data == labels.number(name)).nonzero().flip(1).double()
    if len(at) < 50:
        return None
    at = at[torch.randperm(len(at), generator=generator(0))[:400]]
    p = at @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    q = map_.points(p)
    before, after = torch.pdist(p), torch.pdist(q)
    far = before > 5
    u, _, vt = torch.linalg.svd((p - p.mean(0)).T @ (q - q.mean(0)))
    turn = u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ vt).sign())], dtype=torch.float64)) @ vt
    rest = ((q - q.mean(0)) - (p - p.mean(0)) @ turn).norm(dim=1).mean()
    return 100 * float((after[far] / before[far] - 1).abs().mean()), float(rest)


def apart(mesh: Mesh, surface: Mesh) -> np.ndarray:
    """Distance in mm of a mesh's vertices from a finely divided surface, along the normal at its nearest vertex."""
    import trimesh

    dense = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
    vertices = mesh.vertices.numpy()
    _, nearest = cKDTree(dense.vertices).query(vertices)
    return np.abs(((vertices - dense.vertices[nearest]) * dense.vertex_normals[nearest]).sum(1))


def measured(subject: Subject, copies: int) -> None:
    config = DeformationConfig(rigid=BONES)
    anchors = anchors_for(subject.labels, config)
    maps = {
        held: [Deformation.random(subject.volume, config, generator(k), anchors if held else None) for k in range(copies)]
        for held in (False, True)
    }
    moved = [float(m.pull.square().sum(0).mean().sqrt()) for m in maps[True]]
    least = [min(m.smallest_jacobian for m in maps[held]) for held in (False, True)]
    points = subject.volume.centre + 60 * torch.randn(500, 3, generator=generator(1), dtype=torch.float64)
    undone = [float((m.inverse().points(m.points(points)) - points).norm(dim=1).max()) for m in maps[True]]
    print(f"{subject.id}: {tuple(subject.volume.data.shape)}, {copies} deformations, root mean square {np.mean(moved):.1f} mm")
    print(f"smallest Jacobian determinant: {least[0]:.2f} free, {least[1]:.2f} with rigid bones")
    print(f"exp(-v) after exp(v), farthest from the identity: {max(undone):.2f} mm")
    print("| structures | n | change of distances, % free / rigid | from a rigid motion, mm free / rigid |\n|---|---|---|---|")
    for group in _GROUPS:
        names = [n for n in subject.labels.present().values() if n.startswith(group)]
        found = {h: [s for m in ms for n in names if (s := strain(m, subject.labels, n))] for h, ms in maps.items()}
        if found[True]:
            free, rigid = (np.mean(found[h], 0) for h in (False, True))
            row = f"{free[0]:.1f} / {rigid[0]:.1f} | {free[1]:.2f} / {rigid[1]:.2f}"
            print(f"| {group.strip('_')} | {len(names)} | {row} |")
    for name in ("heart", "heart_ventricle_left", "vertebrae_T8", "hip_left"):
        if name in subject.labels.present().values():
            meshes = {True: label_surface(subject.labels, name)}
            meshes[False] = maps[True][0].mesh(meshes[True])
            label = {True: subject.labels, False: maps[True][0].labels(subject.labels)}
            far = [apart(meshes[o], label_surface(label[o], name)) for o in (True, False)]
            before, after = (f"mean {f.mean():.2f}, 95 % {np.quantile(f, 0.95):.2f} mm" for f in far)
            print(f"{name}: from the pushed surface to that of the pulled label: {after} (before: {before})")


def timed(subject: Subject, copies: int) -> None:
    config = VariationConfig()
    anchors = anchors_for(subject.labels, config.deformation) if config.deformation else None
    times = []
    for k in range(1, copies + 1):
        start = time.thread_time()
        vary(subject, config, 0, k, anchors)
        times.append(time.thread_time() - start)
    print(f"vary: {min(times):.1f} s of one processor for {subject.volume.data.numel() / 1e6:.1f} million voxels")


def picture(subject: Subject, path: str) -> None:
    """The original and three copies: projection, and a slice with the borders of its labels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    people = [subject, *(vary(subject, VariationConfig(), 0, k) for k in (1, 2, 3))]
    view = View.from_carm(sid=1200, sod=850, pixel_spacing=1.6, shape=(330, 330))
    figure, axes = plt.subplots(2, 4, figsize=(12, 6.2))
    for i, person in enumerate(people):
        volume, labels = person.volume, person.labels
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, 3] = -volume.centre
        image = raylign.project(volume, view, pose)[0, 0]
        axes[0, i].imshow(image, cmap="gray", vmin=0, vmax=0.9 * float(image.max()))
        axes[0, i].set_title(f"copy {i}" if i else "original")
        k = volume.data.shape[0] // 2
        x, y, _ = volume.spacing
        box = (0, volume.data.shape[2] * x, volume.data.shape[1] * y, 0)
        axes[1, i].imshow(volume.data[k], cmap="gray", vmin=-300, vmax=500, extent=box)
        named = labels.data[k]
        edge = torch.zeros(*named.shape, 4)
        border = torch.zeros_like(named, dtype=torch.bool)
        border[:-1] |= named[1:] != named[:-1]
        border[:, :-1] |= named[:, 1:] != named[:, :-1]
        edge[..., 0], edge[..., 1], edge[..., 3] = 1.0, 0.8, 0.35 * border
        axes[1, i].imshow(edge, extent=box, interpolation="nearest")
        for a in axes[:, i]:
            a.set_axis_off()
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ct")
    parser.add_argument("--labels")
    parser.add_argument("--spacing", type=float)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = patient(options)
    if options.picture:
        picture(subject, options.picture)
        return
    measured(replace(subject, meshes={}), options.copies)
    timed(replace(subject, meshes={}), options.copies)


if __name__ == "__main__":
    main()
