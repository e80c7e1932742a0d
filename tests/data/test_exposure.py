"""Counts to line integrals, and the valid field: round, rectangular, turned, blurred, scattered into, written over."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from raylign import InputError
from raylign.data.exposure import Encoding, to_line_integrals
from raylign.data.field import validity_mask

N = 512
ROW, COLUMN = np.mgrid[:N, :N]


def body(density: float) -> np.ndarray:
    """Mean counts behind something like a trunk with a spine, open field at its sides."""
    y, x = ROW / N - 0.5, COLUMN / N - 0.5
    thick = density * np.exp(-((x / 0.25) ** 2)) * (1 + 0.2 * np.sin(20 * y)) + (np.abs(x - 0.1 * np.sin(9 * y)) < 0.05) + 0.5
    return 40000 * np.exp(-thick)


def exposed(density: float, aperture: np.ndarray, blur: float, scatter: float) -> torch.Tensor:
    counts = body(density)
    edge = ndimage.gaussian_filter(aperture.astype(float), blur) if blur else aperture.astype(float)
    mean = counts * (0.002 + 0.998 * edge) + scatter * ndimage.gaussian_filter(counts * aperture, 40)
    return torch.from_numpy(np.random.default_rng(5).poisson(mean).clip(0, 65535).astype(np.float32))


def turned(angle: float) -> tuple[np.ndarray, np.ndarray]:
    a = math.radians(angle)
    x, y = COLUMN - 256, ROW - 256
    return x * math.cos(a) + y * math.sin(a), -x * math.sin(a) + y * math.cos(a)


APERTURES = {
    "full": np.ones((N, N), bool),
    "circle": (COLUMN - 256) ** 2 + (ROW - 250) ** 2 < 230**2,
    "circle cut by the border": (COLUMN - 256) ** 2 + (ROW - 256) ** 2 < 300**2,
    "rectangle": (abs(COLUMN - 250) < 180) & (abs(ROW - 260) < 220),
    "turned rectangle": (abs(turned(12)[0]) < 170) & (abs(turned(12)[1]) < 210),
    "octagon": (abs(COLUMN - 250) < 180) & (abs(ROW - 260) < 220) & (abs(COLUMN - 250) + abs(ROW - 260) < 320),
    "one blade": COLUMN > 70,
}
LIN = Encoding("LIN", 1, 65535.0)


@pytest.mark.parametrize(("blur", "scatter"), [(0.0, 0.0), (2.0, 0.1), (4.0, 0.3)])
@pytest.mark.parametrize("name", APERTURES)
def test_the_collimated_field_is_found(name: str, blur: float, scatter: float) -> None:
    aperture = APERTURES[name]
    mask = validity_mask(exposed(2.0, aperture, blur, scatter), LIN).numpy()
    if name == "full":
        assert mask.all()
        return
    assert not (mask & ~aperture).any()
    assert (mask & aperture).sum() > 0.9 * aperture.sum()
    # where the blurred edge still costs a fifth of the intensity or more, nothing is valid
    edge = ndimage.gaussian_filter(aperture.astype(float), blur) if blur else aperture
    assert not (mask & (edge < 0.8)).any()


@pytest.mark.parametrize("name", ["circle", "rectangle", "turned rectangle"])
def test_dense_tissue_at_the_edge(name: str) -> None:
    aperture = APERTURES[name]
    mask = validity_mask(exposed(4.0, aperture, 2.0, 0.05), LIN).numpy()
    assert not (mask & ~aperture).any() and (mask & aperture).sum() > 0.93 * aperture.sum()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("relationship", ["LIN", "LOG", "DISP"])
def test_every_encoding(relationship: str, sign: int) -> None:
    counts = exposed(2.0, APERTURES["circle"], 1.0, 0.05)
    stored, top = {
        "LIN": (counts, 65535.0),
        "LOG": ((torch.log(counts + 1) * 350).round(), 4095.0),
        "DISP": (((counts / 40000).clamp(0, 0.999) ** 0.5 * 255).round(), 255.0),
    }[relationship]
    stored = stored if sign > 0 else top - stored
    encoding = Encoding(relationship, sign, top)  # type: ignore[arg-type]
    mask = validity_mask(stored, encoding)
    aperture = torch.from_numpy(APERTURES["circle"])
    assert not bool((mask & ~aperture).any()) and float((mask & aperture).sum() / aperture.sum()) > 0.9
    image, scale = to_line_integrals(stored, encoding, mask)
    assert scale == ("monotone" if relationship == "DISP" else "line-integral")
    truth = -torch.log(counts)
    ranks = [np.argsort(np.argsort(v[mask].numpy())) for v in (image, truth)]
    assert np.corrcoef(*ranks)[0, 1] > 0.98  # more attenuation is a larger value


def test_line_integrals_are_those_of_the_rays() -> None:
    thickness = torch.linspace(0, 6, N * N).reshape(N, N).clamp_min(0.5) - 0.5
    image, scale = to_line_integrals(30000 * torch.exp(-thickness), LIN)
    assert scale == "line-integral" and torch.allclose(image, thickness, atol=2e-3)
    # a logarithmic detector knows no scale but the same order and linearity
    image, _ = to_line_integrals((4000 - 500 * thickness).round(), Encoding("LOG", 1, 4095))
    assert torch.allclose(image / 500, thickness, atol=2e-3)


def test_metal_clipped_counts_and_text_are_out() -> None:
    counts = exposed(2.0, APERTURES["full"], 0.0, 0.0)
    plate, letter = np.zeros((N, N), bool), np.zeros((N, N), bool)
    plate[200:220, 100:160] = True
    letter[20:40, 30:33] = letter[20:23, 30:45] = letter[30:33, 30:42] = True
    written = counts.clone()
    written[torch.from_numpy(plate)] = 0
    written[torch.from_numpy(letter)] = 65000  # brighter than all else, not at the end of the range
    mask = validity_mask(written, LIN).numpy()
    assert not mask[plate].any() and not mask[letter].any()
    around = ndimage.binary_dilation(plate | letter, iterations=5)
    assert mask[~around].all()
    clipped = counts.clamp_max(20000)
    mask = validity_mask(clipped, Encoding("LIN", 1, 20000.0)).numpy()
    assert mask.all()  # direct exposure clipped at the top says that there is nothing but air; metal without counts says nothing


def test_a_noiseless_open_field_is_not_text() -> None:
    thick = np.sqrt(np.clip(120.0**2 - (ROW - 256) ** 2 - (COLUMN - 256) ** 2, 0, None)) / 50
    assert bool(validity_mask(torch.from_numpy(np.round(50000 * np.exp(-thick)).astype(np.float32)), LIN).all())


def test_blank_images_are_refused() -> None:
    with pytest.raises(InputError, match="all black"):
        validity_mask(torch.zeros(32, 32), LIN)
    with pytest.raises(InputError, match="blank: every pixel is 7"):
        to_line_integrals(torch.full((32, 32), 7.0), LIN)
    with pytest.raises(InputError, match="NaN"):
        to_line_integrals(torch.tensor([[1.0, math.nan], [2.0, 3.0]]), LIN)
    with pytest.raises(InputError, match="nowhere positive"):
        to_line_integrals(-torch.rand(32, 32), LIN)


def test_small_images_have_masks_too() -> None:
    assert bool(validity_mask(torch.rand(4, 3) + 1, Encoding("LIN", 1, 10.0)).all())


def test_a_real_intensifier(shared: Path) -> None:
    """Real 8-bit display values: black outside the round field."""
    image_module = pytest.importorskip("PIL.Image")
    files = sorted((shared / "xray" / "wrist_biplane").glob("cam*/*0002.tif"))
    if not files:
        pytest.skip("the wrist X-rays are not on this machine")
    for path in files:
        stored = torch.from_numpy(np.asarray(image_module.open(path)).astype(np.float32))
        mask = validity_mask(stored, Encoding("DISP", 1, 255.0))
        assert not bool(mask[stored == 0].any())
        assert not bool(mask[:80, :80].any()) and 0.6 < float(mask.float().mean()) < 0.79  # a disc in a square covers 0.785
