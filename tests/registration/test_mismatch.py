"""Where scan and exposure differ: the scanner's table, blades that are not there, metal, screens, a table under the patient."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from raylign.data import Volume, XRay
from raylign.data.body import without_table
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.data.field import validity_mask
from raylign.registration import register
from tests.registration import scene

N = 512
ROW, COLUMN = np.mgrid[:N, :N]


def lying(gap: float, unit: str = "HU", shell: bool = True, turned: bool = False) -> tuple[Volume, torch.Tensor]:
    """A trunk with an arm at its side, and a curved couch ``gap`` mm below it; which voxels are the couch's shells."""
    x, y = torch.meshgrid(torch.arange(-200, 200, 2.0), torch.arange(-120, 160, 2.0), indexing="xy")
    z = torch.arange(-60, 60, 3.0)[:, None, None]
    swell = 1 + 0.06 * torch.sin(z / 25)
    hu = torch.full((len(z), *x.shape), -1000.0)
    hu[((x / 130) ** 2 + (y / 85) ** 2)[None] < swell] = 30.0
    hu[(((x + 45) / 45) ** 2 + (y / 55) ** 2)[None].expand_as(hu) < 1] = -850.0  # a lung
    hu[((x - 165)[None] - 10 * torch.sin(z / 20)) ** 2 + (y - 20)[None] ** 2 < 25**2] = 20.0
    lowest = 85 * math.sqrt(1.06)
    down = y + 0.0004 * x**2 - lowest - gap
    couch = ((down.abs() < 1.5) | ((down - 30).abs() < 1.5)) & (x.abs() < 170)
    foam = (down > 1.5) & (down < 28.5) & (x.abs() < 170)
    if shell:
        hu[:, foam] = -940.0
        hu[:, couch] = 180.0
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    if turned:
        angle = math.radians(20)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
        affine[1:3, 1:3] = turn @ affine[1:3, 1:3]
    volume = Volume(hu, affine, "HU")
    shells = couch.expand_as(hu)
    return (volume if unit == "HU" else volume.attenuation()), shells


@pytest.mark.parametrize("unit", ["HU", "1/mm"])
def test_a_table_apart_from_the_body_is_taken_out(unit: str) -> None:
    volume, shells = lying(8.0, unit)
    done = without_table(volume)
    assert done.removed is not None and "taken out" in done.words
    assert float(done.removed[shells].float().mean()) > 0.97
    patient = lying(8.0, unit, shell=False)[0].data
    assert torch.equal(
        done.volume.data[patient > patient.min()], patient[patient > patient.min()]
    )  # arm, trunk and lung are whole
    assert float((done.volume.data - patient).abs().gt(100 if unit == "HU" else 2e-3).float().mean()) < 1e-3
    assert done.volume.unit == unit and torch.equal(done.volume.affine, volume.affine)


def test_what_is_not_clearly_a_table_stays() -> None:
    for volume, words in (
        (lying(-1.0)[0], "lies against the body"),
        (lying(8.0, shell=False)[0], "no table"),
        (lying(8.0, turned=True)[0], "no axis"),
        (replace(lying(8.0)[0], unit="raw"), "neither HU nor"),
    ):
        done = without_table(volume)
        assert words in done.words and done.removed is None and done.volume is volume


def test_a_patient_without_a_table_keeps_every_voxel() -> None:
    assert without_table(scene.chest()).removed is None


def test_a_real_scan_loses_its_table_and_nothing_of_the_patient(shared) -> None:  # type: ignore[no-untyped-def]
    import raylign
    from raylign.io.labels import read_labels

    volume = raylign.read_volume(shared / "ct" / "lidc0001_chest")
    done = without_table(volume)
    labels = read_labels(shared / "ct" / "lidc0001_chest_seg.nii.gz")
    assert done.removed is not None
    inside = torch.as_tensor(labels.data != 0)
    assert inside.shape == done.removed.shape and not bool((inside & done.removed).any())
    gone = volume.data[done.removed]
    assert int((gone > -300).sum()) > 50_000  # the shells, not air alone


# -- blades ----------------------------------------------------------------------------------------------------------


def shone(aperture: np.ndarray, thickness: np.ndarray, scatter: float = 0.08, blur: float = 1.5) -> torch.Tensor:
    """Counts behind ``thickness`` (natural logarithms) within an aperture."""
    counts = 40000 * np.exp(-thickness)
    edge = ndimage.gaussian_filter(aperture.astype(float), blur)
    mean = counts * (0.002 + 0.998 * edge) + scatter * ndimage.gaussian_filter(counts * aperture, 40)
    return torch.from_numpy(np.random.default_rng(2).poisson(mean).clip(0, 65535).astype(np.float32))


def ramp(distance: np.ndarray, width: float = 3.0) -> np.ndarray:
    return np.clip(distance / width + 0.5, 0, 1)


ROUND = (COLUMN - 256) ** 2 + (ROW - 256) ** 2 < 245**2
LUNGS = 1.2 + 0.15 * np.sin(ROW / 23) * np.cos(COLUMN / 31)
DOMES = ROW - 385 - 22 * np.cos(COLUMN / 60)
SPINE = COLUMN - 240 - 0.05 * ROW
FLANK = COLUMN - 380 - 18 * np.sin(ROW / 80)
PATIENTS = {
    "the dense lower border of a chest": (ROUND, LUNGS + 1.3 * ramp(DOMES, 5)),
    "the edge of a spine beside one real blade": (
        ROW < 400 + 0.03 * COLUMN,
        LUNGS + 0.6 * ramp(SPINE) + 0.4 * ramp(ROW - 300, 60) - 0.9 * ramp(COLUMN - 350, 20) * ramp(170 - ROW, 20),
    ),
    "a flank, air beyond it, and two blades": (
        (ROW > 60) & (COLUMN > 70),
        np.where(FLANK > 60, 0.1, LUNGS + 1.2 * ramp(FLANK, 5)),
    ),
    "no blade at all": (np.ones((N, N), bool), LUNGS + 1.3 * ramp(DOMES, 5)),
}


@pytest.mark.parametrize("name", PATIENTS)
def test_edges_of_the_patient_are_no_blades(name: str) -> None:
    aperture, thickness = PATIENTS[name]
    mask = validity_mask(shone(aperture, thickness), Encoding("LIN", 1, 65535.0)).numpy()
    assert not (mask & ~aperture).any()
    assert (mask & aperture).sum() > 0.92 * aperture.sum()


# -- registration ----------------------------------------------------------------------------------------------------


def read(stored: torch.Tensor, encoding: Encoding, like: XRay) -> XRay:
    mask = validity_mask(stored, encoding)
    image, scale = to_line_integrals(stored, encoding, mask)
    return XRay(image, like.view, mask, scale)


def counts() -> torch.Tensor:
    return (60000 * torch.exp(-scene.exposure().image)).round().clamp(0, 65535)


def with_metal_and_text(values: torch.Tensor) -> torch.Tensor:
    out = values.clone()
    out[90:101, 40:130] = 0  # a plate through which nothing passes
    out[6:12, 60:62] = out[6:8, 60:68] = 65535
    return out


def equalised(values: torch.Tensor) -> torch.Tensor:
    """Ranks: the steepest display curve there is, eight bits."""
    ranks = torch.empty(values.numel())
    ranks[values.flatten().argsort(stable=True)] = torch.arange(values.numel(), dtype=torch.float32)
    return (255 * ranks / values.numel()).floor().reshape(values.shape)


def windowed(values: torch.Tensor) -> torch.Tensor:
    """Half of the grey values lie flat at the ends."""
    grey = values.log1p()
    low, high = grey.flatten().quantile(0.35), grey.flatten().quantile(0.85)
    return (255 - 255 * ((grey - low) / (high - low)).clamp(0, 1)).round()


EXPOSURES = {
    "metal and text": (with_metal_and_text, Encoding("LIN", 1, 65535.0)),
    "an equalised histogram": (equalised, Encoding("DISP", 1, 255.0)),
    "both ends clipped, inverted": (windowed, Encoding("DISP", -1, 255.0)),
}


@pytest.mark.parametrize("name", EXPOSURES)
def test_registration_does_not_mind(name: str) -> None:
    change, encoding = EXPOSURES[name]
    xray = read(change(counts()), encoding, scene.exposure())
    result = register(scene.chest(), xray, init=scene.centre_start())
    assert scene.error(result.transform) < 3.0
