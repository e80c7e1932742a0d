"""Instruments are what they are sold as: sizes, closed surfaces, threads, electrodes, shapes of tips."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.geometry import View
from raylign.projection.mesh_surface import closed_surface
from raylign.simulation.instruments import (
    INSTRUMENTS,
    BoneScrew,
    Catheter,
    Drill,
    EchoProbe,
    ElectrodeCatheter,
    GuideWire,
    KWire,
    Needle,
    PedicleScrew,
    StentGraft,
    as_bodies,
    draw_instrument,
    instrument_paths,
    lines,
    tube_mesh,
)
from raylign.simulation.instruments.surfaces import box_mesh, field_mesh, oval_mesh, turned_mesh
from raylign.simulation.instruments.vascular import barium, tungsten
from raylign.simulation.seeds import generator


def volume(mesh: object) -> float:
    trimesh = pytest.importorskip("trimesh")
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)  # type: ignore[attr-defined]
    assert solid.is_watertight and solid.is_winding_consistent
    return float(solid.volume)


# -- lines -------------------------------------------------------------------------------------------------------------


def test_frames_are_rotations_that_do_not_twist() -> None:
    """Along a closed planar curve, and along a straight one after a bend, the frame comes back as it was."""
    angle = np.linspace(0, 2 * math.pi, 200)
    ring = np.stack([30 * np.cos(angle), 30 * np.sin(angle), 0 * angle], 1)
    axes = lines.frames(ring, np.array([0.0, 0.0, 1.0]))
    assert np.allclose(np.einsum("nij,nik->njk", axes, axes), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(axes), 1)
    assert np.allclose(axes[:, :, 0], [0, 0, 1], atol=1e-9)
    # between neighbours a frame turns about an axis across the curve: nothing of it is twist
    helix = lines.helix(10, 20, 100, 60)
    turn = np.einsum("nij,nik->njk", lines.frames(helix)[:-1], lines.frames(helix)[1:])
    assert np.abs(turn[:, 0, 1] - turn[:, 1, 0]).max() < 1e-3


def test_a_cut_has_the_length_asked_for_and_goes_on_straight() -> None:
    line = lines.helix(10, 20, 100, 60)
    s = lines.lengths(line)
    assert s[-1] == pytest.approx(100 * math.hypot(1, 2 * math.pi * 10 / 20), rel=2e-3)
    assert lines.lengths(lines.cut(line, 13.2, 57.9))[-1] == pytest.approx(44.7)
    beyond = lines.cut(line, s[-1] - 1, s[-1] + 9)
    assert lines.lengths(beyond)[-1] == pytest.approx(10)
    assert np.allclose(lines.cut(line, 3.0, 9.0)[[0, -1]], lines.at(line, np.array([3.0, 9.0])))


def test_thinning_keeps_the_curve() -> None:
    line = lines.arcs(((20.0, 0.0), (30.0, 250.0), (100.0, 0.0)), step=0.1)
    few = lines.thinned(line, 0.03)
    assert len(few) < 50 < len(line)
    # every point of the fine line lies within the tolerance (give or take its ends' approximation) of the coarse one
    a, b = few[:-1], few[1:]
    u = np.clip(np.einsum("nmk,mk->nm", line[:, None] - a, b - a) / ((b - a) ** 2).sum(1), 0, 1)
    gap = np.linalg.norm(line[:, None] - a - u[..., None] * (b - a), axis=2).min(1)
    assert gap.max() < 0.06
    assert np.allclose(few[[0, -1]], line[[0, -1]])


# -- surfaces ----------------------------------------------------------------------------------------------------------


def test_surfaces_are_closed_and_hold_what_they_should() -> None:
    assert volume(box_mesh((0, 0, 0), (1, 2, 3))) == pytest.approx(6)
    assert volume(turned_mesh([(0, 2.0), (5, 2.0)])) == pytest.approx(20 * math.pi)
    z = np.linspace(0, 4, 9)
    assert volume(oval_mesh(z, np.full(9, 2.0), np.full(9, 1.0), sides=120)) == pytest.approx(8 * math.pi, rel=2e-3)
    assert volume(field_mesh(z, np.full((9, 90), 1.5))) == pytest.approx(9 * math.pi, rel=2e-3)
    helix = lines.thinned(lines.helix(12, 25, 60, 60), 0.01)
    long = lines.lengths(helix)[-1]
    assert volume(tube_mesh(helix, 3.0)) == pytest.approx(9 * math.pi * long, rel=1e-3)
    assert volume(tube_mesh(helix, 3.0, 2.0)) == pytest.approx(5 * math.pi * long, rel=1e-3)
    with pytest.raises(InputError, match="no wall"):
        tube_mesh(helix, 1.0, 1.0)


@pytest.mark.parametrize("name", INSTRUMENTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_part_of_every_instrument_is_closed_and_wound_outwards(name: str, seed: int) -> None:
    placed = draw_instrument(name, generator(seed)).placed()
    for body in as_bodies(placed, sides=8):
        closed_surface(body.mesh)
        assert volume(body.mesh) > 0, body.mesh.name


# -- designs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_designs_are_drawn_within_their_ranges_and_by_their_seed(name: str) -> None:
    kind = INSTRUMENTS[name]
    drawn = [kind.draw(generator(3, i)) for i in range(60)]
    assert drawn == [kind.draw(generator(3, i)) for i in range(60)]
    for field in dataclasses.fields(kind):
        values = [getattr(d, field.name) for d in drawn]
        if "choices" in field.metadata:
            assert set(values) == set(field.metadata["choices"])
        else:
            low, high = field.metadata["range"]
            assert low <= min(values) < low + 0.2 * (high - low) and high - 0.2 * (high - low) < max(values) <= high
            for bad in (low - 1, high + 1, math.nan):
                with pytest.raises(InputError, match=field.name):
                    kind(**{field.name: bad})
    with pytest.raises(TypeError):
        kind(nothing_of_the_kind=1)
    instrument = kind().instrument()
    assert torch.equal(instrument.line[0], torch.zeros(3, dtype=torch.float64))
    assert float((instrument.line[1] - instrument.line[0])[2]) > 0


def test_unknown_kinds_and_choices_are_refused() -> None:
    with pytest.raises(InputError, match="choose one of guide_wire"):
        draw_instrument("spoon", generator(0))
    with pytest.raises(InputError, match="judkins_left"):
        Catheter(family="spoon")


def profile(design: object, pitch: float, shape: tuple[int, int], material: str, shift: float = 0.0) -> np.ndarray:
    """mm of a material along the axis of an instrument that lies along the rows of a parallel view, summed across it."""
    v = View.from_parallel(direction=(0.0, 1.0, 0.0), pixel_spacing=pitch, shape=shape)
    pose = torch.eye(4, dtype=torch.float64)
    pose[2, 3] = shift
    image = instrument_paths([[design.instrument().placed(pose)]], v)[material][0]  # type: ignore[attr-defined]
    return image.numpy()


@pytest.mark.parametrize(("kind", "pitch"), [("HB6.5", 2.75), ("HA4.5", 1.75), ("HA3.5", 1.25), ("HB4.0", 1.75)])
def test_the_thread_of_a_screw_has_its_pitch_and_its_diameters(kind: str, pitch: float) -> None:
    screw = BoneScrew(kind=kind, length_mm=60.0, thread_mm=32.0)
    image = profile(screw, 0.1, (800, 200), "titanium", -30.0)
    # the image's rows run from the head to the feet, along -z: the tip is below. One side of the shadow, since the other side's
    # crests stand opposite its valleys
    edge = (image[:, 100:] > 0).sum(1)[::-1] * 0.1
    tip = int(np.argmax(edge > 0))
    shaft = edge[tip + 80 : tip + 280]

    def strength(p: float) -> float:
        return float(abs((shaft - shaft.mean()) @ np.exp(2j * math.pi * np.arange(len(shaft)) * 0.1 / p)))

    assert strength(pitch) > 3 * max(strength(0.8 * pitch), strength(1.3 * pitch))
    outer, core = {"HB6.5": (6.5, 3.0), "HA4.5": (4.5, 3.0), "HA3.5": (3.5, 2.4), "HB4.0": (4.0, 1.9)}[kind]
    assert shaft.max() == pytest.approx(outer / 2, abs=0.11)
    assert shaft.min() == pytest.approx(core / 2, abs=0.11)
    assert image.max() <= 8.3


def test_a_pedicle_screw_is_as_heavy_as_its_cylinders() -> None:
    """Between the cylinders of core and crest, and the head weighs more than the shank."""
    screw = PedicleScrew(diameter_mm=6.0, length_mm=45.0)
    by_name = {b.mesh.name: volume(b.mesh) for b in screw.instrument().placed().bodies}
    assert math.pi * 1.7**2 * 45 < by_name["shank"] < math.pi * 3.0**2 * 45
    assert by_name["saddle"] + by_name["arm"] > 0.3 * by_name["shank"]
    assert len(PedicleScrew(rod=True).instrument().fixed) == len(screw.instrument().fixed) + 2


def test_a_drill_has_two_flutes() -> None:
    bit = next(b for b in Drill(bit_mm=3.2).instrument().placed().bodies if b.mesh.name == "bit")
    v = bit.mesh.vertices.numpy()
    ring = v[np.isclose(v[:, 2], v[np.argmin(np.abs(v[:, 2] - 20)), 2])]
    r = np.hypot(ring[:, 0], ring[:, 1])
    spectrum = np.abs(np.fft.fft(r - r.mean()))
    assert np.argmax(spectrum[:10]) == 2
    assert volume(bit.mesh) < 0.9 * math.pi * 1.6**2 * 0.6 * 90


def test_an_electrode_catheter_shows_its_poles() -> None:
    for poles in (4, 10, 20):
        catheter = ElectrodeCatheter(poles=poles, bend_degrees=0.0, tip_mm=2.0)
        image = profile(catheter, 0.1, (1400, 100), "platinum", -60.0)
        on = image.max(1) > 0.2
        assert int((on[1:] & ~on[:-1]).sum() + on[0]) == poles


def test_tips_have_the_shapes_that_they_are_named_for() -> None:
    def tip(family: str, reach: float = 40.0) -> np.ndarray:
        it = Catheter(family=family, reach_mm=reach).instrument()
        return lines.cut(it.line.numpy(), 0.0, it.shaped + 40)

    def heading(line: np.ndarray) -> float:
        """Degrees between the way the tip points and the shaft's direction towards it."""
        a, b = line[0] - line[1], line[-2] - line[-1]
        return math.degrees(math.acos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))

    assert heading(tip("straight")) == pytest.approx(0, abs=0.1)
    assert heading(tip("multipurpose")) == pytest.approx(60, abs=3)
    assert heading(tip("judkins_left")) == pytest.approx(70, abs=4)
    pigtail = tip("pigtail")
    loop = pigtail[lines.lengths(pigtail) < 30]
    assert 8 < np.ptp(loop, axis=0).max() < 12  # mm across
    # a JL5 spans a centimetre more than a JL4
    spans = [np.linalg.norm(tip("judkins_left", r)[:, [0, 2]], axis=1).max() for r in (40.0, 50.0)]
    assert spans[1] > spans[0] + 5


def test_wires_and_needles_have_their_diameters() -> None:
    assert max(layer.outer for layer in GuideWire(inches=0.035).instrument().layers) == pytest.approx(0.889 / 2)
    assert max(layer.outer for layer in Catheter(french=6).instrument().layers) == pytest.approx(1.0)
    assert max(layer.outer for layer in KWire(diameter_mm=2.0).instrument().layers) == pytest.approx(1.0)
    assert Needle(gauge=18).instrument().layers[0].outer == pytest.approx(0.635)
    j = GuideWire(tip="J3").instrument().line.numpy()
    assert np.linalg.norm(lines.cut(j, 0, 3 * math.pi)[-1]) == pytest.approx(6.0, abs=0.1)  # twice the radius


def test_a_stent_graft_has_two_legs_and_a_probe_its_tip() -> None:
    graft = StentGraft(short=0.4)
    image = profile(graft, 0.5, (400, 200), "nitinol", -80.0)
    rows = np.flatnonzero(image.sum(1) > 0)
    lowest = image[rows[0] + 10 : rows[0] + 20].sum(0)  # rows count from the head: the graft's far end, one leg
    assert np.ptp(np.flatnonzero(lowest)) * 0.5 < 22
    assert (rows[-1] - rows[0]) * 0.5 == pytest.approx(64.4 + 5 * 16.1, abs=17)
    probe = EchoProbe(wide_mm=14.5, deep_mm=11.5, tip_mm=40.0)
    housing = next(b.mesh for b in probe.instrument().placed().bodies if b.mesh.name == "housing")
    assert np.allclose(np.ptp(housing.vertices.numpy(), axis=0), [14.5, 11.5, 40.0], atol=0.15)


def test_fillers_attenuate_as_the_compounds_that_they_stand_for() -> None:
    xraydb = pytest.importorskip("xraydb")
    energies = np.array([50e3, 60e3, 80e3])
    density = 1 / (0.3 / 4.5 + 0.7 / 1.12)
    real = xraydb.material_mu("BaSO4", energies, density=0.3 * density, kind="photo") / 10
    model = barium(0.3) * xraydb.material_mu("I", energies, density=4.93, kind="photo") / 10
    assert np.allclose(model, real, rtol=0.2)
    assert tungsten(0.5) == pytest.approx(0.0548, abs=1e-3)
    assert barium(0.4) > barium(0.2) > 0
