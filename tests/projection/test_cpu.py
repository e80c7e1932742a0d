"""What is particular to the CPU's kernels: the padded copy, empty space, pieces of rays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from raylign.errors import InputError
from raylign.projection import cpu, cpu_backend, reference
from raylign.projection.cpu_grid import BRICK, PADDING
from raylign.projection.cpu_shadow import shadow


def fan(seed: int, length: float = 260.0) -> np.ndarray:
    """A view of the middle of a 70 x 50 x 60 volume from anywhere, rows and columns askew."""
    rng = np.random.default_rng(seed)
    towards = rng.normal(size=3)
    middle = np.array([30.0, 25, 35])
    source = middle + length * towards / np.linalg.norm(towards)
    steps = rng.normal(size=(2, 3)) * 8
    return np.stack([source, 2 * (middle - source) - 4 * steps.sum(0), *steps])[None]


def two_bodies() -> np.ndarray:
    """Mostly nothing: a block in one corner, a single voxel far off."""
    volume = np.zeros((70, 50, 60), np.float32)
    volume[5:14, 20:31, 8:19] = np.random.default_rng(0).random((9, 11, 11), np.float32)
    volume[61, 3, 55] = 2.0
    return volume


@pytest.mark.parametrize("model", reference.MODELS)
@given(seed=st.integers(0, 10_000), samples=st.integers(100, 1500))
@settings(max_examples=25, deadline=None)
def test_leaving_out_empty_space_changes_no_bit(model: str, seed: int, samples: int) -> None:
    volume, rays = two_bodies(), fan(seed)
    culled, whole = cpu.grid(volume), cpu.grid(volume, culling=False)
    assert culled.culled and not whole.culled
    counts = np.array([samples])
    for gradients in (False, True):
        one = cpu.forward(culled, rays, (9, 9), counts, model=model, gradients=gradients)
        other = cpu.forward(whole, rays, (9, 9), counts, model=model, gradients=gradients)
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a, b)


def test_the_map_of_bricks_says_where_anything_is() -> None:
    volume = two_bodies()
    grid = cpu.grid(volume)
    z, y, x = (np.array(np.nonzero(volume)) + PADDING) // BRICK
    expected = np.zeros(grid.occupied.shape, bool)
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                at = z - dz, y - dy, x - dx
                inside = (at[0] >= 0) & (at[1] >= 0) & (at[2] >= 0)
                expected[tuple(a[inside] for a in at)] = True
    assert np.array_equal(grid.occupied.astype(bool), expected)
    assert np.array_equal(grid.inner, volume)
    border = grid.data.copy()
    border[(slice(PADDING, -PADDING),) * 3] = 0
    assert not border.any()


def image_of(seed: int, length: float) -> tuple[np.ndarray, tuple[int, int]]:
    """The same fan with 81 x 81 pixels over the same field."""
    rays = fan(seed, length)
    rays[0, 2:] /= 10
    return rays, (81, 81)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_shadow_holds_all_that_a_volume_shows(seed: int) -> None:
    volume = two_bodies()
    grid = cpu.grid(volume)
    assert grid.blocks is not None
    rays, shape = image_of(seed, 260.0)
    found = shadow(grid.blocks, rays[0], shape)
    assume(found is not None)  # an image so askew that a part of the volume lies beside the source
    assert found is not None
    whole = cpu.grid((volume > 0).astype(np.float32), culling=False)
    image, slopes = cpu.forward(whole, rays, shape, np.array([1500]), gradients=True)
    shows = (image[0] > 0) | slopes[0].any(-1)
    assert not (shows & (found[0] > found[1])).any()
    # nor beyond its ends on any ray
    culled = cpu.forward(cpu.grid((volume > 0).astype(np.float32)), rays, shape, np.array([1500]), gradients=True)
    assert np.array_equal(culled[0], image) and np.array_equal(culled[1], slopes)


def test_the_shadow_holds_little_else() -> None:
    volume = two_bodies()
    grid = cpu.grid(volume)
    assert grid.blocks is not None
    # from 300 voxels before the first slice onto a plane as far behind it: two pixels a voxel there, about
    rays = np.array([[30.0, 25, -300], [-60.0, -50, 600], [1.0, 0, 0], [0, 1.0, 0]])
    found = shadow(grid.blocks, rays, (100, 120))
    image, _ = cpu.forward(grid, rays[None], (100, 120), np.array([2000]))
    assert found is not None and (image[0] > 0).sum() > 300
    met = found[0] <= found[1]
    # slices 5 to 13 lie in the blocks of 4 to 15, slice 61 in that of 60 to 63; one more either way
    near, far = found[:, met] * 600 - 300
    assert near.min() > 2.9 and far.max() < 64.1 and (far - near).max() < 14.2
    # up to 3 voxels of a block and one of reach, a pixel of rounding, and the perspective of a block
    assert not (met & ~maximum_filter(image[0] > 0, 2 * 11 + 1)).any()
    assert met.mean() < 0.25


@pytest.mark.parametrize("z", [9.0, 4.0, -20.0])
def test_a_source_within_or_beside_the_volume_sees_what_it_holds(z: float) -> None:
    volume = two_bodies()
    rays, shape = np.array([[[12.0, 25, z], [-40.0, -40, 80], [1.0, 0, 0], [0, 1.0, 0]]]), (81, 81)
    one, other = (cpu.forward(cpu.grid(volume, culling=c), rays, shape, np.array([900]), gradients=True) for c in (True, False))
    assert other[0].any()
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_rays_in_one_plane_with_their_source_are_followed_all_the_way() -> None:
    """A detector seen edge-on has no image to cast a shadow on."""
    volume = two_bodies()
    rays = np.array([[[12.0, 25, -300], [0.0, -60, 600], [0.0, 1, 0], [0, 1.0, 0.5]]])
    assert shadow(cpu.grid(volume).blocks, rays[0], (90, 60)) is None  # type: ignore[arg-type]
    one, other = (cpu.forward(cpu.grid(volume, culling=c), rays, (90, 60), np.array([900])) for c in (True, False))
    assert other[0].any() and np.array_equal(one[0], other[0])


def test_many_views_are_each_view_alone() -> None:
    grid = cpu.grid(two_bodies())
    views = np.concatenate([image_of(seed, 260.0)[0] for seed in (1, 5)])
    wanted = np.random.default_rng(0).random((2, 81, 81)) > 0.3
    both = cpu.forward(grid, views, (81, 81), np.array([400, 400]), wanted)[0]
    for view, mask, image in zip(views, wanted, both, strict=True):
        alone = cpu.forward(grid, view[None], (81, 81), np.array([400]), mask[None])[0]
        assert np.array_equal(alone[0], image)


def test_rays_that_are_no_numbers_show_nothing_and_harm_nothing() -> None:
    grid = cpu.grid(two_bodies())
    rays = np.array([[[30.0, 25, -300], [-60.0, -50, 600], [1.0, 0, 0], [0, 1.0, 0]]])
    for place, value in (((0, 0, 0), np.nan), ((0, 1, 2), np.inf), ((0, 2, 0), np.nan)):
        both = np.concatenate([rays, rays])
        both[place] = value
        image, slopes = cpu.forward(grid, both, (20, 20), np.array([500, 500]), gradients=True)
        alone, _ = cpu.forward(grid, rays, (20, 20), np.array([500]))
        assert not image[0].any() and not slopes[0].any() and np.array_equal(image[1], alone[0])
        assert not cpu.forward(cpu.grid(two_bodies(), culling=False), both[:1], (20, 20), np.array([500]))[0].any()


def test_blocks_are_those_of_the_surface_and_none_of_a_full_volume() -> None:
    volume = np.zeros((40, 40, 40), np.float32)
    volume[8:28, 8:28, 8:28] = 1.0  # five blocks along each axis, of which three lie within
    blocks = cpu.grid(volume).blocks
    assert blocks is not None and len(blocks) == 5**3 - 3**3
    assert sorted({tuple(b) for b in blocks.tolist()})[0] == (8, 8, 8) and int(blocks.max()) == 24
    volume[:, :, :30] = 1.0
    assert cpu.grid(volume).blocks is None
    border = np.zeros((40, 40, 40), np.float32)
    border[:, 0, 39] = -1.0
    found = cpu.grid(border).blocks
    assert found is not None and sorted(map(tuple, found.tolist())) == [(36, 0, z) for z in range(0, 40, 4)]


def test_an_empty_volume_has_an_empty_image() -> None:
    grid = cpu.grid(np.zeros((20, 20, 20), np.float32))
    image, slopes = cpu.forward(grid, fan(0), (9, 9), np.array([300]), gradients=True)
    assert not image.any() and not slopes.any()


@pytest.mark.parametrize("samples", [1, 15, 255, 256, 257, 5000])
def test_rays_of_any_number_of_samples(samples: int) -> None:
    """Segments and runs that are full, one over, one short."""
    volume = torch.rand(20, 18, 22, generator=torch.Generator().manual_seed(0))
    rays = torch.from_numpy(fan(3, 40.0)) - torch.tensor([[[20.0, 15, 25], [0, 0, 0], [0, 0, 0], [0, 0, 0]]])
    found = cpu_backend.integrals(volume, rays, torch.tensor([samples]), (9, 9))
    exact = reference.integrals(volume.double(), rays, (9, 9), [samples])
    assert torch.allclose(found.double(), exact, rtol=1e-5, atol=1e-6 * float(exact.max()))


def test_the_copy_is_made_once_and_again_when_the_tensor_is_written_to() -> None:
    volume = torch.rand(8, 8, 8)
    first = cpu_backend.grid_of(volume)
    assert cpu_backend.grid_of(volume) is first
    volume[0, 0, 0] = 5.0
    assert cpu_backend.grid_of(volume) is not first
    assert float(cpu_backend.grid_of(volume).inner[0, 0, 0]) == 5.0


def test_storage_that_no_kernel_reads_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="int32") as caught:
        cpu.grid(torch.zeros(4, 4, 4, dtype=torch.int32))
    assert "float32" in str(caught.value) and "\n" not in str(caught.value)
