from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raylign import InputError, View
from raylign.geometry import se3
from raylign.io.views import read_view, stated_relationship, write_view

VIEW = View.from_carm(primary=20, secondary=-7, sid=1100, sod=700, pixel_spacing=(0.3, 0.4), shape=(100, 120))
K = [[1000.0, 0.0, 63.0], [0.0, 1010.0, 47.5], [0.0, 0.0, 1.0]]
TWIST = torch.tensor([0.1, -0.4, 0.2, 10.0, -20.0, 800.0], dtype=torch.float64)
R = se3.exp(TWIST)[:3, :3]
T = [10.0, -20.0, 800.0]


def pinhole(points: torch.Tensor) -> torch.Tensor:
    camera = (points @ R.T + torch.tensor(T, dtype=torch.float64)) @ torch.tensor(K, dtype=torch.float64).T
    return camera[:, :2] / camera[:, 2:]


def test_a_view_comes_back_to_the_bit(tmp_path: Path) -> None:
    write_view(VIEW, tmp_path / "v.view.json", relationship="LOG")
    assert read_view(tmp_path / "v.view.json") == VIEW
    assert stated_relationship(tmp_path / "v.view.json") == "LOG"


def test_a_carm_in_json(tmp_path: Path) -> None:
    values = {"primary": 20, "secondary": -7, "sid": 1100, "sod": 700, "pixel_spacing": [0.3, 0.4], "shape": [100, 120]}
    (tmp_path / "c.json").write_text(json.dumps(values))
    assert read_view(tmp_path / "c.json").isclose(VIEW)
    del values["primary"]
    (tmp_path / "c.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="missing primary"):
        read_view(tmp_path / "c.json")


def test_a_parallel_beam_in_json(tmp_path: Path) -> None:
    beam = View.from_parallel(primary=20, secondary=-7, pixel_spacing=(0.3, 0.4), shape=(100, 120))
    write_view(beam, tmp_path / "v.view.json")
    assert read_view(tmp_path / "v.view.json") == beam
    values = {"beam": "parallel", "primary": 20, "secondary": -7, "pixel_spacing": [0.3, 0.4], "shape": [100, 120]}
    for change, words in (({}, ""), ({"sid": 1100}, "sid of rays without a source"), ({"beam": "fan"}, "no K")):
        (tmp_path / "c.json").write_text(json.dumps({**values, **change}))
        if not words:
            assert read_view(tmp_path / "c.json") == beam
            continue
        with pytest.raises(InputError, match=words):
            read_view(tmp_path / "c.json")
    del values["shape"]
    (tmp_path / "c.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="parallel beam: missing shape"):
        read_view(tmp_path / "c.json")


AUTOSCOPER = "image size\n128,96\n\ncamera matrix\n{K}\n\nrotation\n{R}\n\ntranslation\n10.0\n-20.0\n800.0\n"
YAML = """%YAML:1.0
---
image_width: 128
image_height: 96
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ {K} ]
distortion_coefficients: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ 0., 0., 0., 0., {k} ]
rvec: [0.1, -0.4,
   0.2]
tvec: [10., -20., 800.]
"""


def _lines(rows: object) -> str:
    return "\n".join(",".join(repr(float(x)) for x in row) for row in rows)  # type: ignore[attr-defined]


def test_calibrations_project_as_their_pinhole_does(tmp_path: Path, generator: torch.Generator) -> None:
    flat = ", ".join(str(x) for row in K for x in row)
    (tmp_path / "cam.txt").write_text(AUTOSCOPER.format(K=_lines(K), R=_lines(R.tolist())))
    (tmp_path / "cam.yml").write_text(YAML.format(K=flat, k="0."))
    (tmp_path / "cam.json").write_text(json.dumps({"K": K, "R": R.tolist(), "t": T, "image_size": [128, 96]}))
    points = torch.randn(20, 3, generator=generator, dtype=torch.float64) * 30
    for name in ("cam.txt", "cam.yml", "cam.json"):
        view = read_view(tmp_path / name)
        assert view.shape == (96, 128)
        assert torch.allclose(view.project(points), pinhole(points), atol=1e-8), name


def test_lens_distortion_is_not_ignored(tmp_path: Path) -> None:
    (tmp_path / "cam.yml").write_text(YAML.format(K=", ".join(str(x) for row in K for x in row), k="0.01"))
    with pytest.raises(InputError, match="lens distortion"):
        read_view(tmp_path / "cam.yml")


def test_the_wrist_cameras(shared: Path, generator: torch.Generator) -> None:
    view = read_view(shared / "xray" / "wrist_biplane" / "xr_calib_wrist_cam01.txt")
    assert view.shape == (1760, 1760)
    # the numbers of the file, applied by hand
    r = torch.tensor(
        [
            [0.792589225007, -0.0592057161733, -0.606874784099],
            [0.0545361218268, 0.998169197702, -0.0261546205154],
            [0.607312219389, -0.0123667267546, 0.794367000982],
        ],
        dtype=torch.float64,
    )
    k = torch.tensor([[6167.35342293, 0, 803.741292437], [0, 6165.63244754, 865.698104164], [0, 0, 1]], dtype=torch.float64)
    points = torch.randn(20, 3, generator=generator, dtype=torch.float64) * 50 + torch.tensor([132.0, 117.0, 72.0])
    camera = (points @ r.T + torch.tensor([-16.6293306327, -77.8355084182, 901.390251307], dtype=torch.float64)) @ k.T
    assert torch.allclose(view.project(points), camera[:, :2] / camera[:, 2:], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("v.json", "{}"),
        ("v.json", '{"source": [0, 0, 1]}'),
        ("v.json", json.dumps({**VIEW.to_dict(), "source": ["a", 0, 0]})),
        ("v.json", json.dumps({**VIEW.to_dict(), "shape": [0, 5]})),
        ("v.json", json.dumps({"K": K, "R": R.tolist(), "t": T})),
        ("v.json", json.dumps({"K": K, "R": (2 * R).tolist(), "t": T, "shape": [9, 9]})),
        ("v.json", json.dumps({"K": K, "R": R.tolist(), "t": [1, 2], "shape": [9, 9]})),
        ("v.json", json.dumps({"K": [1, 2, 3], "R": R.tolist(), "t": T, "shape": [9, 9]})),
        ("v.txt", "1,2,3\n4,5,6\n"),
        ("v.txt", "image size\n12\n"),
        ("v.txt", "camera matrix\n1,2,x\n"),
        ("v.yml", "a: 1\n"),
        ("v.json", "not json"),
    ],
)
def test_what_cannot_be_used_is_one_line_naming_the_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_view(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
