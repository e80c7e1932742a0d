from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from raylign import InputError
from raylign.evaluation import charts, gather, markup, panels, sections
from raylign.evaluation.content import Exposure
from raylign.evaluation.report import report_html, write_report
from raylign.evaluation.sections import verdict
from raylign.registration.result import Confidence
from tests.evaluation import scene

VOID = {"meta", "input", "br", "img", "link", "hr"}
SECTIONS = ("exposures", "convergence", "pose", "uncertainty", "truth", "use", "timings", "again")


class Page(HTMLParser):
    """Collects elements and text, and insists that every element is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def ids(self) -> list[str]:
        return [a["id"] for _, a in self.elements if a.get("id")]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_section_is_there(count: int) -> None:
    page = Page(report_html(scene.content(count)))
    ids = page.ids()
    assert set(SECTIONS) <= set(ids)
    assert len(ids) == len(set(ids))
    assert sum(a.get("class") == "stage" for _, a in page.elements) == count
    for k in range(count):
        assert f"view {k}.dcm" in page.text
    assert "raylign register ct AP.dcm --out out" in page.text
    assert "seed 7" in page.text.lower()
    assert "LAO" in page.text


def test_nothing_comes_from_outside() -> None:
    source = report_html(scene.content(2))
    page = Page(source)
    ids = set(page.ids())
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            address = attributes.get(name)
            if address is None:
                continue
            assert address.startswith(("data:image/", "#")), (tag, name, address[:60])
            assert not address.startswith("#") or address[1:] in ids, address
    without_images = re.sub(r"data:image/[^\"]*", "", source)
    assert "http:" not in without_images and "https:" not in without_images and "//cdn" not in without_images
    assert "@import" not in without_images
    assert all(target in ids for target in re.findall(r"url\(#([^)]+)\)", without_images))
    assert "url(" not in re.sub(r"url\(#", "", without_images)


def test_names_from_files_cannot_become_markup() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\x1b"
    result = scene.result(
        confidence=Confidence(0.2, False, (evil,)), settings={evil: evil}, versions={evil: evil}, timings={evil: 1.0}, method=evil
    )
    shown = scene.content(result=result, exposures=(scene.exposure(evil),), command=evil, inputs={evil: evil})
    source = report_html(shown)
    page = Page(source)
    assert not any("onerror" in a for _, a in page.elements)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert not any(tag == "img" for tag, _ in page.elements)
    assert "<script>alert" not in source and "\x00" not in source and "\x1b" not in source
    assert "alert(1)" in page.text  # shown, as text


def test_json_in_the_page_cannot_close_its_element() -> None:
    element = markup.data("x", {"a": "</script>", "b": float("nan"), "c": [float("inf"), 1.5]})
    body = re.fullmatch(r"<script[^>]*>(.*)</script>", element, re.S)
    assert body is not None and "<" not in body.group(1)
    assert json.loads(body.group(1)) == {"a": "</script>", "b": None, "c": [None, 1.5]}


def test_the_verdict_is_in_plain_words() -> None:
    result = scene.result()
    said = verdict(result, (scene.exposure(),))
    assert re.fullmatch(
        r"Registered\. The model moved 15\.\d mm and 6\.\d degrees from where it started\. "
        r"One standard deviation is 0\.[1-3] mm in the image plane and 1\.2 mm along the ray\.",
        said,
    ), said
    assert "Similarity (1 is a perfect match)" in Page(report_html(scene.content())).text
    walked = Page(report_html(scene.content(result=scene.result(method="imitation-agent")))).text
    assert "Share of its walks that agree" in walked and "Similarity (1" not in walked
    doubted = scene.result(confidence=Confidence(0.3, False, ("Half of the starts ended elsewhere.",)))
    page = Page(report_html(scene.content(result=doubted)))
    assert verdict(doubted, (scene.exposure(),)).startswith("Not to be trusted.")
    assert "Do not use without checking" in page.text and "Half of the starts ended elsewhere." in page.text
    assert "Trusted" not in page.text.replace("Not to be trusted", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"covariance": torch.full((6, 6), float("nan"), dtype=torch.float64)},
        {"covariance": torch.zeros(6, 6, dtype=torch.float64)},
        {"trajectory": ()},
        {"timings": {}, "settings": {}, "versions": {}},
        {"score": float("nan")},
    ],
)
def test_a_result_with_holes_is_still_reported(changes: dict[str, object]) -> None:
    page = Page(report_html(scene.content(result=scene.result(**changes), truth=None, points=None)))
    assert "nan" not in page.text.lower().split()
    assert "truth" not in page.ids()


@pytest.mark.parametrize("costs", [(float("nan"),) * 3, (0.0, 0.0, 0.0), (-0.2, -0.5, -0.9), (float("inf"), 2.0, 1.0)])
def test_any_cost_is_drawn(costs: tuple[float, ...]) -> None:
    from dataclasses import replace

    steps = tuple(replace(s, cost=c) for s, c in zip(scene.result().trajectory, costs, strict=False))
    source = report_html(scene.content(result=scene.result(trajectory=steps)))
    points = re.findall(r'points="([^"]*)"', source)
    assert points and not any("nan" in p or "inf" in p for p in points)


def test_tables_have_headings_and_figures_have_words() -> None:
    page = Page(report_html(scene.content(2)))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption") == tags.count("thead")
    heads = [a for tag, a in page.elements if tag == "th"]
    assert heads and all(a.get("scope") in ("row", "col") for a in heads)
    for k, (tag, attributes) in enumerate(page.elements):
        if tag == "svg" and attributes.get("role") == "img":
            assert attributes.get("aria-label") or page.elements[k + 1][0] == "title"
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
        if tag == "input" and attributes.get("type") == "range":
            assert attributes.get("aria-label") or attributes.get("id")


def test_the_page_replays_points_where_the_view_puts_them() -> None:
    """What the script computes, camera times pose times point, is the view's own projection in the figure's pixels."""
    content = scene.content(2)
    source = report_html(content)
    found = re.search(r'<script type="application/json" id="replay">(.*?)</script>', source, re.S)
    assert found is not None
    replay = json.loads(found.group(1))
    assert len(replay["steps"]) == len(content.result.trajectory)
    points = torch.cat([content.points, torch.ones(4, 1, dtype=torch.float64)], 1)
    width = panels.longest_side(2)
    for exposure, camera in zip(content.exposures, replay["cameras"], strict=True):
        for step, made in zip(replay["steps"], content.result.trajectory, strict=True):
            pose = torch.cat([torch.tensor(step["pose"], dtype=torch.float64).view(3, 4), torch.tensor([[0.0, 0, 0, 1]])])
            q = torch.tensor(camera, dtype=torch.float64).view(3, 4) @ (pose @ points.T)
            world = content.points @ made.matrix[:3, :3].T + made.matrix[:3, 3]
            expected = (exposure.view.project(world) + 0.5) * width / exposure.view.shape[1]
            assert torch.allclose((q[:2] / q[2]).T, expected, atol=0.01)


def test_the_ellipse_lies_along_the_covariance() -> None:
    """A covariance along (1, 1): in a picture whose vertical runs down, that is 45 degrees turned clockwise as SVG counts."""
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    drawn = charts.ellipse_chart(charts.Ellipse("t", covariance, "x", "y", 5.0))
    rx, ry, angle = (
        float(x) for x in re.search(r'class="inner" rx="([\d.]+)" ry="([\d.]+)".*?rotate\(([-\d.]+)\)', drawn).groups()
    )
    assert angle % 180 == pytest.approx(45)
    assert rx / ry == pytest.approx((1.9 / 0.1) ** 0.5, rel=0.01)


def test_numbers_read_well() -> None:
    assert markup.number(-1.234, 1) == "−1.2"
    assert markup.number(1.26, 1, signed=True) == "+1.3"
    assert markup.number(float("inf")) == "not determined"
    assert markup.number(0.0123, 1) == "0.012"
    assert markup.number(-1e-12) in ("0.00", "0.000000")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("what was there before")
    broken = scene.content()
    monkeypatch.setattr(panels.overlay, "contours", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(path, broken)
    assert path.read_text() == "what was there before"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    monkeypatch.undo()
    write_report(path, broken)
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"report\.html"):
        write_report(tmp_path / "file" / "report.html", scene.content())


def test_it_is_small() -> None:
    assert len(report_html(scene.content(2))) < 3_000_000


def test_images_of_another_size_than_the_view_are_refused() -> None:
    with pytest.raises(InputError, match="fixed"):
        Exposure("a", scene.view(), torch.zeros(4, 4), torch.zeros(4, 4), torch.zeros(4, 4))
    with pytest.raises(InputError, match="no image"):
        Exposure("a", scene.view(), scene.disc(1, 1, 1), torch.zeros(4, 4, 1), torch.zeros(4, 4))


def test_points_are_found_on_the_surface_of_a_ball() -> None:
    from raylign.data import Volume

    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (40, 50, 60)), indexing="ij")
    ball = ((x - 30) ** 2 + (y - 20) ** 2 + (z - 22) ** 2).sqrt() < 12
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    affine[0, 3] = 100
    for volume in (Volume(torch.where(ball, 900.0, -1000.0), affine, "HU"), Volume(ball * 0.05, affine)):
        points = gather.surface_points(volume, 100)
        radius = ((points - torch.tensor([160.0, 20, 22])) / torch.tensor([2.0, 1, 1])).norm(dim=1)
        assert points.shape == (100, 3)
        assert radius.min() > 10.2 and radius.max() < 12
        assert torch.equal(points, gather.surface_points(volume, 100))
    with pytest.raises(InputError, match="one value"):
        gather.surface_points(Volume(torch.zeros(4, 4, 4), affine))


def test_a_registration_is_rendered_at_its_start_and_end() -> None:
    """A ball at the isocentre at the end, 20 mm to the left of the patient at the start."""
    from dataclasses import replace

    from raylign.data import Volume, XRay
    from raylign.geometry import Rigid, View
    from raylign.registration.problem import Problem

    z, y, x = torch.meshgrid(*(torch.arange(32, dtype=torch.float32),) * 3, indexing="ij")
    ball = ((x - 15.5) ** 2 + (y - 15.5) ** 2 + (z - 15.5) ** 2).sqrt() < 8
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 3] = -15.5
    start = torch.eye(4, dtype=torch.float64)
    start[0, 3] = 20
    view = View.from_carm(primary=0, secondary=0, sid=1000, sod=500, pixel_spacing=1.0, shape=(160, 200))
    xray = XRay(torch.rand(160, 200), view, torch.ones(160, 200, dtype=torch.bool), name="x.png")
    result = replace(scene.result(), start=Rigid(start), transform=Rigid(torch.eye(4, dtype=torch.float64)))
    problem = Problem(Volume(ball * 0.02, affine), (xray,), Rigid(start))
    (shown,) = gather.rendered(problem, result, lambda model, v, pose: torch.ones(v.shape, dtype=torch.bool), longest=100)
    assert shown.moving_at_end.shape == shown.covered_at_end.shape == (80, 100)
    columns = torch.arange(100)
    for image, expected in ((shown.moving_at_start, 49.5 + 20), (shown.moving_at_end, 49.5)):
        assert float((image.sum(0) * columns).sum() / image.sum()) == pytest.approx(expected, abs=0.2)


def test_small_reaches_and_small_probabilities_keep_their_figures() -> None:
    covariance = torch.eye(2, dtype=torch.float64) * 1e-6
    assert ">0.005 mm<" in charts.ellipse_chart(charts.Ellipse("t", covariance, "x", "y", 0.005))
    told = [sections._percent(p) for p in (0.0, 0.0003, 0.003, 0.5, 0.9999, 1.0)]
    assert told == ["0 %", "under 0.1 %", "0.3 %", "50 %", "99.9 %", "100 %"]
