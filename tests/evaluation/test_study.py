"""The page of an evaluation: complete, closed to the network, well formed, and true to the numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raylign.data import Volume, XRay
from raylign.evaluation import study_cases, study_charts, study_spread
from raylign.evaluation.record import Record
from raylign.evaluation.study import report_html, write_report
from raylign.evaluation.study_charts import Plot, Scale, Series, Violin, log_scale, plot, violins
from raylign.evaluation.study_content import study_of
from raylign.evaluation.study_sections import share
from raylign.geometry import Rigid, View
from tests.evaluation.test_tables import BROKEN, protocol, record, study

RUN = {"seed": 0, "cases": 10, "versions": {"raylign": "0.1"}, "commit": "c0ffee", "machine": {"cores": 2}, "data": None}


class Balance(HTMLParser):
    """Tags that are not closed in order, every address, and every id."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def parsed(html: str) -> Balance:
    found = Balance()
    found.feed(html)
    return found


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases are made again at once: a block of bone in one small view."""
    from raylign.evaluation import cases

    def make(protocol: object, index: int, seed: int, data: Path | None) -> SimpleNamespace:
        data_ = torch.zeros(12, 12, 12)
        data_[3:9, 3:9, 3:9] = 0.03
        affine = torch.diag(torch.tensor([8.0, 8, 8, 1], dtype=torch.float64))
        affine[:3, 3] = -44
        view = View.from_carm(primary=0, secondary=0, sid=1000, sod=700, pixel_spacing=4, shape=(40, 50))
        image = torch.rand(40, 50, generator=torch.Generator().manual_seed(index))
        xray = XRay(image, view, torch.ones(40, 50, dtype=torch.bool), name="view 0")
        pose = Rigid(torch.eye(4, dtype=torch.float64))
        model = Volume(data_, affine, "1/mm")
        return SimpleNamespace(name=f"case {index}", model=model, xrays=(xray,), pose=pose, centre=torch.zeros(3))

    monkeypatch.setattr(cases, "make_case", make)


def rigid(records: list[Record]) -> list[Record]:
    eye = tuple(torch.eye(4, dtype=torch.float64).flatten().tolist())
    return [replace(r, start=eye, pose=None if r.pose is None else eye) for r in records]


def whole() -> list[Record]:
    """All that a page can show: several methods, arms, bounds, failures."""
    first = [replace(r, bound_in_plane=0.05, bound_depth=0.2) for r in study()]
    return rigid([*first, *(replace(r, arm="dose 100", case=r.case + 100, name="<b>dim</b> & dark") for r in first)])


def robust() -> object:
    return protocol(disturbances=({"kind": "dose", "levels": (100.0,)},))


def test_the_page_is_whole_and_closed(tmp_path: Path) -> None:
    write_report(whole(), robust(), RUN, tmp_path)
    html = (tmp_path / "report.html").read_text()
    found = parsed(html)
    assert not found.wrong and not found.open
    assert len(found.ids) == len(set(found.ids))
    assert all(a.startswith(("#", "data:image/jpeg;base64,")) for a in found.addresses)
    assert "default-src 'none'" in html and "://" not in html
    sections = {"summary", "success", "errors", "confidence", "robustness", "efficiency", "times", "worst", "failures", "again"}
    assert sections <= set(found.ids)
    assert {f"#{name}" for name in sections} <= set(found.addresses)
    assert (tmp_path / "times.csv").exists()


def test_what_came_from_outside_is_escaped(tmp_path: Path) -> None:
    html = report_html(study_of(whole(), robust(), RUN, tmp_path))
    assert "<b>dim</b>" not in html and "&lt;b&gt;dim&lt;/b&gt; &amp; dark" in html


def test_the_headline_says_the_best_and_counts_silent_failures(tmp_path: Path) -> None:
    html = report_html(study_of(rigid(study()), protocol(), RUN, tmp_path))
    assert "Best of 2 methods is direct: 60 % under 2 mm mTRE" in html
    assert "median 1.00 mm, over 10 cases of 5 subjects" in html
    assert "10 silent failures" in html  # all of them of CMA-ES
    quiet = report_html(study_of([r for r in rigid(study()) if r.method == "direct"], protocol(), RUN, tmp_path))
    assert "No silent failure" in quiet and "Best of" not in quiet


def test_no_silent_failure_is_good_news_only_of_a_method_that_trusts_and_ends(tmp_path: Path) -> None:
    def headline(records: list[Record]) -> str:
        return report_html(study_of(rigid(records), protocol(), RUN, tmp_path))

    good = [record(k) for k in range(4)]
    assert 'class="verdict ok"' in headline(good)
    mute = headline([replace(r, trusted=False) for r in good])
    assert 'class="verdict neutral"' in mute and "No silent failure, and nothing was trusted" in mute
    broken = headline([*good[:3], record(3, **BROKEN)])
    assert 'class="verdict neutral"' in broken and "No silent failure; 1 without a result" in broken
    crashed = headline([record(k, **BROKEN) for k in range(3)])
    assert 'class="verdict neutral"' in crashed and 'class="verdict ok"' not in crashed


def test_what_lies_in_no_bin_is_said(tmp_path: Path) -> None:
    html = report_html(study_of(rigid([record(k) for k in range(4)]), protocol(), RUN, tmp_path))
    assert "In no bin" not in html
    html = report_html(study_of(rigid([record(k) for k in range(4)]), protocol(starts="center"), RUN, tmp_path))
    assert "In no bin: direct 4 of 4." in html and not parsed(html).wrong
    lost = replace(record(3, **BROKEN), start_mtre=None)
    html = report_html(study_of([*rigid([record(k) for k in range(3)]), lost], protocol(), RUN, tmp_path))
    assert "In no bin: direct 1 of 4 (of 1 no start is known" in html


def test_a_bound_that_could_not_be_worked_out_is_a_sentence(tmp_path: Path) -> None:
    records = [record(0), record(1, bound_failure="ValueError: <none>")]
    html = report_html(study_of(rigid(records), protocol(), RUN, tmp_path))
    assert "Of 1 cases no bound could be worked out; first case 1: ValueError: &lt;none&gt;" in html


def test_the_worst_come_first_each_with_a_picture_and_a_command(tmp_path: Path) -> None:
    html = report_html(study_of(rigid(study()), protocol(), RUN, tmp_path / "run"))
    order = re.findall(r"<h3>Case (\d+):", html)
    assert order == ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]  # the one without a result is the worst
    assert f"raylign evaluate {tmp_path / 'run'} --replay 8 --method direct -o case-8" in html
    assert html.count("data:image/jpeg") == 20
    assert "RuntimeError: no" in html


def test_a_case_that_cannot_be_made_again_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raylign.evaluation import cases

    def gone(*_: object) -> None:
        raise FileNotFoundError("the scan has gone")

    monkeypatch.setattr(cases, "make_case", gone)
    html = report_html(study_of(rigid(study()), protocol(), RUN, tmp_path))
    assert html.count("could not be made again (FileNotFoundError: the scan has gone)") == study_cases.MOST


def test_no_records_and_nothing_but_failures_make_pages_too(tmp_path: Path) -> None:
    assert "There are no records yet." in report_html(study_of([], protocol(), RUN, tmp_path))
    broken = rigid([record(k, **BROKEN) for k in range(3)])
    html = report_html(study_of(broken, protocol(), RUN, tmp_path))
    assert "direct: 0 % under 2 mm" in html and "median infinite" in html
    assert not parsed(html).wrong
    lost = [Record(k, f"case {k}", "", "", "direct", 0, failure="worker died: killed") for k in range(3)]
    html = report_html(study_of(lost, protocol(), RUN, tmp_path))
    assert "worker died: killed" in html and not parsed(html).wrong


def shifted(x: float, y: float, z: float) -> tuple[float, ...]:
    return (1.0, 0, 0, x, 0, 1.0, 0, y, 0, 0, 1.0, z, 0, 0, 0, 1.0)


def test_the_spread_of_ends_is_in_the_plane_of_the_point_and_by_exposure(tmp_path: Path) -> None:
    """Two exposures of four starts; x and z lie along columns and rows, y along the ray, the point at the isocentre."""
    ends = [shifted(0, 0, 0), shifted(3, 0, 4), shifted(0, 0, 0), None, *(shifted(50.0 + d, 0, 0) for d in (0, 0, 1, 0))]
    records = [replace(record(k), **({"pose": end} if end else BROKEN)) for k, end in enumerate(ends)]
    made = study_of(rigid_starts(records), protocol(repeats=4, methods=("direct",)), RUN, tmp_path)
    found = study_spread.deviations(made.methods[0], made)
    assert found.tolist() == pytest.approx([0, 5, 0, math.inf, 0, 0, 1, 0])
    assert "Repeated starts" in report_html(made)
    assert "Repeated starts" not in report_html(study_of(rigid(study()), protocol(), RUN, tmp_path))


def cells(html: str, caption: str) -> list[list[str]]:
    (body,) = re.findall(rf"<caption>{caption}</caption>.*?<tbody>(.*?)</tbody>", html, re.S)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]


def test_subjects_come_worst_first_and_starts_stand_beside_each_other(tmp_path: Path) -> None:
    """Errors 0.1, 0.2 | 0.3, 0.4 | 0.5, 1.5 | 3, 7 | 20, none of subjects s0 to s4; two arms of an exposure share their start."""
    html = report_html(study_of(rigid(study()), protocol(starts=["near", "center"]), RUN, tmp_path))
    assert cells(html, "direct, by subject") == [
        ["s4", "2", "0", "infinite", "0", "0", "0"],
        ["s3", "2", "0", "5.00", "100", "0", "0"],
        ["s2", "2", "100", "1.00", "100", "100", "100"],
        ["s1", "2", "100", "0.35", "100", "100", "100"],
        ["s0", "2", "100", "0.15", "100", "100", "100"],
        ["all", "10", "60", "1.00", "80", "60", "60"],
    ]
    assert not parsed(html).wrong
    armed = protocol(starts=["near", "center"], disturbances=({"kind": "dose", "levels": (300.0, 75.0)},))
    assert len(armed.arms) == 3
    assert [armed.start_kind(c) for c in range(7)] == ["near"] * 3 + ["center"] * 3 + ["near"]


def test_of_many_subjects_the_worst_have_rows(tmp_path: Path) -> None:
    many = rigid([record(k, subject=f"p{k:02d}", mtre=5.0 if k == 13 else 0.1) for k in range(30)])
    shown = cells(report_html(study_of(many, protocol(), RUN, tmp_path)), "direct, by subject")
    assert len(shown) == 14 and shown[0][:3] == ["p13", "1", "0"]
    assert shown[-2][:3] == ["18 others", "18", "100"] and shown[-1][:3] == ["all", "30", "97"]


def rigid_starts(records: list[Record]) -> list[Record]:
    return [replace(r, start=shifted(0, 0, 0)) for r in records]


def points(svg: str, of: str) -> list[tuple[float, float]]:
    (found,) = re.findall(rf'<polyline class="line {of}" points="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in (p.split(",") for p in found.split())]


def test_a_curve_lies_where_its_axes_say() -> None:
    line = Series("a", [(0.1, 0.0), (1.0, 0.5), (10.0, 1.0), (math.inf, 1.0)], 0)
    svg = plot(Plot("t", "x", "y", Scale(0.1, 10.0, "log"), Scale(0.0, 1.0, percent=True), (line,)))
    (x0, y0), (x1, y1), (x2, y2) = points(svg, "m0 d0")
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert x0 < x1 and y1 < y0
    ticks = dict(re.findall(r'<text x="[\d.]+" y="([\d.]+)" text-anchor="end">(\d+) %</text>', svg))
    assert float(next(y for y, label in ticks.items() if label == "0")) - 4 == pytest.approx(y0, abs=0.1)


def test_scales() -> None:
    bent = Scale(-100.0, 100.0, "asinh", 0.1)
    assert bent.place(0.0) == pytest.approx(0.5)
    assert bent.place(3.0) + bent.place(-3.0) == pytest.approx(1)
    assert [label for _, label in bent.ticks] == ["−100", "−10", "−1", "−0.1", "0", "0.1", "1", "10", "100"]
    assert bent.values(5).tolist() == pytest.approx([-100, -bent.values(5)[3], 0, bent.values(5)[3], 100])
    wide = log_scale([0.02, 30.0, math.inf])
    assert (wide.low, wide.high) == (0.01, 100.0)
    assert wide.place(1e9) == 1.0 and wide.place(1e-9) == 0.0
    assert log_scale([]).high == 1e3


def test_violins_hold_the_values_and_no_more() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 200)
    svg = violins("t", "mm", [Violin("a", values, 0), Violin("b", np.array([math.inf]), 1)])
    (outline,) = re.findall(r'<polygon class="violin m0 d0" points="([^"]*)"', svg)
    heights = [float(p.split(",")[1]) for p in outline.split()]
    (low, high) = re.findall(r'class="whisker" [^>]*y1="([\d.]+)" y2="([\d.]+)"', svg)[0]
    assert max(heights) >= float(low) > float(high) >= min(heights)
    assert "none" in svg  # of the one without a result


def test_methods_beyond_the_colours_are_dashed() -> None:
    styles = [study_charts.style(k) for k in range(3 * study_charts.COLOURS)]
    assert len(set(styles)) == len(styles)


@pytest.mark.parametrize(("value", "said"), [(0.996, "99.6"), (0.9999, "99.99"), (1.0, "100"), (0.004, "0.4"), (0.5, "50")])
def test_shares_are_not_rounded_to_certainty(value: float, said: str) -> None:
    assert share(value) == said
