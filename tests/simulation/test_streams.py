"""Streams: case n is case n, its labels are right, and subjects come and go as they should."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from raylign.errors import InputError
from raylign.io.images_write import write_volume
from raylign.projection import project_labels
from raylign.simulation.datasets import streams
from raylign.simulation.datasets.recipes import Recipe, Split, SubjectsFrom, TargetPoints
from raylign.simulation.datasets.streams import Stream, StreamConfig
from tests.cli.conftest import body

SMALL = (48, 64)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Four small scans, the first with two copies that are noisier."""
    folder = tmp_path_factory.mktemp("scans")
    sources = []
    for n in range(4):
        scan = body()
        scan = replace(scan, data=scan.data + 10 * n)
        write_volume(scan, folder / f"p{n}.nii.gz")
        plain = {"deformation": None, "size": {"low": 0.0, "high": 0.0}}
        sources.append(
            SubjectsFrom(ct=str(folder / f"p{n}.nii.gz"), id=f"p{n}", source="made", copies=2 * (n == 0), variation=plain)
        )
    return Recipe(
        "small",
        tuple(sources),
        image=SMALL,
        cases_per_subject=4,
        resident=2,
        targets="gao2024",
        starts="mtre-bin",
        target_points=TargetPoints(count=50),
        instruments={"set": "pelvis", "any": 0.3},
        exposure={"photons": [500.0, 5000.0]},
        split=Split(1.0, 0.0, 0.0),
    )


@pytest.fixture
def stream(recipe: Recipe) -> Iterator[Stream]:
    with Stream(recipe, StreamConfig(batch=6)) as stream:
        yield stream


def test_a_case_is_the_same_in_any_batch(recipe: Recipe, stream: Stream) -> None:
    whole = stream.cases(list(range(10)))
    with Stream(recipe, StreamConfig(batch=3)) as other:
        late = other.cases([9, 4])
        early = list(islice(other, 2))
    for batch in (late, *early):
        for n, case in enumerate(batch.cases):
            assert batch.ids[n] == whole.ids[case]
            assert batch.subjects[n].entry == whole.subjects[case].entry
            assert batch.configs[n] == whole.configs[case]
            assert batch.instruments[n] == whole.instruments[case]
            assert batch.labelled.views[n] == whole.labelled.views[case]
            torch.testing.assert_close(batch.labelled.poses[n], whole.labelled.poses[case], atol=1e-9, rtol=0)
            torch.testing.assert_close(batch.starts[n], whole.starts[case], atol=1e-9, rtol=0)
            torch.testing.assert_close(batch.labelled.image[n], whole.labelled.image[case], atol=1e-5, rtol=1e-5)
    assert len({float(i.mean()) for i in whole.labelled.image}) == 10
    assert any(whole.instruments)
    assert not all(whole.instruments)


def test_two_runs_are_equal_to_the_bit(recipe: Recipe, stream: Stream) -> None:
    with Stream(recipe, StreamConfig(batch=6)) as other:
        for a, b in zip(islice(stream, 3), islice(other, 3), strict=True):
            assert torch.equal(a.labelled.image, b.labelled.image)
            assert torch.equal(a.counts, b.counts)
            assert torch.equal(a.starts, b.starts)
    with Stream(replace(recipe, seed=1), StreamConfig(batch=6)) as other:
        assert not torch.equal(next(iter(other)).labelled.image, stream.cases(list(range(6))).labelled.image)


def test_ranks_share_the_cases(recipe: Recipe, stream: Stream) -> None:
    numbers = []
    for rank in range(2):
        with Stream(recipe, StreamConfig(batch=2, rank=rank, world=2, first=4)) as part:
            numbers += [n for batch in islice(part, 2) for n in batch.cases]
    assert sorted(numbers) == list(range(4, 12))


def test_the_window_of_subjects_moves_on(stream: Stream) -> None:
    shown = [stream.subject(n) for n in range(400)]
    assert set(shown) == set(range(len(stream.entries)))
    for first in range(0, 400, 4):
        window = {stream.order[first // 4 + k] for k in range(2)}
        assert set(shown[first : first + 4]) <= window
    # subjects beyond reach are let go, and come again
    for start in (0, 100, 200):
        stream.cases([start, start + 1])
        assert len(stream._residents) <= 2 + 2 + 1


def test_labels_are_right(stream: Stream) -> None:
    batch = stream.cases(list(range(8)))
    for n, resident in enumerate(batch.subjects):
        view, pose, start = batch.labelled.views[n], batch.labelled.poses[n], batch.starts[n]
        assert view.shape == SMALL
        at = batch.points[n]
        assert torch.equal(at, resident.isocentres[0])
        # Gao: the point lies within 25 mm of the isocentre along each axis of the view
        assert float((pose[:3, :3] @ at + pose[:3, 3]).norm()) < 25 * 3**0.5 + 1e-6
        moved = (resident.targets @ (start - pose)[:3, :3].T + (start - pose)[:3, 3]).norm(dim=1).mean()
        low, high = stream.plan.starts.bins[batch.cases[n] % len(stream.plan.starts.bins)]  # type: ignore[attr-defined]
        assert low <= float(moved) < high
        hu = resident.subject.volume.data
        index = torch.linalg.inv(resident.subject.volume.affine)
        voxels = (resident.targets @ index[:3, :3].T + index[:3, 3]).round().long()
        assert bool((hu[voxels[:, 2], voxels[:, 1], voxels[:, 0]] > 300).all())


def test_segments_and_points_lie_where_the_patient_is(recipe: Recipe) -> None:
    wanted = replace(
        recipe,
        subjects=(SubjectsFrom("thorax", (0, 0), {"voxel_mm": 6.0}),),
        isocentre=("heart_ventricle_left",),
        landmarks=("heart_ventricle_left/middle", "no/such"),
        segments=("heart_ventricle_left", "no_such"),
        target_points=TargetPoints(("vertebrae_*",), 20),
        instruments=None,
        targets="toth2018",
        starts="toth2018",
    )
    with Stream(wanted, StreamConfig(batch=2)) as stream:
        batch = stream.cases([0, 1])
        marks = batch.subjects[0].subject.landmarks
    seen = batch.labelled
    whole = batch.subjects[0].subject.labels
    place = list(whole.present().values()).index("heart_ventricle_left")
    for n in range(2):
        shown = project_labels(whole, seen.views[n], seen.poses[n])[0, 0, place]
        torch.testing.assert_close(seen.segments[n, 0], shown, atol=0.3, rtol=0.01)  # samples of the two lie elsewhere
    assert seen.points.shape == (2, 2, 2)
    assert bool(seen.points[:, 1].isnan().all())
    assert bool((seen.segments[:, 1] == 0).all())
    for n in range(2):
        world = seen.poses[n, :3, :3] @ marks["heart_ventricle_left/middle"] + seen.poses[n, :3, 3]
        torch.testing.assert_close(seen.points[n, 0], seen.views[n].project(world[None])[0])
        mass = seen.segments[n, 0].double()
        r, c = torch.meshgrid(torch.arange(SMALL[0]), torch.arange(SMALL[1]), indexing="ij")
        centre = torch.stack([(mass * c).sum(), (mass * r).sum()]) / mass.sum()
        at = seen.views[n].project((seen.poses[n, :3, :3] @ batch.points[n] + seen.poses[n, :3, 3])[None])[0]
        assert float((centre - at).norm()) < 1.5
        assert 30 < float(mass.max()) < 200  # mm through the chamber


def test_appearance_and_biplane(recipe: Recipe) -> None:
    wanted = replace(recipe, targets="vanhoutte2022", appearance="jaganathan2021", starts="raylign", image=None)
    with Stream(wanted, StreamConfig(batch=3)) as stream:
        batch = stream.cases([0, 1, 2])
    assert batch.cases == (0, 0, 1, 1, 2, 2)
    assert batch.labelled.image.shape == (6, 224, 160)
    for first in (0, 2, 4):
        assert torch.equal(batch.labelled.poses[first], batch.labelled.poses[first + 1])
        assert torch.equal(batch.starts[first], batch.starts[first + 1])
        assert batch.instruments[first] == batch.instruments[first + 1]
        a, b = (batch.labelled.views[first + k].normal for k in (0, 1))
        assert abs(float(a @ b)) < 1e-6
    plain = replace(wanted, appearance="plain")
    with Stream(plain, StreamConfig(batch=3)) as stream:
        assert torch.equal(stream.cases([0, 1, 2]).counts, batch.counts)


def test_a_data_loader_takes_it(stream: Stream) -> None:
    from torch.utils.data import DataLoader

    batch = next(iter(DataLoader(stream, batch_size=None)))
    assert batch.labelled.image.shape == (6, *SMALL)


def test_workers_of_a_loader_divide_the_cases(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    seen = []
    for worker in (0, 1):
        monkeypatch.setattr(streams, "get_worker_info", lambda n=worker: SimpleNamespace(id=n, num_workers=2))
        with Stream(recipe, StreamConfig(batch=2)) as stream:
            seen += next(iter(stream)).cases
    assert sorted(seen) == [0, 1, 2, 3]


def test_refusals(recipe: Recipe) -> None:
    with pytest.raises(InputError, match="none of 6 subjects falls to test"):
        Stream(recipe, StreamConfig(part="test"))
    with pytest.raises(InputError, match="rank 2 of 2"):
        StreamConfig(rank=2, world=2)
    with Stream(replace(recipe, isocentre=("heart",))) as stream, pytest.raises(InputError, match="has no heart"):
        stream.cases([0])
    with pytest.raises(InputError, match="cannot be read"):
        Stream(Path("none.yaml"))
