"""Where instruments lie: tips at targets, shafts in vessels, nothing seen end-on, and the same for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.geometry import View, se3
from raylign.simulation.instruments import (
    INSTRUMENT_SETS,
    INSTRUMENTS,
    Catheter,
    GuideWire,
    InstrumentSet,
    KWire,
    Placed,
    Site,
    StentGraft,
    across,
    along,
    anywhere,
    at_target,
    draw_instrument,
    instrument_paths,
    lines,
    on_skin,
)
from raylign.simulation.seeds import generator

D = torch.float64
VIEW = View.from_carm(primary=20, secondary=-10, sid=1200, sod=800, pixel_spacing=1.5, shape=(128, 128))
TARGET = torch.tensor([10.0, -5.0, 20.0], dtype=D)


def vessel() -> torch.Tensor:
    t = np.linspace(0, 1, 80)
    return torch.from_numpy(np.stack([15 * np.sin(5 * t), 25 * np.cos(2 * t), -150 + 300 * t], 1))


def distance(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    fine = lines.at(line, np.linspace(0, lines.lengths(line)[-1], 2000))
    return np.linalg.norm(points[:, None] - fine[None], axis=2).min(1)


def same(a: Placed, b: Placed) -> bool:
    return torch.equal(a.pose, b.pose) and torch.equal(a.centre_line, b.centre_line)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_every_instrument_can_be_put_everywhere_and_stays_whole(name: str) -> None:
    site = Site(TARGET, vessels=(vessel(),))
    for seed in range(4):
        g = generator(seed)
        instrument = draw_instrument(name, g)
        for placed in (
            at_target(instrument, site, g), across(instrument, site, g), on_skin(instrument, site, g),
            anywhere(instrument, VIEW, site, g), along(instrument, vessel(), g),
        ):  # fmt: skip
            line = placed.centre_line.numpy()
            assert np.isfinite(line).all()
            assert np.allclose(line[0], placed.tip.numpy(), atol=1e-9)
            # the line leaves the tip along the pose's third axis, and is as long as the instrument's layers need
            out = (line[1] - line[0]) / np.linalg.norm(line[1] - line[0])
            assert out @ placed.pose[:3, 2].numpy() > 0.99
            assert lines.lengths(line)[-1] > 0.95 * instrument.length
            if not instrument.rigid:  # the shape of the tip is kept: distances between its points are
                here, rest = (lines.cut(x, 0.0, 0.98 * instrument.shaped) for x in (line, instrument.line.numpy()))
                ends = [np.linalg.norm(x[-1] - x[0]) for x in (here, rest)]
                assert ends[0] == pytest.approx(ends[1], abs=0.1)


def test_tips_are_at_the_target_when_they_are_not_spread() -> None:
    site = Site(TARGET, spread=0.0)
    for name in ("k_wire", "catheter", "drill", "echo_probe"):
        placed = at_target(draw_instrument(name, generator(1)), site, generator(2))
        assert torch.allclose(placed.tip, TARGET, atol=1e-9)


def test_tips_spread_and_shafts_turn_as_asked() -> None:
    site, pin = Site(TARGET, spread=12.0), KWire().instrument()
    mean = torch.tensor([0.0, 1.0, 0.0], dtype=D)
    some = [at_target(pin, site, generator(5, i), mean, 20.0) for i in range(400)]
    tips = torch.stack([p.tip for p in some])
    assert torch.allclose(tips.mean(0), TARGET, atol=2.0)
    assert torch.allclose(tips.std(0), torch.full((3,), 12.0, dtype=D), rtol=0.12)
    angles = torch.stack([p.pose[:3, 2] for p in some]) @ mean
    # two independent normal angles: their radius is Rayleigh's, with the mean sqrt(pi / 2) sigma
    assert math.degrees(float(angles.acos().mean())) == pytest.approx(20 * math.sqrt(math.pi / 2), rel=0.1)


def test_shafts_cross_the_body_where_they_should() -> None:
    site, pin = Site(TARGET, axis=torch.tensor([0.0, 0.0, 2.0])), KWire().instrument()
    directions = torch.stack([across(pin, site, generator(6, i), 10.0).pose[:3, 2] for i in range(300)])
    assert float(directions[:, 2].abs().mean()) < 0.2
    assert float(directions.mean(0).norm()) < 0.15  # to all sides
    skin = torch.stack([on_skin(pin, Site(TARGET, spread=0.0), generator(7, i)).tip for i in range(200)])
    radius = (skin - TARGET)[:, :2].norm(dim=1)
    assert float(radius.min()) >= 90 and float(radius.max()) <= 150


@pytest.mark.parametrize("design", [GuideWire(), Catheter(family="pigtail"), Catheter(family="judkins_left")])
def test_a_shaft_follows_its_vessel(design: GuideWire | Catheter) -> None:
    instrument, path = design.instrument(), vessel()
    for seed in range(5):
        placed = along(instrument, path, generator(seed), reach=(0.5, 1.0), wobble=1.0)
        line = placed.centre_line.numpy()
        s = lines.lengths(line)
        inside = lines.at(line, np.linspace(instrument.shaped + 1, instrument.shaped + 120, 60), s)
        assert distance(inside, path.numpy()).max() < 6
        assert distance(line[:1], path.numpy()).max() < instrument.shaped + 3
        # before the vessel it goes on where the vessel came from
        assert line[-1, 2] < -150
    straight = along(instrument, path, generator(9), reach=(1.0, 1.0), wobble=0.0).centre_line.numpy()
    after = lines.cut(straight, instrument.shaped, instrument.shaped + 250)
    assert distance(after, path.numpy()).max() < 0.1


def test_a_stent_graft_lies_in_the_aorta() -> None:
    graft = StentGraft().instrument()
    placed = along(graft, vessel(), generator(3))
    assert distance(placed.centre_line.numpy(), vessel().numpy()).max() < 0.5
    assert placed.pose[2, 2] < -0.5  # +z runs from its proximal end down towards where it came from


def test_anywhere_is_in_the_picture_and_not_end_on() -> None:
    pin = KWire().instrument()
    some = [anywhere(pin, VIEW, Site(TARGET), generator(8, i)) for i in range(200)]
    at = VIEW.project(torch.stack([p.tip for p in some]))
    assert float(at.min()) >= 0 and float(at.max()) <= 127
    assert float(at.std(0).min()) > 30  # uniform over 128 pixels has 37
    for p in some:
        ray = p.tip - VIEW.source
        assert abs(float(p.pose[:3, 2] @ ray / ray.norm())) < math.cos(math.radians(30)) + 1e-9


def test_the_same_seed_puts_the_same_instruments_in_the_same_places() -> None:
    site = Site(TARGET, vessels=(vessel(),))
    for name, some in INSTRUMENT_SETS.items():
        one, two, three = (some.draw(VIEW, site, generator(s, 4)) for s in (1, 1, 2))
        assert len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True)), name
        assert len(one) != len(three) or not all(same(a, b) for a, b in zip(one, three, strict=True)), name


def test_sets_hold_what_they_say() -> None:
    site = Site(TARGET)
    some = InstrumentSet({"k_wire": 3.0, "needle": 1.0, "drill": 0.0}, least=1, most=3, any=0.8)
    drawn = [some.draw(VIEW, site, generator(2, i)) for i in range(300)]
    counts = np.bincount([len(d) for d in drawn], minlength=4)
    assert counts[0] == pytest.approx(60, abs=25)
    assert np.allclose(counts[1:4], 80, atol=30)
    names = [p.instrument.name for d in drawn for p in d]
    assert set(names) == {"Kirschner wire", "needle"}
    assert names.count("Kirschner wire") / len(names) == pytest.approx(0.75, abs=0.08)
    only = InstrumentSet({"drill": 1.0}, least=3, most=3).draw(VIEW, site, generator(1))
    assert len(only) == 1  # a picture has one drill


def test_instruments_near_the_target_are_in_the_picture() -> None:
    site = Site(TARGET, vessels=(vessel(),))
    for name in ("cardiac", "spine", "pelvis", "vascular"):
        drawn = [INSTRUMENT_SETS[name].draw(VIEW, site, generator(3, i)) for i in range(12)]
        paths = instrument_paths(drawn, VIEW)
        seen = torch.stack(list(paths.values())).sum(0).flatten(1).amax(1) > 0.1
        assert float(seen.double().mean()) > 0.8, name


def test_a_site_moves_with_the_patient() -> None:
    pose = se3.exp(torch.tensor([0.3, -0.2, 0.5, 30.0, 10.0, -20.0], dtype=D))
    site = Site(TARGET, vessels=(vessel(),), spread=4.0)
    moved = site.moved(pose)
    assert torch.allclose(moved.target, se3.transform(pose, TARGET[None])[0])
    assert torch.allclose(moved.axis, pose[:3, 2])
    assert torch.allclose(moved.vessels[0], se3.transform(pose, vessel()))
    assert moved.spread == 4.0


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"target": torch.tensor([math.nan, 0, 0])}, "target"),
        ({"target": TARGET, "axis": torch.zeros(3)}, "no length"),
        ({"target": TARGET, "spread": -1.0}, "spread"),
        ({"target": TARGET, "vessels": (torch.zeros(1, 3),)}, "two finite"),
    ],
)
def test_a_site_that_is_none_is_refused(what: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Site(**what)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"weights": {"spoon": 1.0}}, "spoon"),
        ({"weights": {"drill": 0.0}}, "all zero"),
        ({"least": 3, "most": 2}, "least"),
        ({"near": 1.5}, "probability"),
    ],
)
def test_a_set_that_is_none_is_refused(what: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        InstrumentSet(**what)  # type: ignore[arg-type]
