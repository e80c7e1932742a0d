"""How wrong the kernel model of scatter is: a Monte Carlo beside published figures, and the kernels beside the Monte Carlo.

``python benchmarks/scatter.py [--photons N] [--quick] [--json]`` prints three tables:

1. the Monte Carlo beside what is known: attenuation along a ray, energy given to the box of the AAPM's Report 195, case 2, the
   place that scatter seems to come from (Sorenson and Floch 1985), a published scatter-to-primary ratio (Altunbas et al. 2016);
2. the kernels beside the Monte Carlo on endless slabs, which they were made from: thickness, field, distance, tube voltage;
3. the same on trunks, from which the one factor between slabs and bodies was taken (the mean of the ratios in the last column
   but three, turned round), and on bodies that nothing was taken from: a phantom and CTs of patients.

Everything is exposed along the body's depth, 1200 mm from focus to detector unless a row says otherwise. ``--make`` makes the
kernels' table again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import montecarlo as mc
import montecarlo_voxels as mv
import numpy as np
import scatter_table
from scatter_bodies import Case, beam, compared, patients, slab, trunk

# AAPM Report 195 (2015), case 2: eV given to the body, and to nine cubes of 30 mm in it, a photon of 56.4 keV sent out.
_TASK_GROUP = 33171.40
_CUBES = {
    (0, -150, 0): 27.01, (-150, 0, 0): 27.00, (0, 0, 0): 36.67, (150, 0, 0): 27.01, (0, 150, 0): 27.01, (0, 0, -60): 72.86,
    (0, 0, -30): 53.35, (0, 0, 30): 23.83, (0, 0, 60): 14.60,
}  # fmt: skip


def task_group(photons: int) -> dict[str, float]:
    """The Monte Carlo over the report: energy given to the whole body and, the mean ratio and its spread, to the cubes.

    The report's world is full of air. Here it is thin air's attenuation alone, over the 1550 mm before the body.
    """
    body = mv.Body(np.full((40, 78, 78), 1.03, np.float32), np.zeros((40, 78, 78), np.uint8), (5.0, 5.0, 5.0), ("task group",))
    detector = mv.Detector(
        np.array([195, 195, -1550.0]), np.array([0, 0, 250.0]), np.array([390.0, 0, 0]), np.array([0, 390.0, 0]), (13, 13)
    )
    picture = mv.voxels(body, detector, (np.array([56.4]), np.array([1.0])), photons)
    at = np.linspace(-195, 195, 401)
    # photons are sent over the detector's area with the weight of its solid angle; the report counts solid angles
    sent = ((1 + (at[:, None] ** 2 + at**2) / 1800**2) ** -1.5).mean()
    air = 0.0012048 * 1550 * float(np.interp(56.4, mc.KEV, mc.medium("air").total))
    given = picture.deposit * 1000 * np.exp(-air) / sent
    x, z = (np.arange(78) + 0.5) * 5 - 195, (np.arange(40) + 0.5) * 5 - 100
    ratios = []
    for (i, j, k), wanted in _CUBES.items():
        part = given[np.abs(z - k) < 15][:, np.abs(x - j) < 15][:, :, np.abs(x - i) < 15]
        ratios.append(float(part.sum()) / wanted)
    return {"body": float(given.sum()) / _TASK_GROUP, "cubes": float(np.mean(ratios)), "cubes_spread": float(np.std(ratios))}


def effective_source(kev: float = 60.0, thick: float = 200.0, field: float = 100.0, photons: int = 400_000) -> float:
    """Distance, mm, before the slab's far side of the point that scatter on the axis seems to come from.

    From the scatter behind gaps of 50 to 500 mm, which falls as 1 / (distance + gap)^2 from that point; parallel rays, a round
    field of radius ``field`` mm (by reciprocity: a pencil beam's scatter into that circle).
    """
    gaps = np.array([50, 100, 200, 300, 500.0])
    pencil = mc.slab("water", kev, thick, gaps, scatter_table.EDGES, photons)
    per_ring = pencil.kernel * np.pi * np.diff(scatter_table.EDGES**2)
    on_axis = np.array([np.interp(field, scatter_table.EDGES, np.r_[0, np.cumsum(r)]) for r in per_ring])
    slope, offset = np.polyfit(gaps, on_axis**-0.5, 1)
    return float(offset / slope)


def acrylic(photons: int) -> float:
    """Scatter-to-primary ratio in the middle behind 300 mm of acrylic, as a cone-beam CT on a treatment machine sees it.

    Published: 4.51 (Altunbas et al. 2016, Med. Phys. 43, WE-AB-207A-10). Neither the blocks' width, the filter nor the voltage is
    in that abstract: here 400 mm square, 125 kV behind 4 mm aluminium, detector 400 x 300 mm at 1500 mm, isocentre at 1000 mm.
    """
    body = slab("pmma", 300.0, 400.0)
    detector = Case("acrylic", body, 125.0, 1500.0, 1000.0, 400.0).detector(32)
    detector = mv.Detector(
        detector.source, detector.corner + np.array([0, 0, 50]), detector.across, detector.down * 0.75, (24, 32)
    )
    picture = mv.voxels(body, detector, beam(125.0, 4.0), photons)
    middle = (slice(8, 16), slice(12, 20))
    return float(picture.scatter[middle].sum() / picture.primary[middle].sum())


def straight(photons: int) -> float:
    """Primary of the voxel code behind 200 mm of water, 80 kV, over the same sum done here."""
    case = Case("water", slab("water", 200.0))
    picture = mv.voxels(case.body, case.detector(9), beam(80.0), photons)
    kev, n = beam(80.0)
    weight = n * kev * (1 - np.exp(-np.interp(kev, mc.KEV, mc.response())))
    wanted = (weight * np.exp(-np.interp(kev, mc.KEV, mc.medium("water").total) * 200)).sum() / weight.sum()
    return float(picture.primary[4, 4] / wanted)


def slabs() -> Iterator[Case]:
    """Thickness, field, distance and voltage about one middle case."""
    for thick in (100, 150, 200, 250, 300):
        yield Case(f"tissue {thick} mm", slab("tissue", thick), endless=True)
    for lit in (0.5, 0.75):
        yield Case("tissue 200 mm, smaller field", slab("tissue", 200), endless=True, lit=lit)
    for distance in (250, 550):
        yield Case("tissue 200 mm, other distance", slab("tissue", 200), endless=True, sid=800.0 + distance)
    for kv in (60.0, 100.0, 120.0):
        yield Case("tissue 200 mm, other voltage", slab("tissue", 200), endless=True, kv=kv)
    yield Case("water 200 mm", slab("water", 200), endless=True)


def trunks() -> Iterator[Case]:
    """What the factor between slabs and bodies was taken from."""
    for wide, deep, spine, kv in (
        (300, 200, 45, 80),
        (360, 240, 50, 80),
        (270, 180, 40, 80),
        (320, 220, 45, 110),
        (320, 220, 45, 65),
    ):
        yield Case(f"trunk {wide} x {deep} mm, spine {spine} mm", trunk(wide, deep, spine), kv=float(kv))


def held_out(quick: bool) -> Iterator[Case]:
    """Bodies that nothing was taken from."""
    yield Case("forearm 60 x 50 mm, bone 20 mm", trunk(60, 50, 20, 300, 2.5), kv=65.0)
    for name, body in patients().items():
        yield Case(name, body, field=350.0)
        if not quick:
            yield Case(f"{name}, small field", body, field=350.0, lit=0.5)
            yield Case(f"{name}, 110 kV, near", body, kv=110.0, sid=1080.0)


def known(photons: int) -> dict[str, Any]:
    """The first table."""
    return {
        "primary behind 200 mm of water, over the same sum": straight(1000),
        "AAPM Report 195, case 2, 56.4 keV, over the report": task_group(photons),
        "effective source of scatter, mm (published 150 to 200)": effective_source(),
        "300 mm of acrylic, scatter to primary (published 4.51)": acrylic(photons),
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photons", type=int, default=2_000_000, help="of each Monte Carlo")
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--make", action="store_true", help="make the kernels' table again, and nothing else")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.make:
        scatter_table.make()
        return
    begun = time.process_time()
    table: dict[str, Any] = {"photons": given.photons, "known": known(given.photons)}
    for part, cases in (("slabs", slabs()), ("trunks", trunks()), ("held_out", held_out(given.quick))):
        table[part] = []
        for case in cases:
            table[part].append(compared(case, given.photons))
            print(f"{case.name}: {time.process_time() - begun:.0f} s", file=sys.stderr, flush=True)
    table["processor_seconds"] = time.process_time() - begun
    if given.json:
        print(json.dumps(table, indent=1))
        return
    for name, value in table["known"].items():
        print(f"{name}: " + (", ".join(f"{k} {v:.3f}" for k, v in value.items()) if isinstance(value, dict) else f"{value:.4g}"))
    print(f"\n{'':34s} {'kV':>4s} {'field':>5s} {'dist.':>5s} {'S/P':>6s} {'model':>6s} {'centre':>6s} {'model':>6s}"
          f" {'model/MC':>8s} {'rms S':>6s} {'rms S/P':>7s} {'noise':>6s}")  # fmt: skip
    for row in table["slabs"] + table["trunks"] + table["held_out"]:
        print(
            f"{row['case']:34s} {row['kv']:4.0f} {row['field_mm']:5.0f} {row['distance_mm']:5.0f} {row['spr']:6.3f}"
            f" {row['spr_model']:6.3f} {row['spr_centre']:6.2f} {row['spr_centre_model']:6.2f} {row['ratio']:8.3f}"
            f" {row['map_rms']:6.3f} {row['spr_rms']:7.3f} {row['noise']:6.3f}"
        )
    print(f"photons {given.photons}; processor time {table['processor_seconds']:.0f} s; distances at the detector, mm")


if __name__ == "__main__":
    main()
