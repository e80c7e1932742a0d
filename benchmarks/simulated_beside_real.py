"""Simulated exposures beside real ones: the pictures and figures of ``docs/simulation.md``.

``python benchmarks/simulated_beside_real.py [--data FOLDER] [-o DIR] [--only wrist,detector,bodies] [--json]``

- wrist: a forearm filmed by two calibrated cameras, made again from its own CT (FOLDER/xray/wrist_biplane). Matched pictures,
  histograms, profiles across both bones, noise power.
- detector: transfer, noise power and variance of flat exposures beside what they should be and what is published.
- bodies: chest and pelvis from CTs (FOLDER/ct), with and without scatter, as a C-arm shows them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import beside_wrist as wrist
import numpy as np
import torch
from beside_noise import patches, power
from numpy.typing import NDArray

import raylign
from raylign.data import Volume
from raylign.data.resample import resample_labels
from raylign.geometry import Rigid, View
from raylign.simulation import expose
from raylign.simulation.physics.apparatus import Collimator, Detector, Dose, ExposureConfig, Tube
from raylign.simulation.physics.display import Display, displayed
from raylign.simulation.physics.scatter import Grid, ScatterConfig

SIZE = 32
# flat places in frame 99 (row, column of their first pixels), free of beads
FLAT = (
    [(1330, 815), (1250, 760), (1500, 800), (1480, 700), (1440, 680)],
    [(1400, 730), (1440, 735), (1480, 720), (1520, 730), (1450, 650), (1400, 660), (1520, 700)],
)
PROFILE = (slice(1446, 1457), slice(1416, 1427))  # rows of the profiles across both bones, camera 1 and 2


def _figure(shape: tuple[int, int], size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(*shape, figsize=size, squeeze=False, constrained_layout=True)


def _save(figure: Any, path: Path, grey: bool = False) -> None:
    """A PNG; pictures in 86 shades of grey, which compress well."""
    import matplotlib.pyplot as plt
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    if grey:
        Image.open(path).convert("L").point(lambda v: min(v // 3 * 3 + 1, 255) if v < 254 else 255).save(path, optimize=True)


def straight(real: NDArray, made: NDArray) -> tuple[float, float]:
    """(a, b) of real = a made + b, by least absolute residuals where the real picture is neither black nor white."""
    use = (real > 20) & (real < 240)
    x, y = made[use], real[use]
    weight = np.ones_like(x)
    a = b = 0.0
    for _ in range(20):
        a, b = np.polyfit(x, y, 1, w=np.sqrt(weight))
        weight = 1 / np.maximum(np.abs(y - a * x - b), 1.0)
    return float(a), float(b)


def beside_wrist(folder: Path, out: Path) -> dict[str, Any]:
    """Both cameras of frame 99."""
    cams = wrist.cameras(folder)
    arm = wrist.forearm(folder, cams)
    found: dict[str, Any] = {}
    pictures, measures = _figure((2, 2), (8.4, 9.2)), _figure((2, 3), (13, 7))
    for n, camera in enumerate(cams):
        window = wrist.WINDOWS[n]
        real = camera.shown[window]
        made = wrist.simulated(arm, camera, window, wrist.settings(wrist.PHOTONS[n]))
        gain, offset = straight(real, made)
        shown = np.clip(gain * made + offset, 0, 255)
        for axis, picture, title in zip(
            pictures[1][n], (real, shown), (f"camera {n + 1}: real", f"camera {n + 1}: simulated"), strict=True
        ):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_title(title, fontsize=10)
            axis.axis("off")
        corner = [(r - window[0].start, c - window[1].start) for r, c in FLAT[n]]
        pitch = float(camera.view.pixel_spacing[1])
        flats = [patches(p, corner, SIZE) for p in (real, gain * made + offset)]
        frequency, spectra = power(flats[0], pitch)[0], [power(f, pitch)[1] for f in flats]
        rows = slice(PROFILE[n].start - window[0].start, PROFILE[n].stop - window[0].start)
        lines = [p[rows].mean(0) for p in (real, shown)]
        _measured(measures[1][n], n + 1, [(real, shown), lines, (frequency, spectra)])
        inside = (real > 20) & (real < 240)
        found[f"camera {n + 1}"] = {
            "gain": gain,
            "offset": offset,
            "rms_grey": float(np.sqrt(((shown - real)[inside] ** 2).mean())),
            "noise_grey": [float(f.std()) for f in flats],
            "noise_power_ratio": {
                f"{low} to {high} / mm": float(np.median((spectra[1] / spectra[0])[(frequency >= low) & (frequency < high)]))
                for low, high in ((0.4, 1.0), (1.0, 1.6), (1.6, 2.4))
            },
            "profile_rms_grey": float(np.sqrt(((lines[1] - lines[0])[lines[0] < 240] ** 2).mean())),
        }
    _save(pictures[0], out / "simulation_wrist.png", grey=True)
    _save(measures[0], out / "simulation_wrist_measures.png")
    return found


def _measured(axes: Any, camera: int, what: list[Any]) -> None:
    (real, shown), lines, (frequency, spectra) = what
    for picture, label in ((real, "real"), (shown, "simulated")):
        axes[0].hist(picture.ravel(), bins=np.arange(40, 250, 3), histtype="step", label=label)
    axes[0].set(title=f"camera {camera}: histogram", xlabel="grey")
    for line, label in zip(lines, ("real", "simulated"), strict=True):
        axes[1].plot(line, label=label, lw=1)
    axes[1].set(title=f"camera {camera}: profile across both bones", xlabel="column", ylabel="grey")
    for spectrum, label in zip(spectra, ("real", "simulated"), strict=True):
        axes[2].semilogy(frequency, spectrum, label=label)
    axes[2].set(title=f"camera {camera}: noise power", xlabel="1 / mm at the screen", ylabel="grey$^2$ mm$^2$")
    for axis in axes:
        axis.legend(fontsize=8)


def _air() -> Volume:
    return Volume(torch.full((2, 2, 2), -1000.0), torch.eye(4, dtype=torch.float64), unit="HU")


def beside_detector(out: Path) -> dict[str, Any]:
    """A flat panel behind 21 mm of aluminium at 70 kV (the quality RQA 5 of IEC 61267, nearly), pixels of 0.2 mm."""
    side, pitch = 256, 0.2
    view = View.from_carm(sid=1500, sod=1000, pixel_spacing=pitch, shape=(side, side))
    home = Rigid(torch.eye(4, dtype=torch.float64))
    detector = Detector(bits=16, full_scale=1.2)
    plate = {"aluminium": torch.full((side, side), 21.0)}

    def exposed(photons: float, seed: int, extra: dict[str, torch.Tensor], rays: int = 1) -> NDArray[np.float64]:
        noise: Any = "compound" if rays == 1 else "none"
        config = ExposureConfig(
            tube=Tube(kv=70.0, aluminium_mm=2.5), dose=Dose(photons, "patient"), detector=detector, scatter=ScatterConfig(0.0),
            noise=noise, rays=rays,
        )  # fmt: skip
        made = expose(_air(), view, home, config, torch.Generator().manual_seed(seed), extra=extra)
        open_beam = made.xray.meta["open_beam_counts"]
        return made.counts.numpy().astype(float) / open_beam * made.xray.meta["photons_open_beam"]  # photons of the open beam

    doses = (100.0, 400.0, 1600.0, 6400.0)
    relative = []
    for photons in doses:
        two = [exposed(photons, seed, plate) for seed in (1, 2)]
        relative.append(float((two[0] - two[1]).var() / 2 / two[0].mean() ** 2))
    flat = exposed(1600.0, 3, plate)
    read_out = detector.electronic / flat.mean()
    flat = flat / flat.mean()
    corners = [(r, c) for r in range(0, side - 63, 64) for c in range(0, side - 63, 64)]
    frequency, spectrum = power(patches(flat, corners, 64), pitch)
    # an edge tilted by 3 degrees; sixteen rays a pixel average its light
    across, fine = (_across(side, rays) for rays in (1, 4))
    edge = {"aluminium": torch.full((4 * side, 4 * side), 21.0), "lead": 2.0 * (fine > 0).float()}
    transfer = _transfer(exposed(1600.0, 4, edge, rays=4), across.numpy(), pitch)
    gauss = np.exp(-2 * (np.pi * detector.blur_mm * frequency) ** 2)
    wanted = gauss * ((1 - detector.glare) + detector.glare / np.sqrt(1 + (2 * np.pi * detector.glare_mm * frequency) ** 2))
    figure, axes = _figure((1, 2), (9, 3.6))
    axes[0, 0].plot(frequency, np.interp(frequency, *transfer), label="measured on an edge")
    axes[0, 0].plot(frequency, wanted * np.sinc(frequency * pitch), "--", label="as set, times the pixel's")
    axes[0, 0].plot([2.5], [0.086], "o", label="published panel")
    axes[0, 0].set(title="modulation transfer", xlabel="1 / mm", ylim=(0, 1.05))
    axes[0, 1].semilogy(frequency, spectrum, label="measured")
    expected = (wanted**2 / 1600 + read_out**2) * pitch**2
    axes[0, 1].semilogy(frequency, expected, "--", label="transfer$^2$ / photons, and read-out")
    axes[0, 1].set(title="noise power over mean$^2$, 1600 photons a pixel", xlabel="1 / mm", ylabel="mm$^2$")
    for axis in axes[0]:
        axis.legend(fontsize=8)
    _save(figure, out / "simulation_detector.png")
    return {
        "photons": doses,
        "relative_variance_times_photons": [r * p for r, p in zip(relative, doses, strict=True)],
        "transfer": {f"{f} / mm": float(np.interp(f, *transfer)) for f in (0.5, 1.0, 2.0, 2.5)},
        "noise_power_over_expected": float(np.median((spectrum / expected)[(frequency > 0.3) & (frequency < 1.5)])),
    }


def _across(side: int, rays: int) -> torch.Tensor:
    """Distance of every ray from an edge through the middle, tilted by 3 degrees, pixels."""
    at = (torch.arange(side * rays, dtype=torch.float64) + 0.5) / rays - side / 2
    tilt = np.radians(3.0)
    return at * np.cos(tilt) - at[:, None] * np.sin(tilt)


def _transfer(picture: NDArray, across: NDArray, pitch: float) -> tuple[NDArray, NDArray]:
    """Frequencies, 1/mm, and transfer, from the derivative of the edge sampled at a quarter of a pixel (IEC 62220-1)."""
    at = np.rint(across * 4).astype(int)
    near = np.abs(at) < 240
    index = at[near] + 240
    spread = np.bincount(index, picture[near]) / np.maximum(np.bincount(index), 1)
    line = np.diff(spread[1:-1]) * np.hanning(len(spread) - 3)
    power_of = np.abs(np.fft.rfft(line))
    f = np.fft.rfftfreq(len(line), pitch / 4)
    return f, power_of / power_of[0] / np.maximum(np.sinc(f * pitch / 4), 0.1)


def beside_bodies(data: Path, out: Path) -> dict[str, Any]:
    """Chest and pelvis with scatter and without, raw (logarithm) and as shown."""
    found: dict[str, Any] = {}
    cases = (
        ("chest CT, 0 degrees", "lidc0001_chest", 0.0, 90.0, 0.8),
        ("chest CT, LAO 90", "lidc0001_chest", 90.0, 100.0, 0.8),
        ("pelvis CT, 0 degrees", "vhf_pelvis_ct.nii.gz", 0.0, 80.0, 0.42),
    )
    figure, axes = _figure((len(cases), 3), (11.4, 11.6))
    for row, (name, file, primary, kv, spacing) in zip(axes, cases, strict=True):
        volume = raylign.read_volume(data / "ct" / file)
        chest = "chest" in file
        labels = None
        if chest:
            names = data / "ct" / "lidc0001_chest_labels.csv"
            labels = resample_labels(raylign.read_labels(data / "ct" / "lidc0001_chest_seg.nii.gz", names), volume)
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, 3] = -volume.centre
        view = View.from_carm(primary=primary, sid=1200, sod=800, pixel_spacing=spacing, shape=(384, 384))
        made = {}
        for label, scatter in (
            ("no scatter", ScatterConfig(0.0)),
            ("scatter", ScatterConfig()),
            ("grid", ScatterConfig(grid=Grid())),
        ):
            config = ExposureConfig(
                tube=Tube(kv=kv, copper_mm=0.1), dose=Dose(3000.0), scatter=scatter, collimator=Collimator.round(0.98)
            )
            made[label] = expose(volume, view, Rigid(pose), config, torch.Generator().manual_seed(5), labels=labels).xray
        signal = {k: torch.exp(-x.image.double()) for k, x in made.items()}
        mask = made["grid"].mask
        behind = mask & (signal["no scatter"] < 0.5)
        found[name] = {
            k: float((signal[k][behind].sum() - signal["no scatter"][behind].sum()) / signal["no scatter"][behind].sum())
            for k in ("scatter", "grid")
        }
        for axis, label in zip(row[:2], ("no scatter", "scatter"), strict=True):
            image = made[label].image
            low, high = image[mask].quantile(torch.tensor([0.01, 0.99])).tolist()
            axis.imshow(image, cmap="gray_r", vmin=low, vmax=high)
            axis.set_title(f"{name}, {kv:.0f} kV: -log, {label}", fontsize=9)
        pitch = torch.tensor([[spacing, spacing]])
        shown = Display(compression=0.9, compression_mm=15.0, edges=1.0, curve=0.0, window=(0.5, 99.5))
        screen = displayed(made["grid"].image[None], mask[None], pitch, shown)[0]
        row[2].imshow(torch.where(mask, screen, 0.0), cmap="gray", vmin=0, vmax=1)
        row[2].set_title("with a grid, as a C-arm shows it", fontsize=9)
        for axis in row:
            axis.axis("off")
    _save(figure, out / "simulation_bodies.png", grey=True)
    return found


def main() -> None:
    """Parse, make, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "images")
    parser.add_argument("--only", default="wrist,detector,bodies")
    given = parser.parse_args()
    begun, found = time.process_time(), {}
    for name in given.only.split(","):
        if name == "wrist":
            found[name] = beside_wrist(given.data / "xray" / "wrist_biplane", given.out)
        elif name == "detector":
            found[name] = beside_detector(given.out)
        else:
            found[name] = beside_bodies(given.data, given.out)
    found["processor_seconds"] = time.process_time() - begun
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
