"""What instruments cost, and what they look like.

    python benchmarks/instruments.py [--shape 128] [--pitch 2.4] [--repeat 30] [--json FILE]
    python benchmarks/instruments.py --picture docs/images/instruments.png --chest docs/images/instruments_chest.png

The table gives processor time for one image of one instrument, drawn anew every time: to draw it, and to compute mm of every
material on every ray; then the same for the sets, with placing. The least and the median of the repetitions. The pictures are
simulated exposures: of every instrument on 15 cm of water, and of some in the parametric chest.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.data import Volume
from raylign.geometry import Rigid, View
from raylign.simulation.instruments import (
    INSTRUMENT_SETS,
    INSTRUMENTS,
    BoneScrew,
    Catheter,
    DefibrillatorLead,
    Design,
    Drill,
    EcgElectrode,
    EchoProbe,
    ElectrodeCatheter,
    GuideWire,
    IceCatheter,
    Instrument,
    KWire,
    Needle,
    PacingLead,
    PedicleScrew,
    Placed,
    Site,
    StentGraft,
    along,
    at_target,
    draw_instrument,
    instrument_paths,
    lines,
    on_skin,
)
from raylign.simulation.phantoms import ThoraxConfig, thorax
from raylign.simulation.physics.apparatus import Dose, ExposureConfig
from raylign.simulation.physics.display import Display, displayed
from raylign.simulation.physics.exposure import expose
from raylign.simulation.seeds import generator
from raylign.simulation.subject import Subject

SHEET: list[tuple[str, Design, float]] = [
    ("guide wire, J 3 mm, steel", GuideWire(), 80),
    ("guide wire, angled, nitinol", GuideWire(tip="angled", core="nitinol"), 80),
    ("Judkins left 4, 6F", Catheter(family="judkins_left"), 120),
    ("Judkins right 4, 6F", Catheter(family="judkins_right"), 120),
    ("Amplatz left", Catheter(family="amplatz_left"), 120),
    ("pigtail on its wire", Catheter(family="pigtail", wired=True), 80),
    ("multipurpose, 5F", Catheter(family="multipurpose", french=5), 80),
    ("cobra, 5F", Catheter(family="cobra", french=5), 120),
    ("Simmons, 5F", Catheter(family="simmons", french=5), 140),
    ("electrode catheter, 10 poles", ElectrodeCatheter(poles=10), 100),
    ("ablation catheter, 8F, 4 mm tip", ElectrodeCatheter(french=8, tip_mm=4.0, bend_degrees=130.0), 100),
    ("intracardiac echo, 10F", IceCatheter(french=10), 100),
    ("pacing lead", PacingLead(bend_degrees=60.0), 80),
    ("defibrillator lead", DefibrillatorLead(), 130),
    ("transoesophageal probe", EchoProbe(), 150),
    ("ECG electrode", EcgElectrode(), 110),
    ("needle, 18 G", Needle(gauge=18), 130),
    ("stent graft", StentGraft(), 190),
    ("cancellous screw HB 6.5", BoneScrew(length_mm=60.0), 75),
    ("cortical screw HA 4.5", BoneScrew(kind="HA4.5", length_mm=40.0, material="steel"), 55),
    ("pedicle screw", PedicleScrew(tilt_degrees=12.0), 75),
    ("pedicle screw and rod", PedicleScrew(rod=True), 75),
    ("Kirschner wire, 2 mm", KWire(diameter_mm=2.0), 60),
    ("drill, 3.2 mm", Drill(), 160),
]
"""Title, design, width of the picture in mm at the instrument."""


def cost(repeat: int, shape: int, pitch: float) -> list[dict[str, Any]]:
    """Milliseconds of processor time, least and median."""
    view = View.from_carm(primary=10, sid=1200, sod=800, pixel_spacing=pitch, shape=(shape, shape))
    site = Site(torch.zeros(3), vessels=(torch.from_numpy(lines.wandering(400, 20, generator(0)) - np.array([0, 0, 250.0])),))
    rows = []
    for name in (*INSTRUMENTS, *INSTRUMENT_SETS):
        drawing, imaging, held = [], [], []
        for i in range(repeat + 2):
            g, begin = generator(1, i), time.thread_time()
            if name in INSTRUMENTS:
                some: tuple[Placed, ...] = (at_target(draw_instrument(name, g), site, g),)
            else:
                some = INSTRUMENT_SETS[name].draw(view, site, g)
            middle = time.thread_time()
            instrument_paths([some], view)
            drawing.append(middle - begin)
            imaging.append(time.thread_time() - middle)
            held.append(len(some))
        row: dict[str, Any] = {"what": name, "instruments": round(float(np.mean(held)), 2)}
        for kind, times in (("draw", drawing[2:]), ("image", imaging[2:])):
            row[f"{kind}_ms_least"] = round(1e3 * min(times), 2)
            row[f"{kind}_ms_median"] = round(1e3 * float(np.median(times)), 2)
        rows.append(row)
    return rows


# -- pictures ----------------------------------------------------------------------------------------------------------


def upright(instrument: Instrument, wide: float) -> Placed:
    """The instrument with its shaft leaving the picture below, its shape in the plane of a frontal view, in the middle."""
    line = instrument.line.numpy()
    end = min(instrument.shaped, lines.lengths(line)[-1] - 1)
    a, b = lines.at(line, np.array([end - 0.5, end + 0.5]))
    angle = math.atan2(b[0] - a[0], b[2] - a[2])
    turn = np.array([[math.cos(angle), 0, -math.sin(angle)], [0, 1, 0], [math.sin(angle), 0, math.cos(angle)]])
    down = np.diag([1.0, -1.0, -1.0]) @ turn
    tip = lines.cut(line, 0.0, min(end, 0.7 * wide)) @ down.T
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(down)
    pose[:3, 3] = -torch.from_numpy((tip.max(0) + tip.min(0)) / 2)
    return instrument.placed(pose)


def grey(image: torch.Tensor, valid: torch.Tensor, view: View, display: Display) -> np.ndarray:
    pitch = torch.tensor([view.pixel_spacing])
    return displayed(image[None], valid[None], pitch, display)[0].numpy()


def sheet(file: Path) -> None:
    """Every instrument on 15 cm of water."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 6
    figure, axes = plt.subplots(-(-len(SHEET) // columns), columns, figsize=(12, 8.9))
    affine = torch.diag(torch.tensor([400.0, 75.0, 400.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-400.0, -75.0, -400.0])
    water = Volume(torch.zeros(3, 3, 3), affine, unit="HU")
    still = Rigid(torch.eye(4))
    for ax, (title, design, wide) in zip(axes.flat, SHEET, strict=True):
        view = View.from_carm(sid=1200, sod=800, pixel_spacing=1.5 * wide / 300, shape=(300, 300))
        paths = instrument_paths([[upright(design.instrument(), wide)]], view)
        config = ExposureConfig(dose=Dose(photons=6000.0), rays=1)
        made = expose(water, view, still, config, generator(1), extra={name: mm[0] for name, mm in paths.items()})
        picture = np.exp(-(made.xray.image - made.xray.image.median()).numpy())
        ax.imshow(np.clip(picture, 0, 1.25) ** 0.7, cmap="gray", vmin=0.0, vmax=1.25**0.7)
        ax.set_title(title, fontsize=8)
    for ax in axes.flat:
        ax.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(file, dpi=100)


def smooth(points: list[torch.Tensor]) -> torch.Tensor:
    """A curve through points, as a spline."""
    from scipy.interpolate import make_interp_spline

    p = torch.stack(points).numpy()
    s = lines.lengths(p)
    return torch.from_numpy(make_interp_spline(s, p, k=min(3, len(p) - 1))(np.linspace(0, s[-1], 120)))


class Chest:
    """The phantom and the ways through it, patient mm."""

    def __init__(self, seed: int) -> None:
        self.subject: Subject = thorax(ThoraxConfig(voxel_mm=2.0), seed)
        self.at = dict(zip(self.subject.landmarks.names, self.subject.landmarks.points, strict=True))
        ids = {name: i for i, name in self.subject.labels.names.items()}
        data, affine = self.subject.labels.data, self.subject.labels.affine
        self.middle = {}
        for name in ("superior_vena_cava", "inferior_vena_cava"):
            voxels = (data == ids[name]).nonzero().double().flip(1)
            places = voxels @ affine[:3, :3].T + affine[:3, 3]
            low, high = places[:, 2].quantile(0.1), places[:, 2].quantile(0.9)
            self.middle[name] = [places[(places[:, 2] - z).abs() < 4].mean(0) for z in (low, high)]
        voxels = (data == ids["aorta"]).nonzero().double().flip(1)
        places = voxels @ affine[:3, :3].T + affine[:3, 3]
        behind = places[places[:, 1] > self.at["aorta/valve"][1] + 25]
        top = self.at["aorta/arch"]
        heights = torch.linspace(float(behind[:, 2].min()) + 10, float(top[2]) - 30, 8)
        down = [behind[(behind[:, 2] - z).abs() < 6].mean(0) for z in heights]
        front = places[places[:, 1] < top[1]]
        rise = [front[(front[:, 2] - z).abs() < 4].mean(0) for z in (float(top[2]) - 25, float(self.at["aorta/valve"][2]) + 25)]
        self.aorta = smooth([*down, top, *rise, self.at["aorta/valve"]])
        right, ventricle = self.at["heart_atrium_right/middle"], self.at["heart_ventricle_right/middle"]
        apex = ventricle + 0.55 * (self.at["heart_ventricle_left/apex"] - ventricle)
        low, high = self.middle["superior_vena_cava"]
        outside = high + torch.tensor([75.0, 0.0, 40.0], dtype=torch.float64)
        self.to_ventricle = smooth([outside, high, low, right, (right + ventricle) / 2 - torch.tensor([0, 0, 8.0]), apex])
        self.to_atrium = smooth([outside, high, low, right])
        low, high = self.middle["inferior_vena_cava"]
        self.from_below = smooth([low - torch.tensor([0, 0, 80.0]), low, high, right])


def scenes(chest: Chest) -> list[tuple[str, tuple[float, float], float, list[Placed]]]:
    """Title, C-arm angles, width in mm at the isocentre, instruments in patient mm."""
    g, at = generator(4), chest.at
    heart = Site(at["heart_ventricle_left/middle"], spread=0.0)
    oesophagus = at["heart_atrium_left/middle"] + torch.tensor([0.0, 34.0, 10.0], dtype=torch.float64)
    coronary = [
        along(Catheter(family="judkins_left").instrument(), chest.aorta, g, (0.93, 0.93), 1.0),
        along(GuideWire().instrument(), chest.aorta, g, (0.8, 0.8), 1.0),
        on_skin(EcgElectrode().instrument(), heart, generator(1), (115.0, 120.0)),
    ]
    mapping = [
        along(ElectrodeCatheter(poles=10, bend_degrees=50.0).instrument(), chest.from_below, g, (1.0, 1.0), 1.0),
        along(
            ElectrodeCatheter(french=8, tip_mm=4.0, bend_degrees=70.0).instrument(),
            chest.from_below,
            generator(3),
            (0.8, 0.8),
            1.0,
        ),
        along(IceCatheter().instrument(), chest.from_below, g, (0.6, 0.6), 1.0),
        at_target(EchoProbe(bend_degrees=8.0).instrument(), Site(oesophagus, spread=0.0), generator(2), heart.axis, 3.0),
    ]
    leads = [
        along(replace(DefibrillatorLead(), second=True).instrument(), chest.to_ventricle, g, (1.0, 1.0), 0.0),
        along(PacingLead(bend_degrees=0.0).instrument(), chest.to_atrium, g, (1.0, 1.0), 1.0),
    ]
    back = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    screws = []
    for level in ("vertebrae_T9/body", "vertebrae_T10/body"):
        for side in (-1.0, 1.0):
            tip = at[level] + torch.tensor([6.0 * side, -8.0, 4.0], dtype=torch.float64)
            way = back + torch.tensor([0.25 * side, 0.0, 0.05], dtype=torch.float64)
            screws.append(at_target(PedicleScrew(length_mm=42.0).instrument(), Site(tip, spread=0.0), g, way, 1.0))
    tip = at["vertebrae_T11/body"] + torch.tensor([-6.0, -4.0, 4.0], dtype=torch.float64)
    way = back + torch.tensor([-0.25, 0.0, 0.0], dtype=torch.float64)
    screws.append(at_target(KWire(diameter_mm=1.6).instrument(), Site(tip, spread=0.0), g, way, 1.0))
    return [
        ("Judkins catheter, guide wire, ECG electrode", (-25.0, 0.0), 260, coronary),
        ("electrode, ablation and echo catheters, oesophageal probe", (20.0, 0.0), 260, mapping),
        ("defibrillator and pacing lead", (0.0, 0.0), 260, leads),
        ("pedicle screws, Kirschner wire", (60.0, 0.0), 190, screws),
    ]


def chest_pictures(file: Path, seed: int = 3) -> None:
    """Some instruments in the parametric chest."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chest = Chest(seed)
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 10))
    for ax, (title, (primary, secondary), wide, some) in zip(axes.flat, scenes(chest), strict=True):
        view = View.from_carm(
            primary=primary, secondary=secondary, sid=1100, sod=750, pixel_spacing=wide / 512 * 1.47, shape=(512, 512)
        )
        centre = chest.at["vertebrae_T10/body"] if "screws" in title else chest.at["heart_ventricle_left/middle"]
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, 3] = -centre + (torch.tensor([0.0, 0.0, 0.0]) if "screws" in title else torch.tensor([15.0, 0.0, -20.0]))
        paths = instrument_paths([some], view, pose)
        metal = {name: mm[0] for name, mm in paths.items()}
        made = expose(chest.subject, view, Rigid(pose), ExposureConfig(rays=1), generator(6), extra=metal)
        display = Display(compression=0.75, window=(2.0, 99.7)) if "screws" in title else Display()
        ax.imshow(grey(made.xray.image, made.xray.mask, view, display), cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(file, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, default=128, help="pixels along each side")
    parser.add_argument("--pitch", type=float, default=2.4, help="mm of the detector's pixels")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="write the sheet of instruments, and no table")
    parser.add_argument("--chest", type=Path, help="write instruments in the chest, and no table")
    given = parser.parse_args()
    if given.picture:
        sheet(given.picture)
    if given.chest:
        chest_pictures(given.chest)
    if given.picture or given.chest:
        return
    rows = cost(given.repeat, given.shape, given.pitch)
    print(f"ms of processor time, {given.shape} x {given.shape} pixels of {given.pitch} mm: least / median of {given.repeat}")
    for row in rows:
        times = "  ".join(f"{kind} {row[f'{kind}_ms_least']:6.2f} /{row[f'{kind}_ms_median']:6.2f}" for kind in ("draw", "image"))
        print(f"{row['what']:22s} {row['instruments']:5.2f} a picture  {times}")
    if given.json:
        given.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
