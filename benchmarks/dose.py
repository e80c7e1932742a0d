"""Error of a registration against the Cramér-Rao bound of the exposure, as a function of dose.

``python benchmarks/dose.py --data FOLDER [--models pelvis,chest,thorax] [--photons 100,1500,20000] [--poses 2] [--seeds 4]
[--polish] [--windows] [--sources] [--plot FOLDER] [--json]``

Each model is exposed by ``raylign.simulation`` at known poses, photons as stated at the median pixel behind the patient, several
times with noise of its own. The millimetres of tissue on the rays are summed once a pose by the simulator's own integrator;
scatter, hardening, spread of light and noise are made anew each time. Each exposure is registered from about 3 mm and 1 degree
away by the direct method from that start alone (what is measured is where it ends, not whether it finds there), with
``--polish`` by the last step behind it, and with ``--windows`` by the first half of that, without the step of counted photons.
The bound is of the same exposure: J times the slope of hardening and the part of the signal that is primary, counts with
scatter, read-out noise; offset and gain known.

Printed for each dose, along the axes of the view through the model's centre: the bound, the bias (root mean square over poses
of the mean over seeds, less what the noise of that mean is expected to leave), the standard deviation over seeds at one pose,
the root mean square error, and its ratio to the bound. Times are seconds of processor time.

``--sources`` makes exposures without noise instead, and adds one part of the physics after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import scan
from numpy.typing import NDArray

from raylign.cli.warm import warm_kernels
from raylign.data import Volume, XRay
from raylign.evaluation.efficiency import Bound, Light, information, pose_jacobian
from raylign.evaluation.metrics import view_axes
from raylign.evaluation.uncertainty import twist_about_centre
from raylign.geometry import Rigid, View, se3
from raylign.io import read_volume
from raylign.registration import Direct, DirectConfig, Problem, SearchConfig, centred
from raylign.registration.polish import PolishConfig, polish
from raylign.registration.versions import versions
from raylign.simulation import Detector, Dose, ExposureConfig, expose, generator, thorax
from raylign.simulation.phantoms import ThoraxConfig
from raylign.simulation.physics.materials import mass_centre
from raylign.simulation.physics.paths import path_lengths
from raylign.simulation.physics.scatter import ScatterConfig
from raylign.simulation.physics.spectrum import few

_Array = NDArray[np.float64]
_SCANS = {"chest": "lidc0001", "pelvis": "totalseg_pelvis", "slab": "vhf_pelvis"}
_NAMES = ("horizontal", "vertical", "depth")
_DRAWN = {
    "direct": ("tab:blue", "direct"),
    "windows": ("tab:red", "and last step's windows"),
    "polish": ("tab:green", "and last step"),
}
_AIR = 0.3  # line integrals below which a pixel shows no patient


@dataclass(frozen=True, eq=False)
class Scene:
    """One pose of one model, its tissues already summed along the rays."""

    volume: Volume
    view: View
    pose: Rigid
    tissues: dict[str, torch.Tensor]
    jacobian: torch.Tensor
    integrals: torch.Tensor
    centre: torch.Tensor
    number: int  # noise and starts of no two poses are the same


def model(name: str, data: Path) -> Volume:
    """A scan of the data folder, or the phantom; nothing beyond its ends, as the exposures show it."""
    if name == "thorax":
        volume = thorax(ThoraxConfig(voxel_mm=2.0), seed=3).volume
    else:
        volume = read_volume(scan(data, _SCANS[name]))
    return replace(volume, truncated=((False, False),) * 3)


def scene(volume: Volume, seed: int, pixels: int) -> Scene:
    """A pose drawn as the shared cases are: 12 degrees and 25 mm about the centre, and a C-arm about it."""
    draw = generator(seed, 77)
    x = torch.rand(8, generator=draw, dtype=torch.float64) * 2 - 1
    matrix = centred(volume).matrix
    pose = Rigid(se3.exp(torch.cat([torch.deg2rad(12 * x[:3]), 25 * x[3:6]])) @ matrix)
    view = View.from_carm(
        primary=25 * x[6], secondary=10 * x[7], sid=1050, sod=740, pixel_spacing=307.2 / pixels, shape=(pixels, pixels)
    )
    tissues = path_lengths(volume, view, pose, generator(seed, 78))
    pitch = min(volume.spacing)
    integrals, jacobian, centre = pose_jacobian(volume, view, pose, step=max(0.5, 1.0 / pitch))
    return Scene(volume, view, pose, tissues, jacobian, integrals, centre, seed)


def exposed(s: Scene, config: ExposureConfig, random: torch.Generator):  # type: ignore[no-untyped-def]
    """The scene exposed: its tissues in front of a speck of air at the patient's centre of mass, where scatter seems to begin."""
    affine = torch.diag(torch.tensor([1e-3, 1e-3, 1e-3, 1.0], dtype=torch.float64))
    affine[:3, 3] = mass_centre(s.volume.data.detach().float(), s.volume.affine)
    speck = Volume(torch.zeros(4, 4, 4), affine, "HU")
    return expose(speck, s.view, s.pose, config, random, extra=s.tissues).xray


def bound_of(s: Scene, photons: float) -> Bound:
    """The bound of an exposure, from two of it without noise: with scatter, and without."""
    dose = Dose(photons=photons)
    whole = exposed(s, ExposureConfig(dose=dose, noise="none"), generator(0))
    alone = exposed(s, ExposureConfig(dose=dose, noise="none", scatter=ScatterConfig(factor=0)), generator(0))
    inside = (s.integrals > _AIR) & whole.mask
    x, y = s.integrals[inside].double().numpy(), alone.image[inside].double().numpy()
    slope = np.polyval(np.polyder(np.polyfit(x, y, 3)), s.integrals.double().numpy())
    total, primary = (torch.exp(-image.double()) for image in (whole.image, alone.image))
    light = Light(
        photons=float(whole.meta["photons_open_beam"]) * total.clamp_min(1e-9),
        primary=(primary / total).clamp(max=1.0),
        hardening=torch.from_numpy(np.clip(slope, 0.5, 2.0)),
        electronic=4.0,
    )
    return Bound(information(s.jacobian, light, inside), s.centre, s.view)


def error(s: Scene, result) -> _Array:  # type: ignore[no-untyped-def]
    """[6] rotation in degrees, translation in mm, about the model's centre along the view's axes."""
    twist = twist_about_centre(replace(result, transform=s.pose, centre=s.centre), result.transform)
    axes = view_axes(s.view, s.centre)
    return torch.cat([torch.rad2deg(axes @ twist[:3]), axes @ twist[3:]]).numpy()


def runs(s: Scene, photons: float, seeds: int, lasts: dict[str, PolishConfig]) -> dict[str, tuple[_Array, float]]:
    """Errors [seeds, 6] and processor seconds a registration, by method: the direct one, and each last step behind it."""
    errors: dict[str, list[_Array]] = {name: [] for name in ("direct", *lasts)}
    spent = dict.fromkeys(errors, 0.0)
    config = DirectConfig(search=SearchConfig(hypotheses=1))
    for seed in range(seeds):
        xray = exposed(s, ExposureConfig(dose=Dose(photons=photons)), generator(seed, 79, s.number))
        draw = torch.randn(6, generator=generator(seed, 80, s.number), dtype=torch.float64)
        shift = torch.eye(4, dtype=torch.float64)
        shift[:3, 3] = s.centre
        off = se3.exp(torch.cat([torch.deg2rad(draw[:3]), 3 * draw[3:]]))
        problem = Problem(s.volume, (xray,), Rigid(shift @ off @ se3.inverse(shift) @ s.pose.matrix))
        begun = time.process_time()
        result = Direct(config).search_once(problem)
        spent["direct"] += time.process_time() - begun
        errors["direct"].append(error(s, result))
        for name, last in lasts.items():
            begun = time.process_time()
            polished = polish(problem, result, last)
            spent[name] += time.process_time() - begun
            errors[name].append(error(s, polished))
    return {name: (np.array(found), spent[name] / seeds) for name, found in errors.items()}


def summary(errors: list[_Array], bounds: list[Bound]) -> dict[str, Any]:
    """Errors of several poses [seeds, 6] each, beside their bounds: root mean squares over the poses."""
    many = len(errors[0])
    least = np.sqrt(np.mean([np.diag(_degrees(b)) for b in bounds], 0))
    variance = np.mean([e.var(0, ddof=1) for e in errors], 0) if many > 1 else np.zeros(6)
    square = np.mean([(e**2).mean(0) for e in errors], 0)
    bias = np.sqrt(np.clip(np.mean([e.mean(0) ** 2 for e in errors], 0) - variance / many, 0, None))

    def three(values: _Array) -> dict[str, float]:
        return {
            "in_plane": float(np.hypot(values[3], values[4])),
            "depth": float(values[5]),
            "rotation": float(np.sqrt((values[:3] ** 2).sum())),
        }

    table = {"bound": three(least), "bias": three(bias), "sd": three(np.sqrt(variance)), "rms": three(np.sqrt(square))}
    table["ratio"] = {k: table["rms"][k] / table["bound"][k] for k in table["rms"]}
    table["sd_ratio"] = {k: table["sd"][k] / table["bound"][k] for k in table["rms"]}
    return table


def _degrees(bound: Bound) -> _Array:
    scale = np.array([np.degrees(1)] * 3 + [1.0] * 3)
    return bound.camera.numpy() * np.outer(scale, scale)


def without_noise(s: Scene) -> dict[str, XRay]:
    """The scene exposed without noise, what makes it differ from its line integrals added one by one."""
    quiet = ExposureConfig(dose=Dose(photons=1500), noise="none")
    bare = replace(quiet, scatter=ScatterConfig(factor=0), detector=Detector(blur_mm=0, glare=0, electronic=0))
    beam = few(quiet.tube.kv, quiet.tube.aluminium_mm, quiet.tube.copper_mm, quiet.detector.csi_mm)
    nearest = int(np.argmin(np.abs(np.asarray(beam.energies) - 70)))
    single = sum(float(np.asarray(beam.attenuation(name))[nearest]) * mm for name, mm in s.tissues.items())
    many = exposed(s, bare, generator(0))
    return {
        "one energy": replace(many, image=torch.as_tensor(single)),
        "the whole beam": many,
        "and scatter": exposed(s, replace(bare, scatter=quiet.scatter), generator(0)),
        "and spread of light": exposed(s, quiet, generator(0)),
    }


def sources(scenes: list[Scene], pixels: int) -> list[dict[str, Any]]:
    """Where error without noise comes from: root mean square over the poses, mm, by exposure and by method."""
    ways = {
        "direct": None,
        "windows, no beam": PolishConfig(pixels=pixels, beam=False),
        "windows": PolishConfig(pixels=pixels, counts=False),
        "last step": PolishConfig(pixels=pixels),
    }
    found: dict[tuple[str, str], list[_Array]] = {}
    for s in scenes:
        for what, xray in without_noise(s).items():
            problem = Problem(s.volume, (xray,), s.pose)
            result = Direct(DirectConfig(search=SearchConfig(hypotheses=1))).search_once(problem)
            for way, config in ways.items():
                ended = result if config is None else polish(problem, result, config)
                found.setdefault((what, way), []).append(error(s, ended))
    rows = []
    for (what, way), errors in found.items():
        size = np.sqrt(np.mean(np.square(errors), 0))
        rows.append({"exposure": what, "method": way, "in_plane": float(np.hypot(size[3], size[4])), "depth": float(size[5])})
    return rows


def print_table(table: dict[str, Any]) -> None:
    """The rows as text: micrometres and millidegrees."""
    print(f"{table['machine']}; " + ", ".join(f"{k} {v}" for k, v in table["versions"].items()))
    print(
        f"{'model':8s} {'photons':>7s} {'method':7s} {'n':>3s} {'cpu s':>6s}"
        f" | {'in plane, um: bound':>19s} {'bias':>6s} {'sd':>6s} {'rms':>6s} {'rms/b':>5s}"
        f" | {'depth, um: bound':>16s} {'bias':>6s} {'sd':>6s} {'rms':>6s} {'rms/b':>5s}"
        f" | {'turn, mdeg: bound':>17s} {'bias':>6s} {'sd':>6s} {'rms/b':>5s}"
    )
    for r in table["rows"]:
        cells = []
        for key, wide in (("in_plane", 19), ("depth", 16), ("rotation", 17)):
            b, bias, sd, rms = (1e3 * r[name][key] for name in ("bound", "bias", "sd", "rms"))
            middle = f" {rms:6.1f}" if key != "rotation" else ""
            cells.append(f"{b:{wide}.1f} {bias:6.1f} {sd:6.1f}{middle} {r['ratio'][key]:5.1f}")
        head = f"{r['model']:8s} {r['photons']:7.0f} {r['method']:7s} {r['n']:3d} {r['cpu']:6.2f}"
        print(" | ".join([head, *cells]))


def plot(table: dict[str, Any], folder: Path) -> list[Path]:
    """One picture a model: in-plane and depth error against dose, the bound and twice the bound."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    files = []
    for name in dict.fromkeys(r["model"] for r in table["rows"]):
        figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
        rows = sorted((r for r in table["rows"] if r["model"] == name), key=lambda r: r["photons"])
        for panel, key in zip(panels, ("in_plane", "depth"), strict=True):
            for method, (colour, label) in _DRAWN.items():
                own = [r for r in rows if r["method"] == method]
                if not own:
                    continue
                dose = [r["photons"] for r in own]
                panel.plot(dose, [1e3 * r["rms"][key] for r in own], "o-", color=colour, label=f"{label}: error")
                panel.plot(
                    dose, [1e3 * r["sd"][key] for r in own], "s--", color=colour, ms=4, lw=1, label=f"{label}: noise alone"
                )
            own = [r for r in rows if r["method"] == "direct"]
            dose, least = [r["photons"] for r in own], np.array([1e3 * r["bound"][key] for r in own])
            panel.plot(dose, least, "k-", label="bound")
            panel.plot(dose, 2 * least, "k:", label="twice the bound")
            panel.set(xscale="log", yscale="log", xlabel="photons at the median pixel", ylabel="µm, root mean square")
            panel.set_title({"in_plane": "in plane", "depth": "depth"}[key])
            panel.grid(True, which="both", alpha=0.25)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=8)
        files.append(folder / f"dose_{name}.png")
        figure.savefig(files[-1], dpi=90)
        plt.close(figure)
    return files


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--models", default="pelvis,chest,thorax", help=f"of thorax, {', '.join(_SCANS)}")
    parser.add_argument("--photons", default="100,300,1500,5000,20000", help="at the median pixel, separated by commas")
    parser.add_argument("--poses", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=4, help="of the noise, at each pose and dose")
    parser.add_argument("--size", type=int, default=384, help="pixels of a side of 307 mm")
    parser.add_argument("--polish", action="store_true", help="the last step too")
    parser.add_argument("--pixels", type=int, default=PolishConfig().pixels, help="of the last step")
    parser.add_argument("--windows", action="store_true", help="the last step without counted photons' part too")
    parser.add_argument("--sources", action="store_true", help="no noise: which part of the exposure moves the end, and how far")
    parser.add_argument("--plot", type=Path, help="a folder for pictures")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if any(name != "thorax" for name in given.models.split(",")) and not (given.data / "ct").is_dir():
        raise SystemExit(f"{given.data / 'ct'} is not there: give --data, or --models thorax")
    warm_kernels()
    if given.sources:
        for name in given.models.split(","):
            volume = model(name, given.data)
            print(f"{name}, no noise, {given.poses} poses; um, root mean square")
            for r in sources([scene(volume, seed, given.size) for seed in range(given.poses)], given.pixels):
                print(
                    f"  {r['exposure']:20s} {r['method']:20s} in plane {1e3 * r['in_plane']:6.1f}  depth {1e3 * r['depth']:6.1f}"
                )
        return
    last = PolishConfig(pixels=given.pixels)
    asked = {"windows": (given.windows, replace(last, counts=False)), "polish": (given.polish, last)}
    lasts = {name: config for name, (wanted, config) in asked.items() if wanted}
    rows: list[dict[str, Any]] = []
    for name in given.models.split(","):
        volume = model(name, given.data)
        scenes = [scene(volume, seed, given.size) for seed in range(given.poses)]
        for photons in (float(p) for p in given.photons.split(",")):
            bounds = [bound_of(s, photons) for s in scenes]
            outcomes = [runs(s, photons, given.seeds, lasts) for s in scenes]
            for method in outcomes[0]:
                found = [o[method][0] for o in outcomes]
                cpu = float(np.mean([o[method][1] for o in outcomes]))
                n = given.poses * given.seeds
                rows.append({"model": name, "photons": photons, "method": method, "n": n, "cpu": cpu, **summary(found, bounds)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    table = {"rows": rows, "size": given.size, "machine": machine, "versions": versions()}
    if given.plot is not None:
        plot(table, given.plot)
    if given.json:
        print(json.dumps(table, indent=1))
    else:
        print_table(table)


if __name__ == "__main__":
    main()
