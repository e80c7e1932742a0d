"""Simulated exposures, made by richer physics than the image that registration renders.

``expose_batch`` is for training: many exposures at once of patients that stay on the device, material by material through the
library's own projector. ``expose`` is for honest tests: one exposure, whose integrator shares with ``raylign.projection`` no more
than where the rays run. From mm of material on, both are one: several energies (the beam hardens), scatter, quantum and
electronic noise, glare and blur, collimator, metal, counts that are rounded and saturate.

    n_e   = N0 share_e exp(-sum of mu_e,m t_m)                        photons of energy e that the detector stops
    S     = lit * shade * sum w_e n_e  +  scatter                     signal, 1 in the open beam
    count = round(gain * (glare and blur)[Poisson, mean S, variance sum w_e^2 n_e] + electronic noise)
    image = -log(count / count of the open beam)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64, UInt16
from torch import Tensor

from raylign.data import LabelMap, Volume, XRay
from raylign.errors import InputError
from raylign.geometry import Rigid, View
from raylign.geometry.view import as_views, require_cone
from raylign.simulation.physics import detector, fields, scatter, spectrum
from raylign.simulation.physics.apparatus import ExposureConfig
from raylign.simulation.physics.detector import Generators
from raylign.simulation.physics.materials import Matter, mass_centre
from raylign.simulation.physics.paths import path_lengths
from raylign.simulation.physics.traversal import traversed
from raylign.simulation.subject import Subject

_ENERGIES = 12
_SCATTER_MM = 150.0  # water that hardens scattered photons: they have crossed about as much as their primaries
Paths = Mapping[str, Float[Tensor, "B H W"]]


@dataclass(frozen=True, eq=False)
class Exposures:
    """A batch of exposures, all on one device.

    Parameters
    ----------
    image: [B, H, W] float32, ``-log(counts / open beam)``: larger is more attenuation.
    valid: [B, H, W], True well within the collimator where counts are neither 0 nor saturated.
    counts: [B, H, W] int32, linear in the intensity.
    primary: [B, H, W] signal without scatter, noise, blur and collimator, 1 in the open beam, undistorted.
    scatter: [B, H, W] scattered signal in the same unit.
    photons: [B] per pixel in the open beam.
    open_beam: [B] counts of the open beam, which may be beyond what can be stored.
    """

    image: Float[Tensor, "B H W"]
    valid: Bool[Tensor, "B H W"]
    counts: Int32[Tensor, "B H W"]
    primary: Float[Tensor, "B H W"]
    scatter: Float[Tensor, "B H W"]
    photons: Float[Tensor, " B"]
    open_beam: Float[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, eq=False)
class Exposure:
    """Stored counts, and the same exposure ready for registration.

    Parameters
    ----------
    counts: [H, W] uint16, linear in the intensity.
    xray: ``-log(counts / open beam)`` with its view and mask; ``meta`` holds ``open_beam_counts`` and the tube's ``kv``.
    """

    counts: UInt16[Tensor, "H W"]
    xray: XRay


@dataclass(frozen=True, eq=False)
class _Patients:
    """What scatter asks about the patients: where their mass is."""

    poses: Float[Tensor, "B 4 4"]
    centre: Float[Tensor, "B 3"]


@torch.no_grad()
def expose_batch(
    matters: Sequence[Matter],
    index: Sequence[int] | Int64[Tensor, " B"],
    views: Sequence[View],
    poses: Float[Tensor, "B 4 4"],
    configs: ExposureConfig | Sequence[ExposureConfig],
    generators: Generators | None = None,
    extra: Paths | None = None,
) -> Exposures:
    """B exposures of resident patients.

    Parameters
    ----------
    matters: S resident patients; the exposures are made where they are.
    index: which of them each exposure shows.
    views: B geometries of one shape, world mm.
    poses: ``T_world_from_volume`` of each, LPS mm.
    configs: one apparatus for all or one each; all with the same number of rays a pixel.
    generators: of all randomness: one for the batch, or one each; with one each, an exposure does not depend on its neighbours.
        Seed 0 where none is given.
    extra: mm of further materials on each ray, instruments say; names as in ``spectrum.materials()``; at the pixels, or at the
        finer rays where a pixel has several.

    Raises
    ------
    InputError: numbers of exposures that differ, views of different shapes, an index without a patient, an unknown material.
    """
    many = as_views(views)
    b = len(many)
    given = [configs] * b if isinstance(configs, ExposureConfig) else list(configs)
    generators = torch.Generator().manual_seed(0) if generators is None else generators
    counts = {
        "index": len(index),
        "poses": len(poses),
        "configs": len(given),
        "generators": b if isinstance(generators, torch.Generator) else len(generators),
    }
    for name, count in counts.items():
        if count != b:
            raise InputError(f"{count} for {b} views", field=name, remedy="give one for each exposure")
    if len({c.rays for c in given}) > 1:
        raise InputError("exposures of one batch differ in rays a pixel", field="rays", remedy="expose them apart")
    rays = given[0].rays
    fine = many if rays == 1 else tuple(v.resample((v.shape[0] * rays, v.shape[1] * rays)) for v in many)
    vectors = torch.stack([v.ray_vectors for v in fine])
    paths = traversed(matters, index, vectors, poses, fine[0].shape)
    which = index.tolist() if isinstance(index, Tensor) else list(index)
    patients = _Patients(
        poses.detach().to("cpu", torch.float64),
        torch.stack([matters[i].mass_centre for i in which]),
    )
    return _developed(_with(paths, extra, rays), many, given, generators, patients)


@torch.no_grad()
def expose(
    patient: Subject | Volume,
    view: View,
    pose: Rigid,
    config: ExposureConfig | None = None,
    generator: torch.Generator | None = None,
    *,
    labels: LabelMap | None = None,
    extra: Mapping[str, Float[Tensor, "H W"]] | None = None,
) -> Exposure:
    """Expose a scan to X-rays, by the integrator of ``paths``. On the CPU.

    Parameters
    ----------
    patient: a subject, or a scan in HU. Give a finer and longer one than will be registered, and the exposure shows what the scan
        misses.
    view: geometry in world mm.
    pose: ``T_world_from_volume``, LPS mm.
    config: the apparatus.
    generator: of all randomness; the same seed gives the same counts. Seed 0 where none is given.
    labels: of a volume: which structures hold contrast agent.
    extra: mm of further materials on each ray, as for ``expose_batch``.

    Raises
    ------
    InputError: the volume is not in HU, the view's rays are parallel, an unknown material.
    """
    config = config or ExposureConfig()
    generator = generator or torch.Generator().manual_seed(0)
    require_cone(view, "a simulated exposure")
    fine = view.resample((view.shape[0] * config.rays, view.shape[1] * config.rays))
    paths = {name: mm[None] for name, mm in path_lengths(patient, fine, pose, generator, labels=labels).items()}
    volume = patient.volume if isinstance(patient, Subject) else patient
    patients = _Patients(pose.matrix[None], mass_centre(volume.data.detach().float(), volume.affine)[None])
    shown = None if extra is None else {name: mm[None] for name, mm in extra.items()}
    if not paths:
        paths = {"water": torch.zeros(1, *fine.shape)}
    made = _developed(_with(paths, shown, config.rays), (view,), [config], generator, patients)
    if not bool(made.valid.any()):
        raise InputError(
            "no pixel of the exposure shows anything: the field is saturated or dark",
            field="config",
            remedy="raise Detector.full_scale or the dose, or open the collimator",
        )
    meta = {
        "simulated": True,
        "kv": config.tube.kv,
        "open_beam_counts": float(made.open_beam[0]),
        "bits": config.detector.bits,
        "photons_open_beam": float(made.photons[0]),
    }
    xray = XRay(made.image[0], view, made.valid[0], name="simulated", meta=meta)
    return Exposure(made.counts[0].to(torch.uint16), xray)


def _with(paths: Paths, extra: Paths | None, rays: int) -> dict[str, Tensor]:
    """The patient's materials and the instruments', added up by name."""
    out = dict(paths)
    like = next(iter(out.values()))
    for name, mm in (extra or {}).items():
        spectrum.density(name)
        mm = mm.detach().to(like)
        if rays > 1 and mm.shape[-1] * rays == like.shape[-1]:
            mm = mm.repeat_interleave(rays, -1).repeat_interleave(rays, -2)
        if mm.shape != like.shape:
            raise InputError(f"{tuple(mm.shape)} for rays of {tuple(like.shape)}", field=f"extra[{name!r}]")
        out[name] = out[name] + mm if name in out else mm
    return out


@dataclass(frozen=True, eq=False)
class _Beams:
    """The beams of a batch by energy; those of fewer energies than 12 have some without photons.

    energies, share: [B, E] keV and part of the open beam's signal, on the CPU. photons, weight: as of ``Spectrum``. scattered:
    photons in a unit of scattered signal. attenuation: by material, 1/mm.
    """

    energies: Float[Tensor, "B E"]
    share: Float[Tensor, "B E"]
    photons: Float[Tensor, "B E"]
    weight: Float[Tensor, "B E"]
    scattered: Float[Tensor, "B E"]
    attenuation: Mapping[str, Float[Tensor, "B E"]]

    @staticmethod
    def of(configs: Sequence[ExposureConfig], names: tuple[str, ...], device: torch.device) -> _Beams:
        tubes = [(c.tube.kv, c.tube.aluminium_mm, c.tube.copper_mm, c.detector.csi_mm) for c in configs]
        rows = torch.stack([_rows(tube, names) for tube in tubes])
        photons, weight, scattered, *mu = rows[:, 1:].to(device).unbind(1)
        return _Beams(rows[:, 0], rows[:, 1] * rows[:, 2], photons, weight, scattered, dict(zip(names, mu, strict=True)))


@lru_cache(maxsize=4096)
def _rows(tube: tuple[float, float, float, float], names: tuple[str, ...]) -> Float[Tensor, "R E"]:
    """A beam as the fields of ``_Beams``, 12 energies each, one below the other.

    Compton scattering takes little energy away here: scattered photons count as the beam behind ``_SCATTER_MM`` of water.
    """
    beam = spectrum.few(*tube)
    left = beam.photons * np.exp(-_SCATTER_MM * beam.attenuation("water"))
    rows = [beam.energies, beam.photons, beam.weight, left / (left * beam.weight).sum()]
    stacked = torch.from_numpy(np.stack([*rows, *(beam.attenuation(name) for name in names)])).float()
    return torch.nn.functional.pad(stacked, (0, _ENERGIES - len(beam.energies)))


def _energy(e: int, beams: _Beams, paths: Paths, rays: int) -> Tensor:
    """Part of the photons of one energy that comes through, averaged over each pixel's rays: the detector adds up intensities."""
    exponent: Tensor | None = None
    for name, mm in paths.items():
        term = beams.attenuation[name][:, e, None, None] * mm
        exponent = term if exponent is None else exponent.add_(term)
    assert exponent is not None
    through = exponent.neg_().exp_()
    return through if rays == 1 else torch.nn.functional.avg_pool2d(through[:, None], rays)[:, 0]


def _primary(beams: _Beams, paths: Paths, rays: int) -> tuple[Tensor, Tensor, Tensor]:
    """``sum w n``, ``sum w^2 n`` and ``sum n`` over the energies, for one photon a pixel in the open beam."""
    sums: list[Tensor] = []
    for e in range(beams.photons.shape[1]):
        through = _energy(e, beams, paths, rays)
        n, w = beams.photons[:, e, None, None], beams.weight[:, e, None, None]
        for i, factor in enumerate((n * w, n * w * w, n)):
            if e == 0:
                sums.append(factor * through)
            else:
                sums[i].addcmul_(factor, through)
    return sums[0], sums[1], sums[2]


def _open_beam_photons(
    configs: Sequence[ExposureConfig], count: Tensor, primary: Tensor, inside: Tensor, pitch: Tensor
) -> Tensor:
    """Photons a pixel in the open beam, [B, 1, 1]: what ``Dose`` asks for."""
    asked = fields.column([c.dose.photons for c in configs], count.device)
    by_area = fields.column([float(c.dose.per == "mm2") for c in configs], count.device)
    asked = asked * torch.where(by_area > 0, pitch.prod(1)[:, None, None], torch.ones_like(asked))
    if all(c.dose.at == "open" for c in configs):
        return asked
    nothing = torch.full_like(count, torch.nan)
    median = torch.where(inside & (primary < 0.5), count, nothing).flatten(1).nanmedian(1).values
    if bool(median.isnan().any()):  # nothing attenuates as a patient does
        anywhere = torch.where(inside, count, nothing).flatten(1).nanmedian(1).values
        median = torch.where(median.isnan(), anywhere, median).nan_to_num(1.0)
    at_patient = asked / median[:, None, None].clamp_min(1e-9)
    behind = fields.column([float(c.dose.at == "patient") for c in configs], count.device)
    return torch.where(behind > 0, at_patient, asked)


def _scattered(
    beams: _Beams,
    paths: Paths,
    light: tuple[Tensor, Tensor],
    scene: tuple[Sequence[View], _Patients, Tensor],
    configs: Sequence[ExposureConfig],
) -> Tensor:
    """Scattered signal of a primary that a collimator lets through (``light``), by the model of ``scatter``."""
    (primary, lit), (views, patients, pitch) = light, scene
    if all(c.scatter.factor == 0 for c in configs):
        return torch.zeros_like(primary)
    distance = scatter.centre_distance(views, patients.poses, patients.centre)
    kernels = scatter.kernels(beams.energies, beams.share, distance).to(primary.device)
    mass: Tensor | None = None
    for name, mm in paths.items():
        part = mm * spectrum.density(name)
        mass = part if mass is None else mass + part
    assert mass is not None
    if mass.shape != primary.shape:
        mass = torch.nn.functional.avg_pool2d(mass[:, None], mass.shape[-1] // primary.shape[-1])[:, 0]
    return scatter.scattered(primary, mass.clamp_min(0), lit, pitch, kernels, [c.scatter for c in configs])


def _developed(
    paths: Paths, views: Sequence[View], configs: Sequence[ExposureConfig], generators: Generators, patients: _Patients
) -> Exposures:
    """From mm of material to counts."""
    # one order of summation, whoever else is in the batch
    paths = {name: paths[name] for name in spectrum.materials() if name in paths}
    shape, rays = views[0].shape, configs[0].rays
    device = next(iter(paths.values())).device
    vectors = torch.stack([v.ray_vectors for v in views]).detach().to("cpu", torch.float64)
    steps = torch.where(vectors[:, 2:4].norm(dim=-1) > 0, vectors[:, 2:4].norm(dim=-1), vectors[:, 4:6].norm(dim=-1))
    spacing = steps.flip(-1).to(torch.float32)  # (row, column), on the CPU
    pitch = spacing.to(device)
    detectors = [c.detector for c in configs]
    beams = _Beams.of(configs, tuple(paths), device)
    primary, variance, count = _primary(beams, paths, rays)
    open_field, inside = fields.lit([c.collimator for c in configs], pitch, shape, device)
    shade = fields.shading([c.tube for c in configs], vectors.to(device), shape)
    arriving = open_field if shade is None else open_field * shade
    haze = _scattered(beams, paths, (primary, arriving), (views, patients, pitch), configs)
    photons = _open_beam_photons(configs, count, primary, inside, pitch)
    tubes = [c.intensifier for c in configs]
    signal = _noisy((primary, variance, arriving, haze), beams, paths, (configs, photons), generators)
    inside = fields.warped(inside.float()[:, None], tubes)[:, 0] > 0.999
    signal = detector.spread(signal, detectors, spacing)
    if shade is not None:
        shade = fields.warped(shade[:, None], tubes)[:, 0]  # calibrated behind the image intensifier
        flat = fields.column([float(d.flat_field) for d in detectors], device)
        signal = signal / torch.where(flat > 0, shade, torch.ones_like(shade))
    quiet = all(c.noise == "none" for c in configs)
    counts = detector.read_out(signal, detectors, photons, None if quiet else generators)
    top, unit = detector.full_scale(detectors, device)
    valid = inside & (counts < top) & (counts > 0)
    image = -torch.log(counts.clamp_min(1) / unit)
    return Exposures(image, valid, counts.to(torch.int32), primary, haze, photons[:, 0, 0], unit[:, 0, 0])


def _noisy(
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
    beams: _Beams,
    paths: Paths,
    settings: tuple[Sequence[ExposureConfig], Tensor],
    generators: Generators,
) -> Tensor:
    """The signal at the detector, as the image intensifier distorts it, with quantum noise."""
    primary, variance, arriving, haze = parts
    configs, photons = settings
    tubes = [c.intensifier for c in configs]
    kinds = {c.noise for c in configs}
    if len(kinds) > 1:
        raise InputError("exposures of one batch differ in their kind of noise", field="noise", remedy="expose them apart")
    if kinds == {"compound"}:
        total: Tensor | None = None
        for e in range(beams.photons.shape[1]):
            n, w, s = (t[:, e, None, None] for t in (beams.photons, beams.weight, beams.scattered))
            rate = photons * (n * _energy(e, beams, paths, configs[0].rays) * arriving + s * haze)
            rate = fields.warped(rate[:, None], tubes)[:, 0].clamp_min(0)
            part = detector.poisson(generators, rate) * w
            total = part if total is None else total + part
        assert total is not None
        return total / photons
    worth = (beams.scattered * beams.weight**2).sum(1)[:, None, None]
    light = torch.stack([primary * arriving + haze, variance * arriving + worth * haze], 1)
    signal, spent = fields.warped(light, tubes).unbind(1)
    return signal if kinds == {"none"} else detector.quanta(signal, spent, photons, generators)
