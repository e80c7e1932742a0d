"""``raylign demo``: a phantom, a simulated exposure, a registration, a report; no data needed."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylign.cli.about import about_inputs, distrust
from raylign.cli.console import DONE, NOT_TRUSTED, command, complain, load, progress
from raylign.cli.outputs import OUTPUTS, REPORT, About, staged, write_outputs
from raylign.cli.warm import warm_kernels
from raylign.errors import InputError

if TYPE_CHECKING:
    import torch

    from raylign.data import Volume
    from raylign.geometry import Rigid
    from raylign.registration import Problem, Result

VOLUME, XRAY, TRUTH = "volume.nii.gz", "xray.dcm", "truth.json"


@dataclass(frozen=True, kw_only=True)
class DemoFlags:
    """Options of ``raylign demo``."""

    out: Annotated[Path, typer.Option(help="Folder for the inputs, the result and the report.", show_default=False)]
    seed: Annotated[int, typer.Option(help="Another patient, pose and exposure for every seed.")] = 0


@command(DemoFlags)
def demo(flags: DemoFlags) -> int:
    """Make a patient, X-ray it, register, and report: nothing to download, nothing to prepare.

    The chest is scanned at 2 mm and exposed at a finer and longer one, by a simulator that shares
    nothing with the registration but where the rays run: several energies, scatter, noise, a round collimator, a guide wire.
    """
    if flags.seed < 0:
        raise InputError(f"{flags.seed} is negative", field="--seed", remedy="give 0, 1, 2, ...")
    again = shlex.join(["raylign", "register", str(flags.out / VOLUME), str(flags.out / XRAY), "--out", str(flags.out / "again")])
    with staged(flags.out, OUTPUTS) as folder, progress() as tell:
        load("raylign.registration", "raylign.simulation", "raylign.io.images_write", "SimpleITK")
        tell("making a patient and an exposure", 0.0)
        truth = _make_inputs(folder, flags.seed)
        tell("preparing the compiled kernels", 0.5)
        warming = warm_kernels()
        problem, result, about = _register(folder, flags, lambda stage, share: tell(stage, 0.6 + 0.2 * share))
        tell("writing the report", 0.8)
        rows = _errors(problem, result, truth)
        about = replace(about, command=again, truth=truth)
        write_outputs(folder, problem, result, about)
    _print(rows, [f"{result.seconds:.2f} s", f"{warming:.1f} s", f"{result.confidence.probability:.2f}"], flags, again)
    if not result.confidence.trusted:
        complain(distrust(result))
        return NOT_TRUSTED
    return DONE


def _make_inputs(folder: Path, seed: int) -> Any:
    """Write the scan and the exposure; give the truth."""
    import json

    import torch

    from raylign.evaluation import Truth
    from raylign.evaluation.gather import surface_points
    from raylign.geometry import View
    from raylign.io.images_write import write_volume
    from raylign.io.xray_dicom_write import XRayDicomOptions, write_xray_dicom
    from raylign.simulation import ExposureConfig, ThoraxConfig, expose, guide_wire, thorax
    from raylign.simulation.instruments import steel_thickness
    from raylign.simulation.physics.apparatus import Collimator

    generator = torch.Generator().manual_seed(seed)
    scan = thorax(ThoraxConfig(voxel_mm=2.0, z_range=(-190.0, 185.0)), seed).volume
    patient = thorax(ThoraxConfig(voxel_mm=1.6, z_range=(-238.0, 208.0)), seed).volume
    pose = true_pose(scan, generator)
    view = View.from_carm(primary=12.0, secondary=4.0, sid=1020.0, sod=720.0, pixel_spacing=0.62, shape=(512, 512))
    config = ExposureConfig(collimator=Collimator.round(0.96), noise="compound", rays=2)
    fine = view.resample((2 * view.shape[0], 2 * view.shape[1]))
    wire = {"steel": steel_thickness((guide_wire(generator),), fine)}
    exposure = expose(patient, view, pose, config, generator, extra=wire)
    write_volume(scan, folder / VOLUME)
    write_xray_dicom(exposure.counts, view, folder / XRAY, XRayDicomOptions(body_part="CHEST", kv=config.tube.kv))
    truth = Truth(pose, surface_points(scan))
    said = {"T_world_from_volume": pose.matrix.tolist(), "targets": truth.targets.tolist(), "seed": seed}
    (folder / TRUTH).write_text(json.dumps(said) + "\n", encoding="utf-8")
    return truth


def true_pose(volume: Volume, generator: torch.Generator) -> Rigid:
    """A pose 10 to 15 degrees and 20 to 30 mm from the start "center", in a direction at random."""
    import torch

    from raylign.geometry import Rigid, se3
    from raylign.registration.problem import centred

    def drawn(low: float, high: float) -> torch.Tensor:
        direction = torch.randn(3, generator=generator, dtype=torch.float64)
        share = float(torch.rand(1, generator=generator, dtype=torch.float64))
        return direction / direction.norm() * (low + share * (high - low))

    motion = se3.exp(torch.cat([drawn(math.radians(10), math.radians(15)), torch.zeros(3, dtype=torch.float64)]))
    motion[:3, 3] = drawn(20.0, 30.0)
    return Rigid(motion @ centred(volume).matrix)


def _register(folder: Path, flags: DemoFlags, tell: Any) -> tuple[Problem, Result, About]:
    """Register the files just written, as ``raylign register`` does."""
    from raylign.io import read_volume, read_xray
    from raylign.registration import Problem, centred, registrar

    volume, xray = read_volume(folder / VOLUME), read_xray(folder / XRAY)
    problem = Problem(volume, (xray,), centred(volume))
    result = registrar("direct", progress=tell).register(problem)
    about = about_inputs(flags.out / VOLUME, volume, [flags.out / XRAY], [xray], "")
    return problem, result, about


def _errors(problem: Problem, result: Result, truth: Any) -> list[tuple[str, str, str]]:
    """(measure, at the start, at the end)."""
    from raylign.evaluation import mrpd, mtre

    view = problem.xrays[0].view
    poses = (result.start, result.transform)
    in_space = [f"{float(mtre(p, truth.pose, truth.targets)):.2f} mm" for p in poses]
    in_plane = [f"{float(mrpd(p, truth.pose, truth.targets, view)):.2f} mm" for p in poses]
    return [("error in space (mTRE)", *in_space), ("error across the rays (mRPD)", *in_plane)]  # type: ignore[list-item]


def _print(rows: list[tuple[str, str, str]], said: list[str], flags: DemoFlags, again: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="A chest, one X-ray, one registration", title_justify="left", box=None, padding=(0, 3, 0, 0))
    for name, justify in (("", "left"), ("start", "right"), ("registered", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    seconds, warming, probability = said
    table.add_row("probability of success", "", probability)
    table.add_row("the registration took", "", seconds)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"Loading the kernels took {warming} more; a first run compiles them, which takes longest.", highlight=False)
    console.print(f"\nReport: {flags.out / REPORT}\nAgain:  {again}", highlight=False, markup=False)
