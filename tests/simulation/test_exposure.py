"""The exposure's physics, on bodies simple enough to calculate by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from raylign import project
from raylign.data import LabelMap, Landmarks, Volume
from raylign.errors import InputError
from raylign.geometry import Rigid, View, se3
from raylign.simulation.physics import detector as detectors
from raylign.simulation.physics import exposure
from raylign.simulation.physics.apparatus import Collimator, Detector, Dose, ExposureConfig, Intensifier, Tube
from raylign.simulation.physics.exposure import Exposures, expose, expose_batch
from raylign.simulation.physics.materials import Matter, at_ct
from raylign.simulation.physics.paths import path_lengths
from raylign.simulation.physics.scatter import ScatterConfig
from raylign.simulation.physics.spectrum import spectrum
from raylign.simulation.physics.traversal import traversed
from raylign.simulation.seeds import generator
from raylign.simulation.subject import Subject

NO_SPREAD = Detector(blur_mm=0, glare=0, electronic=0)
BARE = ExposureConfig(detector=NO_SPREAD, scatter=ScatterConfig(0.0), noise="none")  # nothing but the primary beam
CENTRED = Rigid(torch.eye(4, dtype=torch.float64))
BONE_HU = 1000 * (at_ct("bone") / at_ct("water") - 1)


def view(shape: tuple[int, int] = (48, 56), pitch: float = 2.0, **angles: float) -> View:
    return View.from_carm(sid=1200, sod=800, pixel_spacing=pitch, shape=shape, **angles)


def slab(*layers: tuple[float, float], wide: float = 240.0, voxel: float = 4.0) -> Volume:
    """Layers (HU, mm) from front to back around the isocentre, with air on all sides. Thicknesses are multiples of the voxel."""
    n = round(wide / voxel)
    counts = [round(mm / voxel) for _, mm in layers]
    hu = torch.full((n + 4, sum(counts) + 4, n + 4), -1000.0)
    at = 2
    for (value, _), count in zip(layers, counts, strict=True):
        hu[2:-2, at : at + count, 2:-2] = value
        at += count
    affine = torch.diag(torch.tensor([voxel, voxel, voxel, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-(m - 1) / 2 * voxel for m in (n + 4, sum(counts) + 4, n + 4)])
    return Volume(hu, affine, unit="HU")


def batch(body: Volume | Matter, views: list[View], config: ExposureConfig | list[ExposureConfig], **more: object) -> Exposures:
    matter = body if isinstance(body, Matter) else Matter.of(body)
    poses = torch.eye(4, dtype=torch.float64)[None].repeat(len(views), 1, 1)
    return expose_batch([matter], [0] * len(views), views, poses, config, **more)


# -- attenuation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tube", [Tube(60), Tube(90), Tube(120, 3.0, 0.3)])
@pytest.mark.parametrize("layers", [((0.0, 120.0),), ((0.0, 200.0),), ((0.0, 160.0), (BONE_HU, 20.0)), ((BONE_HU, 40.0),)])
def test_water_and_bone_attenuate_as_calculated(tube: Tube, layers: tuple[tuple[float, float], ...]) -> None:
    """Volume to counts, on oblique rays too, within half a percent of the analytic polyenergetic line integral."""
    v = view((5, 41), 3.0)
    config = ExposureConfig(tube=tube, detector=NO_SPREAD, scatter=ScatterConfig(0.0), noise="none")
    rays = v.rays()[1]
    slant = (rays.norm(dim=-1) / (rays @ v.normal))[2].numpy()
    mm = {name: slant * sum(t for hu, t in layers if (hu == 0) == (name == "water")) for name in ("water", "bone")}
    expected = -np.log(spectrum(tube.kv, tube.aluminium_mm, tube.copper_mm).transmission(**mm))
    body = slab(*layers, wide=100.0, voxel=1.0)
    by_renderer = batch(body, [v], config).image[0, 2]
    by_own = expose(body, v, CENTRED, config, generator(0)).xray.image[2]
    for image in (by_renderer, by_own):
        assert np.abs(image.numpy() / expected - 1).max() < 0.005


def test_contrast_agent_attenuates_as_calculated() -> None:
    body = slab((0.0, 40.0), (350.0, 40.0), (0.0, 40.0))
    labels = LabelMap((body.data > 100).to(torch.uint8), body.affine, {1: "aorta"})
    iodine = (0.350 * at_ct("water") - (at_ct("blood") - at_ct("water"))) / at_ct("iodine")
    expected = -math.log(float(spectrum(70).transmission(water=80.0, blood=40.0, iodine=40.0 * iodine)[0]))
    config = ExposureConfig(tube=Tube(70), detector=NO_SPREAD, scatter=ScatterConfig(0.0), noise="none")
    v = view((3, 3), 0.1)
    seen = batch(Matter.of(body, labels), [v], config).image[0, 1, 1]
    own = expose(body, v, CENTRED, config, generator(0), labels=labels).xray.image[1, 1]
    as_bone = batch(body, [v], config).image[0, 1, 1]
    assert float(seen) == pytest.approx(expected, rel=0.005)
    assert float(own) == pytest.approx(expected, rel=0.01)  # where the agent ends, half a voxel of it is blood
    assert abs(float(as_bone) / expected - 1) > 0.01


def test_a_subject_brings_its_labels() -> None:
    body = slab((350.0, 60.0))
    labels = LabelMap((body.data > 100).to(torch.uint8), body.affine, {1: "heart_ventricle_left"})
    subject = Subject(body, labels, Landmarks((), torch.zeros(0, 3, dtype=torch.float64)))
    v = view((4, 6))
    named, given, bare = (
        expose(patient, v, CENTRED, BARE, generator(0), labels=more).counts
        for patient, more in ((subject, None), (body, labels), (body, None))
    )
    assert torch.equal(named, given) and not torch.equal(named, bare)


def test_instruments_add_to_the_patient() -> None:
    v = view((4, 6))
    mm = torch.zeros(1, 4, 6)
    mm[0, 1, 2], mm[0, 2, 3] = 0.9, 30.0
    e = batch(slab((0.0, 100.0)), [v], BARE, extra={"steel": mm, "water": 10 * mm})
    plain = batch(slab((0.0, 100.0)), [v], BARE)
    rays = v.rays()[1]
    slant = float((rays.norm(dim=-1) / (rays @ v.normal))[1, 2])
    through = spectrum(90).transmission(water=100 * slant + 9.0, steel=0.9)
    assert float(e.image[0, 1, 2]) == pytest.approx(-math.log(float(through[0])), rel=0.005)
    assert torch.equal(e.image[mm == 0], plain.image[mm == 0])
    assert not bool(e.valid[0, 2, 3])  # behind 30 mm steel nothing is counted
    assert bool(e.valid[0, 1, 2])


def test_a_pixel_adds_up_intensities_not_line_integrals() -> None:
    """Half of each pixel behind steel: the mean of the intensities, far from the mean of the line integrals."""
    v = view((4, 4), 1.0)
    mm = torch.zeros(1, 8, 8)
    mm[..., ::2] = 3.0
    config = ExposureConfig(detector=NO_SPREAD, scatter=ScatterConfig(0.0), noise="none", rays=2)
    air = slab((-1000.0, 20.0))
    e = batch(air, [v], config, extra={"steel": mm})
    half = 0.5 * (1 + float(spectrum(90).transmission(steel=3.0)[0]))
    assert torch.allclose(e.image, torch.full_like(e.image, -math.log(half)), atol=0.004)


# -- the two integrators -----------------------------------------------------------------------------------------------


def lump() -> Volume:
    z, y, x = np.mgrid[-30:31, -25:26, -28:29] * 3.0
    inside = np.exp(-((x - 20) ** 2 + (y + 10) ** 2 + z**2) / 50**2)
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-84.0, -75.0, -90.0])
    return Volume(torch.tensor(1600 * inside - 1000), affine, unit="HU")


def test_two_integrators_agree() -> None:
    """Decomposed before interpolation or after it, at planes of voxels or at random depths; attenuation at 70 keV is one."""
    body, pose = lump(), Rigid(se3.exp(torch.tensor([0.2, -0.1, 0.3, 12.0, -8.0, 15.0], dtype=torch.float64)))
    v = view(primary=25, secondary=-10)
    ours = traversed([Matter.of(body)], [0], v.ray_vectors[None], pose.matrix[None], v.shape)
    own = path_lengths(body, v, pose, generator(1))
    a, b = (sum(at_ct(name) * mm for name, mm in paths.items()) for paths in (ours, own))
    assert {"lung", "adipose", "soft", "bone"} <= set(own)
    assert float(b.max()) > 1
    assert float((a[0] - b).abs().max()) < 0.01 * float(b.max())
    rendered = project(body, v, pose.matrix)[0, 0]  # the renderer's HU model has two segments only
    assert float((a[0] - rendered).abs().max()) < 0.02 * float(rendered.max())


def test_padding_beside_tissue_takes_nothing_from_it() -> None:
    """Numbers below any that a scanner measures stand for what was not reconstructed: air, like -1000."""
    body = lump()
    air = torch.zeros(body.data.shape, dtype=torch.bool)
    air[:, :, : body.data.shape[2] // 2] = True
    padded = replace(body, data=torch.where(air, torch.full_like(body.data, -2048.0), body.data))
    plain = replace(body, data=torch.where(air, torch.full_like(body.data, -1000.0), body.data))
    v = view(primary=25, secondary=-10)
    ours, same = (path_lengths(x, v, CENTRED, generator(1)) for x in (padded, plain))
    for name, mm in same.items():
        assert torch.equal(ours[name], mm)


@pytest.mark.parametrize("angles", [(0.0, 0.0), (80.0, 5.0), (20.0, 70.0)])
def test_water_and_bone_in_one_pass_are_those_of_the_projector(angles: tuple[float, float]) -> None:
    """Along each axis in turn; two bytes a number err by parts in a hundred thousand."""
    body = Matter.of(lump())
    v = view((33, 47), 5.0, primary=angles[0], secondary=angles[1])
    paths = traversed([body], [0], v.ray_vectors[None], CENTRED.matrix[None], v.shape)
    for name in ("water", "bone"):
        alone = project(Volume(body.amounts[name], body.affine, unit="1/mm"), v, model="joseph")[0, 0]
        assert float((paths[name][0] - alone).abs().max()) < 1e-4 * float(alone.abs().max())


def test_an_exposure_of_either_kind_agrees() -> None:
    body, v = lump(), view(primary=10)
    one = batch(body, [v], BARE)
    other = expose(body, v, CENTRED, BARE, generator(1))
    difference = one.image[0] - other.xray.image
    assert float(difference.square().mean().sqrt()) < 0.005 * float(other.xray.image.square().mean().sqrt())


def test_several_patients_in_one_batch() -> None:
    a, b = Matter.of(slab((0.0, 100.0))), Matter.of(slab((BONE_HU, 40.0), (3071.0, 4.0)))
    v, poses = view((6, 8), 4.0), torch.eye(4, dtype=torch.float64)[None].repeat(3, 1, 1)
    e = expose_batch([a, b], torch.tensor([1, 0, 1]), [v] * 3, poses, BARE)
    assert torch.equal(e.counts[0], e.counts[2])
    assert torch.equal(e.counts[1], batch(a, [v], BARE).counts[0])
    assert torch.equal(e.counts[0], batch(b, [v], BARE).counts[0])


# -- noise -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["moments", "compound"])
@pytest.mark.parametrize("photons", [12.0, 300.0, 8000.0])
@pytest.mark.parametrize("mm", [0.0, 120.0])
def test_noise_variance_is_that_of_the_dose(noise: str, photons: float, mm: float) -> None:
    """Energy-integrating: mean sum w N, variance sum w^2 N over the beam's energies, N Poisson. 40 seeds, 900 pixels."""
    v = View.from_carm(sid=1200, sod=800, pixel_spacing=0.02, shape=(30, 30))
    body = slab((0.0, mm)) if mm else slab((-1000.0, 20.0))
    wide = replace(NO_SPREAD, full_scale=4.0)  # the open beam's noise is not cut off
    config = ExposureConfig(dose=Dose(photons, "open"), detector=wide, scatter=ScatterConfig(0.0), noise=noise)
    e = batch(body, [v] * 40, config, generators=[generator(s) for s in range(40)])
    signal = e.counts.double() / e.open_beam.double()[:, None, None]
    beam = spectrum(config.tube.kv)
    through = beam.photons * np.exp(-mm * beam.attenuation("water"))
    mean, variance = float((beam.weight * through).sum()), float((beam.weight**2 * through).sum()) / photons
    assert float(signal.mean()) == pytest.approx(mean, rel=5 * math.sqrt(variance / 36000) / mean + 0.004)
    # 36,000 pixels know a variance to 0.75 percent; few photons have a longer tail
    assert float(signal.var()) == pytest.approx(variance, rel=0.04)


def test_the_median_pixel_gets_the_photons_asked_for() -> None:
    v = view((64, 64), 0.5)
    for photons in (500.0, 2000.0):
        config = ExposureConfig(dose=Dose(photons), detector=NO_SPREAD, scatter=ScatterConfig(0.0))
        counts = batch(slab((0.0, 120.0)), [v], config).counts.double()
        # signal-to-noise squared counts photons, less the few percent by which their energies differ
        assert 0.85 * photons < float(counts.mean() / counts.std()) ** 2 < 1.03 * photons


def test_exposure_control_raises_the_beam_behind_a_thicker_patient() -> None:
    v = view((16, 16), 1.0)
    thin, thick = (float(batch(slab((0.0, mm)), [v], BARE).photons[0]) for mm in (80.0, 160.0))
    fixed = [float(batch(slab((0.0, mm)), [v], ExposureConfig(dose=Dose(900.0, "open"))).photons[0]) for mm in (80.0, 160.0)]
    area = [
        float(batch(slab((0.0, 80.0)), [view((16, 16), p)], replace(BARE, dose=Dose(100.0, per="mm2"))).photons[0])
        for p in (0.5, 2)
    ]
    assert area[1] == pytest.approx(16 * area[0], rel=0.01)
    assert thick > 4 * thin
    assert fixed == [900.0, 900.0]


def test_scatter_adds_light_and_its_noise() -> None:
    body, v = slab((0.0, 200.0)), view((64, 64), 4.0)
    with_it = ExposureConfig(detector=NO_SPREAD, dose=Dose(1e6, "open"), scatter=ScatterConfig(1.0))
    e = batch(body, [v], with_it)
    bare = batch(body, [v], BARE)
    assert torch.equal(e.primary, bare.primary)
    middle = e.counts[0, 24:40, 24:40].double() / float(e.open_beam[0])
    expected = (e.primary + e.scatter)[0, 24:40, 24:40].double()
    assert float(middle.mean()) == pytest.approx(float(expected.mean()), rel=0.002)
    assert float((e.scatter / e.primary)[0, 32, 32]) > 0.3
    variance = float((middle - expected).var())
    assert variance == pytest.approx(float(expected.mean()) / 1e6, rel=0.35)  # 256 pixels; photons are worth about one each


def test_blur_and_glare_have_the_stated_transfer() -> None:
    """A sharp edge of lead: behind it the light that has spread, before it what is missing; symmetric, and no light is lost."""
    v = view((64, 96), 0.2)
    mm = torch.zeros(1, 64, 96)
    mm[..., :48] = 50.0
    sharp = Detector(blur_mm=0.4, glare=0.0, electronic=0, full_scale=2)
    hazy = Detector(blur_mm=0.0, glare=0.2, glare_mm=0.8, electronic=0, full_scale=2)
    from scipy.special import erf, k0

    x = (np.arange(96) - 47.5) * 0.2
    for detector, spread in ((sharp, 0.5 * (1 + erf(x / (0.4 * math.sqrt(2))))), (hazy, None)):
        config = ExposureConfig(detector=detector, scatter=ScatterConfig(0.0), noise="none")
        e = batch(slab((-1000.0, 20.0)), [v], config, extra={"lead": mm})
        edge = (e.counts[0, 32].double() / float(e.open_beam[0])).numpy()
        if spread is None:
            # exp(-r/k)/(2 pi k r) seen as a line is K0(|x|/k)/(pi k)
            fine = (np.arange(-4800, 4801) + 0.5) * 0.002
            line = k0(np.abs(fine) / 0.8) / (np.pi * 0.8)
            step = np.interp(x, fine, np.cumsum(line) * 0.002)
            spread = 0.8 * (x > 0) + 0.2 * step
        assert np.abs(edge - spread)[8:-8].max() < 0.015


def test_blur_correlates_the_noise_as_its_transfer_says() -> None:
    """Noise power is the square of the modulation transfer."""
    v, width = view((96, 96), 0.5), 0.4
    config = ExposureConfig(detector=Detector(blur_mm=width, glare=0, electronic=0), dose=Dose(1e5), scatter=ScatterConfig(0.0))
    e = batch(slab((0.0, 100.0)), [v] * 8, config, generators=[generator(s) for s in range(8)])
    noise = e.counts.double() - e.counts.double().mean(0)
    power = torch.fft.rfft(noise, dim=-1).abs().square().mean((0, 1)).numpy()
    f = np.fft.rfftfreq(96, 0.5)
    expected = np.exp(-4 * (np.pi * width * f) ** 2)
    assert np.abs(power[1:] / power[1:6].mean() * expected[1:6].mean() - expected[1:]).max() < 0.12


# -- detector and collimator -------------------------------------------------------------------------------------------


def test_the_image_is_the_logarithm_of_the_counts() -> None:
    e = expose(slab((0.0, 120.0)), view(), CENTRED, ExposureConfig(detector=Detector(bits=12)), generator(4))
    counts = e.counts.double()
    assert float(counts.max()) < 4096
    assert torch.allclose(e.xray.image.double(), -torch.log(counts / e.xray.meta["open_beam_counts"]), atol=1e-6)
    assert e.xray.scale == "line-integral"


def test_a_bare_beam_saturates_where_the_scale_ends_below_it() -> None:
    v = view((32, 64), 8.0)  # beyond the slab there is air
    config = ExposureConfig(detector=Detector(full_scale=0.4, bits=10))
    e = batch(slab((0.0, 120.0), wide=120.0), [v], config)
    assert int(e.counts.max()) == 1023
    assert not bool(e.valid[0, 16, 2]) and bool(e.valid[0, 16, 32])


def test_the_mask_is_the_field() -> None:
    v = view((80, 100), 1.0)
    e = expose(slab((0.0, 120.0)), v, CENTRED, ExposureConfig(collimator=Collimator.round(0.8)), generator(4))
    y, x = np.ogrid[:80, :100]
    r = np.hypot(y - 39.5, x - 49.5)
    mask = e.xray.mask.numpy()
    assert mask[r < 28].all() and not mask[r > 32].any()
    counts = e.counts.double().numpy()
    assert counts[r > 35].mean() < 0.6 * counts[r < 28].mean()


def test_flat_field_correction_divides_the_heel_effect_out_and_leaves_its_noise() -> None:
    v = view((96, 64), 3.0)
    body = slab((0.0, 100.0), wide=400.0)
    tube = Tube(heel=0.15, falloff=True)
    raw, corrected, plain = (
        batch(body, [v], ExposureConfig(tube=t, detector=Detector(blur_mm=0, glare=0, electronic=0, flat_field=f),
                                        scatter=ScatterConfig(0.0), noise="none")).image[0]
        for t, f in ((tube, False), (tube, True), (Tube(), True))
    )  # fmt: skip
    assert torch.allclose(corrected, plain, atol=0.005)
    # the anode is at the top: darker there
    assert float(raw[2, 32] - plain[2, 32]) > 0.1 > float(raw[93, 32] - plain[93, 32])


def test_an_image_intensifier_is_calibrated_as_it_sees() -> None:
    v = view((96, 96), 3.0)
    config = ExposureConfig(
        tube=Tube(heel=0.2, falloff=True), detector=Detector(blur_mm=0, glare=0, electronic=0), scatter=ScatterConfig(0.0),
        noise="none", intensifier=Intensifier(),
    )  # fmt: skip
    air = batch(slab((-1000.0, 40.0), wide=100.0), [v], config)
    assert float((air.image[0]).abs().max()) < 2e-3


@pytest.mark.parametrize("pitch", [0.2, 1.0])
def test_light_does_not_come_round_from_the_other_side(pitch: float) -> None:
    """A dark half beside a bright one: far from the edge, glare of the bright one is gone."""
    signal = torch.full((1, 8, 512), 0.01)
    signal[..., 256:] = 1.0
    out = detectors.spread(signal, [Detector()], torch.tensor([[pitch, pitch]]))[0, 4]
    far = 256 * pitch / 15  # reaches of glare from the edge
    assert float(out[0]) == pytest.approx(0.01 + 0.03 * math.exp(-far) / 2, abs=4e-4)
    assert float(out[-1]) == pytest.approx(1.0, abs=0.03 * math.exp(-far) + 4e-4)


@pytest.mark.parametrize("count", [6, 25])
def test_a_scan_ends_where_its_voxels_do(count: int) -> None:
    """Water that fills the grid to its faces: n voxels are n long for both integrators."""
    affine = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-118.0, -2.0 * (count - 1), -118.0])
    body, v = Volume(torch.zeros(60, count, 60), affine, unit="HU"), view((3, 3), 2.0)
    expected = -np.log(spectrum(90.0).transmission(water=4.0 * count))
    for image in (batch(body, [v], BARE).image[0], expose(body, v, CENTRED, BARE, generator(0)).xray.image):
        assert float(image[1, 1]) == pytest.approx(float(np.squeeze(expected)), rel=0.005)


def test_an_exposure_that_shows_nothing_is_refused() -> None:
    blind = replace(BARE, detector=replace(NO_SPREAD, full_scale=0.5))
    with pytest.raises(InputError, match="full_scale"):
        expose(slab((-1000.0, 40.0), wide=100.0), view((8, 8)), CENTRED, blind, generator(0))


# -- reproducibility ---------------------------------------------------------------------------------------------------


def everything() -> tuple[list[Matter], list[View], torch.Tensor, list[ExposureConfig]]:
    g = generator(8)
    hu = torch.nn.functional.interpolate(600 * torch.randn(1, 1, 6, 5, 6, generator=g), size=(40, 36, 40), mode="trilinear")[0, 0]
    affine = torch.diag(torch.tensor([6.0, 6.0, 6.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = -110
    hu[10:12, 10, 10] = 3071
    labels = LabelMap((hu > 250).to(torch.uint8), affine, {1: "aorta"})
    volume = Volume(hu, affine, unit="HU")
    configs = [
        ExposureConfig(
            tube=Tube(70.0 + i, copper_mm=0.1 * (i % 3), heel=0.1 * (i % 2)),
            collimator=Collimator.rectangle(0.9, 0.8, 5.0 * i) if i % 2 else None,
            detector=Detector(gain=0.01 * (i == 2), glare=0.05 * (i != 4), blur_mm=0.2 * (i != 4), electronic=3.0 * (i != 3)),
            dose=Dose(2000.0, "open" if i == 1 else "patient"),
            scatter=ScatterConfig(float(i != 0)),
            intensifier=Intensifier() if i == 3 else None,
        )
        for i in range(5)
    ]
    views = [view((60, 64), 3.0, primary=15.0 * i) for i in range(5)]
    poses = se3.exp(0.1 * torch.randn(5, 6, generator=g, dtype=torch.float64))
    return [Matter.of(volume), Matter.of(volume, labels)], views, poses, configs


def shot(rows: list[int]) -> Exposures:
    matters, views, poses, configs = everything()
    chosen = [views[i] for i in rows], poses[rows], [configs[i] for i in rows], [generator(3, i) for i in rows]
    return expose_batch(matters, [i % 2 for i in rows], *chosen)


def test_one_seed_one_exposure_alone_or_in_any_batch_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit."""
    whole = shot([0, 1, 2, 3, 4])
    monkeypatch.setenv("RAYLIGN_THREADS", "3")
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        again, alone, some = shot([0, 1, 2, 3, 4]), [shot([i]) for i in range(5)], shot([4, 2, 3])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(whole.counts, again.counts) and torch.equal(whole.image, again.image)
    for i in range(5):
        assert torch.equal(whole.counts[i], alone[i].counts[0]), i
        assert torch.equal(whole.valid[i], alone[i].valid[0]), i
    assert torch.equal(whole.counts[[4, 2, 3]], some.counts)


def test_another_seed_gives_another_exposure() -> None:
    v = view()
    a, b, c = (expose(slab((0.0, 120.0)), v, CENTRED, None, generator(s)).counts for s in (5, 5, 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_everything_happens_on_the_patients_device() -> None:
    """The meta device computes nothing and refuses to be mixed with another: it stands for an accelerator."""
    _, views, poses, configs = everything()
    quiet = [replace(c, noise="none", dose=Dose(900.0, "open")) for c in configs]
    paths = {name: torch.zeros(5, 60, 64, device="meta") for name in ("water", "bone", "steel")}
    e = exposure._developed(paths, views, quiet, generator(0), exposure._Patients(poses, torch.zeros(5, 3, dtype=torch.float64)))
    assert {t.device.type for t in (e.image, e.valid, e.counts, e.primary, e.scatter, e.photons, e.open_beam)} == {"meta"}


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_batches_that_do_not_fit_together_are_refused() -> None:
    matter, v, poses = Matter.of(slab((0.0, 40.0))), view((4, 4)), torch.eye(4, dtype=torch.float64)[None]
    refused: list[tuple[str, tuple]] = [
        ("index", ([0, 0], [v], poses, BARE)),
        ("poses", ([0], [v], poses.repeat(2, 1, 1), BARE)),
        ("configs", ([0], [v], poses, [BARE, BARE])),
        ("generators", ([0], [v], poses, BARE, [generator(0), generator(1)])),
        ("index", ([1], [v], poses, BARE)),
        ("rays", ([0, 0], [v, v], poses.repeat(2, 1, 1), [BARE, ExposureConfig(rays=2)])),
        ("noise", ([0, 0], [v, v], poses.repeat(2, 1, 1), [BARE, ExposureConfig()])),
        ("extra", ([0], [v], poses, BARE, None, {"steel": torch.zeros(1, 5, 4)})),
        ("unobtainium", ([0], [v], poses, BARE, None, {"unobtainium": torch.zeros(1, 4, 4)})),
    ]
    for words, arguments in refused:
        with pytest.raises(InputError, match=words):
            expose_batch([matter], *arguments)
    with pytest.raises(InputError, match="HU"):
        expose(Volume(torch.zeros(4, 4, 4), torch.eye(4), unit="1/mm"), v, CENTRED)
    parallel = View.from_parallel(primary=0.0, secondary=0.0, pixel_spacing=1.0, shape=(4, 4))
    with pytest.raises(InputError, match="parallel"):
        expose(slab((0.0, 40.0)), parallel, CENTRED)
