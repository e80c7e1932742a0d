"""Views from DICOM X-ray headers, re-derived by hand: where a marker on the patient must appear."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raylign import InputError, View
from raylign.geometry.xa import POSITIONS, Overrides, room_from_patient, view_from_header


def header(**changes: Any) -> SimpleNamespace:
    values: dict[str, Any] = {
        "Rows": 400,
        "Columns": 500,
        "PatientPosition": "HFS",
        "PatientOrientation": ["L", "F"],
        "DistanceSourceToDetector": 1000.0,
        "DistanceSourceToPatient": 700.0,
        "ImagerPixelSpacing": [0.5, 0.4],
        "PositionerPrimaryAngle": 0.0,
        "PositionerSecondaryAngle": 0.0,
        **changes,
    }
    return SimpleNamespace(**{k: v for k, v in values.items() if v is not None})


def shift(view: View, *point: float) -> list[float]:
    """(columns to the right, rows down) of a point from where the isocentre appears."""
    p = view.project(torch.tensor([point, (0.0, 0.0, 0.0)], dtype=torch.float64))
    return (p[0] - p[1]).tolist()


LEFT, HEAD, FRONT = (10.0, 0.0, 0.0), (0.0, 0.0, 10.0), (0.0, -10.0, 0.0)


def test_facing_the_chest_left_is_right_and_head_is_up() -> None:
    view = view_from_header(header())
    assert shift(view, *LEFT) == pytest.approx([10 * (1000 / 700) / 0.4, 0])
    assert shift(view, *HEAD) == pytest.approx([0, -10 * (1000 / 700) / 0.5])
    assert view.project(torch.zeros(1, 3)).tolist()[0] == pytest.approx([249.5, 199.5])
    assert view.source.tolist() == pytest.approx([0, 700, 0])  # behind the back


def test_angles_put_the_detector_where_their_names_say() -> None:
    lao = view_from_header(header(PositionerPrimaryAngle=90))
    assert lao.source.tolist() == pytest.approx([-700, 0, 0])  # detector at the patient's left
    cranial = view_from_header(header(PositionerSecondaryAngle=30))
    assert cranial.source.tolist() == pytest.approx([0, 700 * math.cos(math.pi / 6), -350])  # detector towards the head


@pytest.mark.parametrize("position", POSITIONS)
def test_angles_hold_to_the_patient_in_every_position(position: str) -> None:
    view = view_from_header(header(PatientPosition=position, PositionerPrimaryAngle=25, PositionerSecondaryAngle=-8))
    same = view_from_header(header(PositionerPrimaryAngle=25, PositionerSecondaryAngle=-8))
    assert view.isclose(same)


@pytest.mark.parametrize("position", POSITIONS)
def test_without_orientation_the_image_is_what_a_fixed_detector_sees(position: str) -> None:
    """An independent way round: place the patient in the room, find the C-arm's own angles, look along them."""
    rng = np.random.default_rng(3)
    # Where the patient's left, back and head point in a room with +x to the right of one looking from the table's foot, -y up.
    up, down, right, left, far, near = ([0, -1, 0], [0, 1, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1])
    room = {
        "HFS": (right, down, far),
        "HFP": (left, up, far),
        "HFDR": (up, right, far),
        "HFDL": (down, left, far),
        "FFS": (left, down, near),
        "FFP": (right, up, near),
        "FFDR": (up, left, near),
        "FFDL": (down, right, near),
    }[position]
    to_room = np.array(room, float).T
    assert np.linalg.det(to_room) == pytest.approx(1)
    assert np.array_equal(to_room, room_from_patient(position).numpy())
    for _ in range(5):
        primary, secondary = rng.uniform(-80, 80), rng.uniform(-40, 40)
        view = view_from_header(
            header(
                PatientPosition=position,
                PatientOrientation=None,
                PositionerPrimaryAngle=primary,
                PositionerSecondaryAngle=secondary,
            )
        )
        p, s = math.radians(primary), math.radians(secondary)
        towards = to_room @ [math.sin(p) * math.cos(s), -math.cos(p) * math.cos(s), math.sin(s)]
        # the C-arm's own angles in the room, and its detector's axes there
        q, t = math.atan2(towards[0], -towards[1]), math.asin(towards[2])
        columns = np.array([math.cos(q), math.sin(q), 0])
        rows = np.array([math.sin(q) * math.sin(t), -math.cos(q) * math.sin(t), -math.cos(t)])
        assert (view.column_step.numpy() / 0.4) == pytest.approx(to_room.T @ columns, abs=1e-12)
        assert (view.row_step.numpy() / 0.5) == pytest.approx(to_room.T @ rows, abs=1e-12)
        assert view.source.numpy() == pytest.approx(-700 * (to_room.T @ towards), abs=1e-9)


def test_feet_first_without_orientation_is_upside_down() -> None:
    view = view_from_header(header(PatientPosition="FFS", PatientOrientation=None))
    assert shift(view, *LEFT)[0] < 0 and shift(view, *HEAD)[1] > 0
    assert view.source.tolist() == pytest.approx([0, 700, 0])


@pytest.mark.parametrize(("position", "primary"), [("HFS", 20.0), ("HFP", -160.0), ("FFS", -20.0), ("FFP", 160.0)])
def test_isocentre_angles_are_the_rooms(position: str, primary: float) -> None:
    """The same C-arm 20 degrees to the room's right: to the patient that is another angle in each position."""
    common = {"PatientPosition": position, "PatientOrientation": None}
    equipment = header(
        **common,
        PositionerPrimaryAngle=None,
        PositionerSecondaryAngle=None,
        PositionerIsocenterPrimaryAngle=20.0,
        PositionerIsocenterSecondaryAngle=0.0,
    )
    patient = header(**common, PositionerPrimaryAngle=primary)
    assert view_from_header(equipment).isclose(view_from_header(patient), 1e-9)


@pytest.mark.parametrize(
    ("orientation", "left", "head"),
    [
        (["L", "F"], (1, 0), (0, -1)),
        (["R", "F"], (-1, 0), (0, -1)),
        (["L", "H"], (1, 0), (0, 1)),
        (["R", "H"], (-1, 0), (0, 1)),
        (["F", "L"], (0, 1), (-1, 0)),
        (["H", "R"], (0, -1), (1, 0)),
        ("R\\F", (-1, 0), (0, -1)),
        (["LA", "FP"], (1, 0), (0, -1)),
    ],
)
def test_orientation_turns_and_flips(orientation: Any, left: tuple[int, int], head: tuple[int, int]) -> None:
    view = view_from_header(header(PatientOrientation=orientation))
    assert np.sign(np.round(shift(view, *LEFT), 6)).tolist() == list(left)
    assert np.sign(np.round(shift(view, *HEAD), 6)).tolist() == list(head)


def test_orientation_of_a_lateral() -> None:
    canonical = view_from_header(header(PositionerPrimaryAngle=90))
    assert view_from_header(header(PositionerPrimaryAngle=90, PatientOrientation=["P", "F"])).isclose(canonical)
    flipped = view_from_header(header(PositionerPrimaryAngle=90, PatientOrientation=["A", "F"]))
    assert flipped.isclose(canonical.flip(columns=True)) and shift(flipped, *FRONT)[0] > 0
    # posterior-anterior, labelled by anatomy: the right of the image is the patient's right
    behind = view_from_header(header(PositionerPrimaryAngle=180, PatientOrientation=["R", "F"]))
    assert shift(behind, *LEFT)[0] < 0


@pytest.mark.parametrize("orientation", [["L", "R"], ["L", "L"], ["H", "F"], ["A", "F"], ["L"], ["X", "F"]])
def test_contradictory_orientation_is_refused(orientation: list[str]) -> None:
    with pytest.raises(InputError, match=r"PatientOrientation \(0020,0020\)"):
        view_from_header(header(PatientOrientation=orientation))


def test_spacing_at_the_detector_beats_that_in_the_patient() -> None:
    both = view_from_header(header(PixelSpacing=[0.3, 0.3], PixelSpacingCalibrationType="GEOMETRY"))
    assert both.pixel_spacing == pytest.approx((0.5, 0.4))


@pytest.mark.parametrize("kind", ["GEOMETRY", "FIDUCIAL"])
def test_calibrated_spacing_is_in_the_plane_of_the_isocentre(kind: str) -> None:
    view = view_from_header(header(ImagerPixelSpacing=None, PixelSpacing=[0.35, 0.28], PixelSpacingCalibrationType=kind))
    assert shift(view, *LEFT)[0] == pytest.approx(10 / 0.28) and shift(view, *HEAD)[1] == pytest.approx(-10 / 0.35)
    focal = float(view.sid) / view.pixel_spacing[1]
    assert focal == pytest.approx(700 / 0.28)


def test_magnification_stands_in_for_a_distance() -> None:
    reference = view_from_header(header(DistanceSourceToPatient=800.0))
    for missing in ("DistanceSourceToPatient", "DistanceSourceToDetector"):
        values = {"DistanceSourceToPatient": 800.0, missing: None}
        assert view_from_header(header(EstimatedRadiographicMagnificationFactor=1.25, **values)).isclose(reference, 1e-9)


def test_increments() -> None:
    constant = header(NumberOfFrames=5, PositionerPrimaryAngleIncrement=[2.0], PositionerSecondaryAngleIncrement=-1.0)
    assert view_from_header(constant, 3).isclose(
        view_from_header(header(PositionerPrimaryAngle=6, PositionerSecondaryAngle=-3)), 1e-9
    )
    listed = header(NumberOfFrames=3, PositionerPrimaryAngleIncrement=[-30.0, 0.0, 30.0])
    assert view_from_header(listed, 0).isclose(view_from_header(header(PositionerPrimaryAngle=-30)), 1e-9)
    assert view_from_header(listed, 2).isclose(view_from_header(header(PositionerPrimaryAngle=30)), 1e-9)
    with pytest.raises(InputError, match=r"PositionerPrimaryAngleIncrement \(0018,1520\): 2 values for 3 frames"):
        view_from_header(header(NumberOfFrames=3, PositionerPrimaryAngleIncrement=[1.0, 2.0]), 1)
    with pytest.raises(InputError, match=r"PositionerPrimaryAngleIncrement .*the C-arm moved"):
        view_from_header(header(NumberOfFrames=3, PositionerMotion="DYNAMIC"), 1)


DETECTOR = {
    "DetectorElementSpacing": [0.2, 0.2],
    "DetectorActiveDimensions": [400.0, 300.0],
    "DetectorActiveOrigin": [10.0, 20.0],
}


def test_an_off_centre_field_moves_the_isocentre() -> None:
    """2000 x 1500 elements of 0.2 mm from element (10, 20); the stored field of 1000 x 1000 elements starts at (300, 400)."""
    values = {"Rows": 500, "Columns": 250, "ImagerPixelSpacing": [0.4, 0.8], "FieldOfViewOrigin": [300.0, 400.0], **DETECTOR}
    view = view_from_header(header(**values))
    column, row = view.project(torch.zeros(1, 3)).tolist()[0]
    # edges from the field's corner in mm, then pixel centres at integers
    assert row == pytest.approx((10 + 1000 - 300) * 0.2 / 0.4 - 0.5)
    assert column == pytest.approx((20 + 750 - 400) * 0.2 / 0.8 - 0.5)


def test_a_centred_field_changes_nothing() -> None:
    # 400 x 500 pixels of 0.5 x 0.4 mm are 1000 x 1000 elements of 0.2 mm in the middle of 2000 x 1500
    centred = header(FieldOfViewOrigin=[510.0, 270.0], **DETECTOR)
    assert view_from_header(centred).isclose(view_from_header(header()), 1e-9)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["NO", "YES"])
def test_turned_fields_show_the_same_things_at_the_same_places(rotation: int, flip: str) -> None:
    """Turning the array as the header says must leave every marker under its pixel."""
    values: dict[str, Any] = {"PatientOrientation": None, "FieldOfViewOrigin": [100.0, 200.0], **DETECTOR}
    plain = view_from_header(header(**values))
    rows, columns = (400, 500) if rotation % 180 == 0 else (500, 400)
    spacing = [0.5, 0.4] if rotation % 180 == 0 else [0.4, 0.5]
    stored = view_from_header(
        header(
            **values,
            Rows=rows,
            Columns=columns,
            ImagerPixelSpacing=spacing,
            FieldOfViewRotation=rotation,
            FieldOfViewHorizontalFlip=flip,
        )
    )
    marked = np.zeros((400, 500))
    marked[37, 411] = 1
    array = np.rot90(marked, -rotation // 90)
    array = array[:, ::-1] if flip == "YES" else array
    row, column = np.argwhere(array)[0]
    target = plain.origin + 37 * plain.row_step + 411 * plain.column_step
    assert stored.project(target[None]).tolist()[0] == pytest.approx([column, row], abs=1e-6)


def test_stated_projection_of_the_isocentre() -> None:
    values = {**DETECTOR, "FieldOfViewOrigin": [100.0, 200.0], "PositionOfIsocenterProjection": [400.0, 700.0]}
    view = view_from_header(header(**values))
    column, row = view.project(torch.zeros(1, 3)).tolist()[0]
    # element centre 400 lies 300.5 elements from the field's edge
    assert row == pytest.approx(300.5 * 0.2 / 0.5 - 0.5) and column == pytest.approx(500.5 * 0.2 / 0.4 - 0.5)


def test_overrides_beat_the_header() -> None:
    given = Overrides(sid=1200, sod=800, primary=10, secondary=20, pixel_spacing=(1, 1), patient_position="FFS")
    view = view_from_header(header(PatientPosition="?", DistanceSourceToDetector=None), overrides=given)
    assert view.isclose(View.from_carm(primary=10, secondary=20, sid=1200, sod=800, pixel_spacing=1, shape=(400, 500)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Rows": None}, r"Rows \(0028,0010\)"),
        ({"DistanceSourceToDetector": math.nan}, r"DistanceSourceToDetector \(0018,1110\): nan"),
        ({"DistanceSourceToPatient": "abc"}, r"DistanceSourceToPatient \(0018,1111\): 'abc'"),
        ({"PositionerPrimaryAngle": 1e9}, r"PositionerPrimaryAngle .*not a C-arm's angle"),
        ({"PatientPosition": ""}, r"PatientPosition .*missing; .*--patient-position"),
        ({"FieldOfViewRotation": 45, "PatientOrientation": None}, r"FieldOfViewRotation \(0018,7032\)"),
        ({"FieldOfViewHorizontalFlip": "MAYBE", "PatientOrientation": None}, r"FieldOfViewHorizontalFlip \(0018,7034\)"),
        ({"PositionerPrimaryAngle": None, "PositionerSecondaryAngle": None}, r"the C-arm's angles are missing"),
    ],
)
def test_bad_headers(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        view_from_header(header(**changes))
