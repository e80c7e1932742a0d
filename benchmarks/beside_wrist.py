"""The real wrist's forearm, made again: bones of the CT where both cameras put them, soft tissue that fills the arm's outline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter1d, map_coordinates, median_filter

import raylign
from raylign.data import Volume
from raylign.geometry import Rigid, View
from raylign.io import ExposureOptions, read_xray
from raylign.simulation import expose
from raylign.simulation.physics.apparatus import Detector, Dose, ExposureConfig, Tube
from raylign.simulation.physics.scatter import ScatterConfig

SDD = 1300.0  # mm from focus to screen: not known; it changes what blur and pixels are in mm, and hardly the picture
VOXEL = 0.4  # mm
MUSCLE, FAT, SKIN = 50.0, -80.0, 5.0  # HU, HU, mm over which one becomes the other under the outline: made up
BONE_SCALE = 0.62  # cortical bone reads 2500 in these numbers, 1558 HU in ICRU's material at 70 keV
# T_world_from_volume of frame 99, registered by raylign from both cameras: the radius from the start that comes with the data
# (docs/wrist.md), the ulna from a start by hand
RADIUS = [[-0.99582, 0.08956, 0.01807, 119.85], [0.01362, -0.05001, 0.99867, 118.40], [0.09034, 0.99472, 0.04858, 70.10]]
ULNA = [[-0.71409, -0.68658, -0.13669, 132.09], [-0.15486, -0.03550, 0.98730, 128.36], [-0.68272, 0.72618, -0.08097, 118.22]]
PHOTONS = (140.0, 75.0)  # behind the arm, of each camera: chosen so that the noise is about the picture's
WINDOWS = ((slice(1140, 1600), slice(600, 1020)), (slice(1140, 1600), slice(500, 920)))


@dataclass(frozen=True, eq=False)
class Camera:
    """A frame as stored (8 bit, air bright) and its view, the screen at ``SDD``."""

    shown: NDArray[np.float64]
    view: View


def cameras(folder: Path, frame: str = "0099") -> list[Camera]:
    """Both cameras."""
    out = []
    for n in (1, 2):
        file = folder / f"cam0{n}" / f"xr_rad_uln_cam0{n}_UND.{frame}.tif"
        far = read_xray(file, ExposureOptions(view=folder / f"xr_calib_wrist_cam0{n}.txt")).view
        scale = SDD / float(far.sid)
        near = View(
            far.source, far.source + (far.origin - far.source) * scale, far.column_step * scale, far.row_step * scale, far.shape
        )
        out.append(Camera(np.asarray(Image.open(file)).astype(float), near))
    return out


def _pose(rows: list[list[float]]) -> NDArray[np.float64]:
    """4x4, made a rotation again after rounding."""
    m = np.vstack([np.array(rows), [0, 0, 0, 1]])
    u, _, v = np.linalg.svd(m[:3, :3])
    m[:3, :3] = u @ v
    return m


def _bone(file: Path, more: int = 110) -> tuple[NDArray, NDArray]:
    """HU of a bone, its last slice going on, and where it is; outside it is muscle."""
    raw = raylign.read_volume(file).data.numpy().astype(float)
    raw = np.concatenate([raw, np.repeat(raw[-1:], more, 0)])
    hu = raw - 1024
    hu = np.where(hu > 100, 100 + (hu - 100) * BONE_SCALE, hu)
    inside = raw > 0
    return np.where(inside, hu, MUSCLE), inside.astype(float)


def _outline(camera: Camera, row: int, column: int) -> tuple[float, float]:
    """Columns at which the arm begins and ends in a row: where the screen is white again on both sides of ``column``."""
    profile = median_filter(camera.shown[row - 2 : row + 3].mean(0), 9)
    left = column - int(np.argmax(profile[:column][::-1] > 250))
    right = column + int(np.argmax(profile[column:] > 250))
    return float(left), float(right)


def _ellipses(cams: list[Camera], middle: NDArray) -> tuple[NDArray, NDArray]:
    """For each middle: the centre (x, z) and the matrix S of the ellipse (p - c)' S^-1 (p - c) = 1 that fills both outlines."""
    centres, halves, axes = [], [], []
    for m in middle:
        offsets, widths, directions = [], [], []
        for camera in cams:
            column, row = camera.view.project(torch.tensor(m)[None])[0].tolist()
            edges = _outline(camera, round(row), round(column))
            depth = float((torch.tensor(m) - camera.view.source) @ camera.view.normal)
            mm = abs(depth) / float(camera.view.sid) * camera.view.pixel_spacing[1]
            along = (camera.view.column_step / camera.view.column_step.norm()).numpy()[[0, 2]]
            offsets.append((sum(edges) / 2 - column) * mm)
            widths.append((edges[1] - edges[0]) / 2 * mm)
            directions.append(along / np.linalg.norm(along))
        e = np.array(directions)
        centres.append(m[[0, 2]] + np.linalg.solve(e, offsets))
        halves.append(widths)
        axes.append(e)
    # beads on the skin widen single rows
    halves, centres = (
        gaussian_filter1d(median_filter(np.array(a), (61, 1), mode="nearest"), 15, axis=0) for a in (halves, centres)
    )
    shapes = []
    for (a, b), e in zip(halves, axes, strict=True):
        dual = np.linalg.inv(e)
        inner = np.array([[a * a, a * b * (e[0] @ e[1])], [a * b * (e[0] @ e[1]), b * b]])
        shapes.append(dual @ inner @ dual.T)
    return centres, np.array(shapes)


def _middle(points: list[NDArray], level: float) -> NDArray[np.float64]:
    """Between the bones at a level of y; where there is none, between their nearest points."""
    near = [p[np.abs(p[:, 1] - level) < 4] for p in points]
    if not any(len(p) for p in near):
        near = [p[np.abs(p[:, 1] - level).argsort()[:100]] for p in points]
    return np.mean([p.mean(0) for p in near if len(p)], 0)


def forearm(folder: Path, cams: list[Camera]) -> Volume:
    """HU in the frame of the calibration (the world), so that its pose is the identity."""
    bones = [(*_bone(folder / "models" / f"{name}.nrrd"), _pose(p)) for name, p in (("radius", RADIUS), ("ulna", ULNA))]
    spacing = np.array([0.39625, 0.39625, 0.625])
    low, high = np.array([70.0, 122.0, 95.0]), np.array([150.0, 205.0, 180.0])
    points = []
    for _, inside, pose in bones:
        k, j, i = np.nonzero(inside[::4, ::4, ::4])
        points.append((np.stack([i, j, k], 1) * 4 * spacing) @ pose[:3, :3].T + pose[:3, 3])
    everything = np.concatenate(points)
    low[[0, 2]], high[[0, 2]] = everything.min(0)[[0, 2]] - 25, everything.max(0)[[0, 2]] + 25
    low[1], high[1] = points[0].min(0)[1] - 12, points[0].min(0)[1] + 84
    size = np.ceil((high - low) / VOXEL).astype(int)
    x, y, z = (low[a] + VOXEL * np.arange(size[a]) for a in range(3))
    middle = np.array([_middle(points, level) for level in y])
    middle[:, 1] = y
    centres, shapes = _ellipses(cams, middle)
    hu = np.full((size[2], size[1], size[0]), -1000.0, np.float32)
    for n in range(size[1]):
        q = np.stack(np.meshgrid(x, z), -1) - centres[n]
        inside = np.einsum("zxa,ab,zxb->zx", q, np.linalg.inv(shapes[n]), q) < 1
        deep = np.clip(distance_transform_edt(inside) * VOXEL / SKIN, 0, 1)
        hu[:, n] = np.where(inside, FAT + deep * (MUSCLE - FAT), -1000)
    world = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1)
    for values, inside, pose in bones:
        local = ((world - pose[:3, 3]) @ pose[:3, :3]) / spacing
        at = [local[..., a] for a in (2, 1, 0)]
        there = map_coordinates(inside, at, order=1, output=np.float32)
        hu = np.where(there > 0.3, map_coordinates(values, at, order=1, cval=MUSCLE, output=np.float32), hu)
    affine = torch.diag(torch.tensor([VOXEL, VOXEL, VOXEL, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor(low)
    return Volume(torch.from_numpy(hu), affine, unit="HU")


def settings(photons: float, blur: float = 0.2, glare: float = 0.2) -> ExposureConfig:
    """An image intensifier and a camera: what is not known is chosen, see ``docs/simulation.md``."""
    screen = Detector(csi_mm=0.4, blur_mm=blur, glare=glare, glare_mm=25.0, electronic=0.02 * photons, bits=16, full_scale=4.0)
    return ExposureConfig(
        tube=Tube(kv=70.0, aluminium_mm=3.0), dose=Dose(photons=photons), detector=screen, scatter=ScatterConfig(), rays=2
    )


def simulated(volume: Volume, camera: Camera, window: tuple[slice, slice], config: ExposureConfig) -> NDArray[np.float64]:
    """Intensity over the open beam in a window of the frame."""
    view = camera.view.crop(*window)
    made = expose(volume, view, Rigid(torch.eye(4, dtype=torch.float64)), config, torch.Generator().manual_seed(1))
    return made.counts.numpy().astype(float) / made.xray.meta["open_beam_counts"]
