"""Subjects, labelled exposures, seeds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raylign.data import LabelMap, Landmarks, Volume
from raylign.errors import InputError
from raylign.geometry import View
from raylign.simulation import Labelled, Subject, generator, numpy_generator


def subject(**changes: object) -> Subject:
    volume = Volume(torch.zeros(4, 5, 6), torch.eye(4, dtype=torch.float64), unit="HU")
    labels = LabelMap(torch.ones(4, 5, 6, dtype=torch.uint8), volume.affine, {1: "bone"})
    return replace(Subject(volume, labels, Landmarks((), torch.zeros(0, 3))), **changes)  # type: ignore[arg-type]


def test_a_subject_is_one_patient_on_one_grid() -> None:
    assert subject().copy == 0 and subject(id="ct-1").person == "subject" and subject(id="ct-1", person="").person == "ct-1"
    moved = torch.eye(4, dtype=torch.float64)
    moved[0, 3] = 1
    with pytest.raises(InputError, match="another grid"):
        subject(labels=LabelMap(torch.ones(4, 5, 6, dtype=torch.uint8), moved))
    with pytest.raises(InputError, match="HU"):
        subject(volume=Volume(torch.zeros(4, 5, 6), torch.eye(4, dtype=torch.float64)))
    with pytest.raises(InputError, match="id"):
        subject(id="")
    with pytest.raises(InputError, match="copy"):
        subject(copy=-1)


def test_what_is_known_of_images_fits_them() -> None:
    view = View.from_carm(primary=0, secondary=0, sid=1000, sod=700, pixel_spacing=(2, 2), shape=(8, 9))
    known = Labelled(
        torch.zeros(2, 8, 9),
        torch.ones(2, 8, 9, dtype=torch.bool),
        (view, view),
        torch.eye(4).repeat(2, 1, 1),
        torch.zeros(2, 0, 2),
        torch.zeros(2, 0, 8, 9),
    )
    assert len(known) == 2 and known.device == torch.device("cpu")
    for wrong in ({"views": (view,)}, {"points": torch.zeros(1, 4, 2)}, {"segments": torch.zeros(2, 1, 9, 8)}):
        with pytest.raises(InputError, match="fit together"):
            replace(known, **wrong)  # type: ignore[arg-type]


def test_a_place_in_the_tree_is_a_stream_of_its_own() -> None:
    def first(*place: int) -> float:
        return float(torch.rand((), generator=generator(*place), dtype=torch.float64))

    places = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 2), (0, 2, 1)]
    assert len({first(*p) for p in places}) == len(places)
    assert first(3, 5) == first(3, 5)
    assert numpy_generator(3, 5).random() == numpy_generator(3, 5).random() != numpy_generator(3, 6).random()
    with pytest.raises(InputError, match="seed"):
        generator(0, -1)
