from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raylign import InputError
from raylign.evaluation import gather, overlay, pictures
from tests.evaluation import scene


def test_bone_is_bright_unless_asked_otherwise() -> None:
    image = scene.disc(45, 60, 25)
    bright, dark = overlay.grey(image), overlay.grey(image, bone="dark")
    assert bright.shape == (90, 120, 3) and bright.dtype == np.uint8
    assert bright[45, 60].min() > 200 > 60 > bright[5, 5].max()
    assert (bright.astype(int) + dark == 255).all()


def test_the_window_ignores_what_the_mask_excludes() -> None:
    image = scene.disc(45, 60, 25)
    image[:, :10] = 1e6
    mask = torch.ones(90, 120, dtype=torch.bool)
    mask[:, :10] = False
    assert overlay.window(image, mask)[1] < 2
    picture = overlay.grey(image, mask)
    assert picture[:, :10].max() < 60 < picture[45, 60].min()


def test_flat_and_broken_images_are_shown_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    flat = np.full((40, 50), 3.0)
    broken = flat.copy()
    broken[3, 4], broken[5, 6] = np.nan, np.inf
    for image in (flat, broken, np.zeros((1, 1))):
        assert overlay.radiograph(image).dtype == np.uint8
        assert overlay.contours(image).max() <= 1
        assert overlay.checkerboard(image, image).shape == (*image.shape, 3)
        assert overlay.difference(image, image).shape == (*image.shape, 3)
    assert not recwarn.list


def test_contours_lie_on_the_edge_and_only_there() -> None:
    """The edge of a disc of radius 25.3 about (45.2, 60.4): lines within a pixel of it, all the way round, centred to 0.1 px."""
    coverage = overlay.contours(scene.disc(45.2, 60.4, 25.3), width=1.5)
    rows, columns = np.nonzero(coverage > 0.05)
    weight = coverage[rows, columns]
    radius = np.hypot(rows - 45.2, columns - 60.4)
    assert np.abs(radius - 25.3).max() < 2.0
    assert abs(np.average(radius, weights=weight) - 25.3) < 0.1
    angles = np.arctan2(rows - 45.2, columns - 60.4)
    assert len(np.unique(np.round(angles / (np.pi / 36)))) >= 72
    # thin: the area under the line is its length times its width
    assert weight.sum() == pytest.approx(2 * np.pi * 25.3 * 1.5, rel=0.15)


def test_contours_keep_out_of_the_masked_part() -> None:
    mask = np.ones((90, 120), dtype=bool)
    mask[:, 60:] = False
    coverage = overlay.contours(scene.disc(45, 60, 25), mask)
    assert coverage[:, 60:].max() == 0 < coverage[:, :60].max()


def test_noise_alone_gives_few_lines() -> None:
    noise = np.random.default_rng(0).normal(size=(200, 200)) * 1e-3
    disc = scene.disc(100, 100, 50, (200, 200)).numpy() + noise
    coverage = overlay.contours(disc)
    rows, columns = np.nonzero(coverage > 0.2)
    off = np.abs(np.hypot(rows - 100, columns - 100) - 50) > 3
    assert off.mean() < 0.02


def test_lines_take_their_colour() -> None:
    picture = overlay.contours_over(scene.disc(45, 60, 25), scene.disc(38, 72, 25), colour=overlay.START)
    assert (np.abs(picture.astype(int) - overlay.START).sum(-1) < 30).sum() > 50
    assert (overlay.painted(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2)), (1, 2, 3)) == (1, 2, 3)).all()


def test_start_and_end_differ_in_lightness_too() -> None:
    """Told apart without any colour vision: relative luminance (WCAG) differs by a contrast of 1.5 at least."""

    def luminance(colour: tuple[int, int, int]) -> float:
        linear = [(c / 255 / 12.92) if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    assert (luminance(overlay.END) + 0.05) / (luminance(overlay.START) + 0.05) > 1.5


def test_a_linear_change_of_exposure_is_matched_away() -> None:
    fixed = scene.disc(45, 60, 25)
    moving = 3.7 * fixed - 2.0
    assert np.abs(overlay.matched(moving, fixed) - fixed.numpy()).max() < 0.02
    assert overlay.difference(fixed, moving).max() < 12


def test_the_difference_shows_its_sign() -> None:
    fixed, moving = scene.disc(45, 50, 20), scene.disc(45, 70, 20)
    picture = overlay.difference(fixed, moving).astype(int)
    only_fixed, only_moving = picture[45, 33], picture[45, 87]
    assert only_fixed[0] > only_fixed[2] + 50 and only_moving[2] > only_moving[0] + 50  # orange, blue


def test_the_checkerboard_alternates_and_leaves_the_masked_part_to_the_exposure() -> None:
    fixed, moving = np.zeros((80, 80)), np.zeros((80, 80))
    fixed[::2], moving[:, ::2] = 1, 1  # stripes across and along
    mask = np.ones((80, 80), dtype=bool)
    mask[:, 70:] = False
    board = overlay.checkerboard(fixed, moving, mask, tiles=8).astype(int)[..., 0]
    one, other = board[20:30, 20:30], board[20:30, 30:40]
    assert one.std(axis=1).max() < 1 < one.std(axis=0).min()
    assert other.std(axis=0).max() < 8 < other.std(axis=1).min()
    assert board[20:30, 70:].std(axis=1).max() < 1


def test_display_sizes() -> None:
    assert overlay.display_shape((1760, 1760)) == (900, 900)
    assert overlay.display_shape((64, 128)) == (450, 900)
    assert overlay.display_shape((100, 100), (2.0, 1.0), 500) == (500, 250)  # square pixels on the page
    assert overlay.display_shape((1, 5000)) == (1, 900)


@pytest.mark.parametrize("shape", [(300, 400), (45, 60)])
def test_resizing_keeps_things_in_their_place(shape: tuple[int, int]) -> None:
    image = scene.disc(30, 80, 15) - 0.002 * torch.arange(120)
    small = overlay.resized(image, shape)
    rows, columns = np.indices(shape)
    factor = shape[0] / 90
    assert (small * rows).sum() / small.sum() == pytest.approx((30 + 0.5) * factor - 0.5, abs=0.05)
    assert (small * columns).sum() / small.sum() == pytest.approx((80 + 0.5) * factor - 0.5, abs=0.05)
    assert overlay.resized_mask(image > 0.5, shape).sum() == pytest.approx(np.pi * 15**2 * factor**2, rel=0.05)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="differ in shape"):
        overlay.checkerboard(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(InputError, match="expected an image"):
        overlay.grey(np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="mask"):
        overlay.grey(np.zeros((4, 4)), np.zeros((4, 5)))


def test_a_png_is_read_back_as_it_was(tmp_path: Path) -> None:
    from PIL import Image

    picture = overlay.radiograph(scene.disc(45, 60, 25))
    pictures.write_png(tmp_path / "a.png", picture)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == picture).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_line_layers_are_transparent_between_the_lines() -> None:
    import io

    from PIL import Image

    coverage = np.array([[0.0, 0.5, 1.0]])
    layer = np.asarray(Image.open(io.BytesIO(pictures.line_png(coverage, overlay.END))).convert("RGBA"))
    assert (layer[..., :3] == overlay.END).all()
    assert layer[0, :, 3].tolist() == pytest.approx([0, 128, 255], abs=9)


def test_the_sheet_has_a_row_an_exposure() -> None:
    one, two = (gather.sheet([scene.exposure(str(k)) for k in range(n)], longest=240) for n in (1, 2))
    assert one.shape == (180 + 6, 3 * (240 + 6), 3)
    assert two.shape == (2 * one.shape[0], one.shape[1], 3)
    left, right = one[:, :246].reshape(-1, 3).astype(int), one[:, 246:492].reshape(-1, 3).astype(int)
    for half, own, other in ((left, overlay.START, overlay.END), (right, overlay.END, overlay.START)):
        assert (np.abs(half - own).sum(-1) < 40).sum() > 100 > 10 > (np.abs(half - other).sum(-1) < 40).sum()
