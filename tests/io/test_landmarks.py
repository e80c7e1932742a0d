from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raylign import InputError
from raylign.data import Landmarks
from raylign.io.landmarks import read_landmarks, write_landmarks

POINTS = Landmarks(("FH-l", "FH-r", "a, b"), torch.tensor([[93.25, 37.5, -941.125], [1.0, -2.0, 3.0], [0.1, 0.2, 0.3]]))


@pytest.mark.parametrize("name", ["p.fcsv", "p.mrk.json", "p.csv"])
def test_landmarks_come_back(tmp_path: Path, name: str) -> None:
    write_landmarks(POINTS, tmp_path / name)
    back = read_landmarks(tmp_path / name)
    assert back.names == POINTS.names
    assert torch.equal(back.points, POINTS.points)


@pytest.mark.parametrize(("frame", "sign"), [("RAS", -1), ("0", -1), ("LPS", 1), ("1", 1)])
def test_the_frame_of_an_fcsv_is_honoured(tmp_path: Path, frame: str, sign: int) -> None:
    file = tmp_path / "slicer.fcsv"
    file.write_text(
        f"# Markups fiducial file version = 4.6\n# CoordinateSystem = {frame}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "vtkMRMLMarkupsFiducialNode_0,-19.5,13.25,29.5,0,0,0,1,1,1,0,F-1,,vtkMRMLScalarVolumeNode1\n"
    )
    back = read_landmarks(file)
    assert back.names == ("F-1",)
    assert back.points.tolist() == [[sign * -19.5, sign * 13.25, 29.5]]


def test_an_fcsv_without_frame_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "old.fcsv").write_text("# Markups fiducial file version = 4.3\n1,1,2,3,0,0,0,1,1,1,0,F-1,,\n")
    with pytest.raises(InputError, match=r"old\.fcsv: CoordinateSystem: no frame is stated; state LPS or RAS"):
        read_landmarks(tmp_path / "old.fcsv")


def test_markups_in_ras_and_points_still_to_be_placed(tmp_path: Path) -> None:
    points = [{"label": "A", "position": [1.0, 2.0, 3.0]}, {"label": "B", "position": [0, 0, 0], "positionStatus": "undefined"}]
    file = tmp_path / "m.mrk.json"
    file.write_text(json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": points}]}))
    back = read_landmarks(file)
    assert back.names == ("A",)
    assert back.points.tolist() == [[-1.0, -2.0, 3.0]]


def test_csv_without_header_as_statismo_writes_it(shared: Path) -> None:
    back = read_landmarks(shared / "meshes" / "femur" / "VSD001-lm.csv")
    assert back.names == ("A", "B", "C", "D")
    assert back["C"].tolist() == [660.5438, 481.79132, 159.55093]


def test_csv_of_pixels_and_csv_with_a_frame(tmp_path: Path) -> None:
    (tmp_path / "px.csv").write_text("name,column,row\nMOF-r,688.5,1325.25\n")
    assert read_landmarks(tmp_path / "px.csv").points.tolist() == [[688.5, 1325.25]]
    (tmp_path / "ras.csv").write_text("Label,x,y,z,frame\nA,1,2,3,RAS\nB,1,2,3,LPS\n")
    assert read_landmarks(tmp_path / "ras.csv").points.tolist() == [[-1.0, -2.0, 3.0], [1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "name,x,y,z\n"),
        ("a.csv", "name,x,y,z\nA,1,two,3\n"),
        ("a.csv", "name,x,y,z\nA,1,2\n"),
        ("a.csv", "name,x,y,z\nA,1,2,nan\n"),
        ("a.csv", "name,x,y,z\nA,1,2,3\nA,1,2,4\n"),
        ("a.csv", "who,where\nA,here\n"),
        ("a.csv", "name,x,y,z,frame\nA,1,2,3,MNI\n"),
        ("a.fcsv", "# CoordinateSystem = LPS\n"),
        ("a.fcsv", "# CoordinateSystem = LPS\n1,2\n"),
        ("a.fcsv", "# CoordinateSystem = IJK\n1,1,2,3,0,0,0,1,1,1,0,F-1,,\n"),
        ("a.mrk.json", "{}"),
        ("a.mrk.json", "[1]"),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"label": "A", "position": [1]}]}]}'),
        ("a.mrk.json", '{"markups": [3]}'),
        ("a.txt", "A 1 2 3"),
        ("a.csv", ""),
    ],
)
def test_what_cannot_be_used_is_one_line_naming_the_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_landmarks(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
