"""Protocols: what is shipped, what is refused and in which words, what their fields come to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from raylign import InputError
from raylign.evaluation.arms import LEVELS
from raylign.evaluation.cases import sampler_of
from raylign.evaluation.protocol import Protocol, load_protocol, shipped
from raylign.evaluation.replay import protocol_of, replay_command
from raylign.evaluation.runner import RUN, SCHEMA
from raylign.evaluation.starts import Start
from raylign.evaluation.subjects import patient
from raylign.geometry import Rigid, View, se3
from raylign.registration import WIDE, SearchConfig
from raylign.simulation import generator, starts
from raylign.simulation.poses import targets

PLAIN = "name: mine\ntitle: Mine\nsubjects: {kind: phantoms}\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_what_is_shipped_is_whole() -> None:
    titles = shipped()
    assert {
        "smoke", "raylign", "gao2024", "jaganathan2021", "toth2018", "li2021", "vanhoutte2022", "vandekraats2005", "deepfluoro",
        "ljubljana", "robustness", "scans", "shared",
    } <= set(titles)  # fmt: skip
    for name, title in titles.items():
        protocol = load_protocol(name)
        assert (protocol.name == name and title and protocol.source) or name == "smoke"
        assert protocol.description
        # what run.json keeps is the protocol again, to the last field
        assert Protocol.model_validate_json(protocol.model_dump_json()) == protocol
        assert Protocol.model_validate(json.loads(protocol.model_dump_json())) == protocol


def test_what_the_papers_state() -> None:
    gao, toth, jaganathan, kraats = (load_protocol(n) for n in ("gao2024", "toth2018", "jaganathan2021", "vandekraats2005"))
    assert (gao.cases, gao.success_mm, gao.criterion) == (1000, 10, "mtre")
    assert sampler_of(gao) == targets("gao2024") and gao.start_kinds == (("gao2024", WIDE),)
    assert toth.cases == 1000 and toth.repeats == 10 and toth.subjects.people == 100  # type: ignore[union-attr]
    assert jaganathan.cases == 6 * 600 and jaganathan.criterion == "mrpd" and jaganathan.bins[-1] == (55, 60)
    assert kraats.bins == tuple((float(i), i + 1.0) for i in range(20)) and kraats.capture_share == 0.95
    assert sampler_of(kraats).views_per_case == 2


def test_robustness_has_every_arm_that_was_promised() -> None:
    arms = load_protocol("robustness").arms
    assert arms[0].name == "none"
    assert {a.kind for a in arms} == {
        "none", "noise", "dose", "occlusion", "metal", "angles", "distances", "truncation", "downsampling",
    }  # fmt: skip
    assert len({a.name for a in arms}) == len(arms) and "dose 300" in {a.name for a in arms}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PLAIN + "cassess: 3\n", r"mine\.yaml: cassess: there is no such field"),
        (PLAIN + "views: {shpe: [64, 64]}\n", r"mine\.yaml: views\.shpe: there is no such field"),
        (PLAIN + "targets: {colum_mm: 3}\n", r"mine\.yaml: targets\.colum_mm: there is no such field"),
        (PLAIN + "exposure: {photon: [1, 2]}\n", r"mine\.yaml: exposure\.photon: there is no 'photon' here"),
        (PLAIN + "exposure: {kv: [90, 60]}\n", r"mine\.yaml: exposure\.kv: .*no range"),
        (PLAIN + "cases: '3'\n", r"mine\.yaml: cases: .*integer.*got '3'"),
        (PLAIN + "cases: 0\n", r"mine\.yaml: cases: .*greater than or equal to 1"),
        (
            PLAIN + "methods: [direkt]\n",
            r"mine\.yaml: methods: there is no method 'direkt'; use some of direct, .*search\+direct",
        ),
        (PLAIN + "methods: [direct, direct]\n", r"mine\.yaml: methods: .*twice"),
        (PLAIN + "targets: gao2042\n", r"mine\.yaml: targets: no target distribution 'gao2042'; there are .*gao2024"),
        (PLAIN + "starts: [center, 60-40mm]\n", r"mine\.yaml: starts: '60-40mm' is no start .*; give one of center"),
        (PLAIN + "starts: bins\nbins_mm: [3]\n", r"mine\.yaml: bins_mm: starts are of bins"),
        (PLAIN + "bins_mm: [3, 1]\n", r"mine\.yaml: bins_mm: .*do not rise"),
        (PLAIN + "views: {sid: [1100, 900]}\n", r"mine\.yaml: views\.sid: no range from 1100 to 900"),
        (PLAIN + "views: {pitch: -1}\n", r"mine\.yaml: views\.pitch: -1 is no length; give mm above 0"),
        (PLAIN + "views: {sid: 0}\n", r"mine\.yaml: views\.sid: 0 is no length"),
        (PLAIN + "views: {sod: [0, 700]}\n", r"mine\.yaml: views\.sod: 0 is no length"),
        (PLAIN + "source: 2021-13-45\n", r"mine\.yaml: holds a value that is none \(month must be.*; write it in quotes"),
        (PLAIN + "source: 0b_\n", r"mine\.yaml: holds a value that is none"),
        (PLAIN + "views: {shape: [4, 64]}\n", r"mine\.yaml: views\.shape: 4 x 64 pixels"),
        (PLAIN + "instruments: {set: spine, anny: 0.5}\n", r"mine\.yaml: instruments\.anny: there is no 'anny' here"),
        (PLAIN + "instruments: {set: spine, any: 5}\n", r"mine\.yaml: instruments\.any: 5.* is no probability"),
        (PLAIN + "instruments: spoons\n", r"mine\.yaml: instruments: no set of instruments 'spoons'; there are everything"),
        (
            PLAIN + "disturbances: [{kind: noise, levels: [11]}]\n",
            r"mine\.yaml: disturbances\.0\.levels: 11 is not within 0 to 10",
        ),
        (PLAIN + "disturbances: [{kind: fog, levels: [1]}]\n", r"mine\.yaml: disturbances\.0\.kind: .*'noise'.*got 'fog'"),
        (PLAIN + "disturbances: [{kind: metal, levels: [1.5]}]\n", r"mine\.yaml: disturbances\.0\.levels: 1\.5 instruments"),
        (PLAIN + "disturbances: [{kind: noise, levels: [1, 1]}]\n", r"mine\.yaml: disturbances: two arms are the same"),
        (PLAIN + "views: {<<: {size: 3}}\n", r"mine\.yaml: views\.size: "),
        (PLAIN + "title: again\n", r"mine\.yaml: title \(line 4\): stands there twice"),
        ("name: mine\ntitle: t\n", r"mine\.yaml: subjects: is missing; add it"),
        ("name: mine\ntitle: t\nsubjects: {kind: horses}\n", r"mine\.yaml: subjects: .*'phantoms'"),
        ("name: mine\ntitle: t\nsubjects: {kind: phantoms, bodies: [foot]}\n", r"mine\.yaml: subjects\.bodies: no body 'foot'"),
        ("name: mine\ntitle: t\nsubjects: {kind: phantoms, boddies: [x]}\n", r"mine\.yaml: subjects\.boddies: there is no such"),
        ("name: mine\ntitle: t\nsubjects: {kind: folder}\ntargets: gao2024\n", r"mine\.yaml: targets: .*exposures of their own"),
        (
            "name: mine\ntitle: t\nsubjects: {kind: folder}\ndisturbances: [{kind: dose, levels: [30]}]\n",
            r"mine\.yaml: disturbances\.0\.kind: exposures that are there already",
        ),
        ("name: [\n", r"mine\.yaml: is no YAML in line"),
        ("- 3\n", r"mine\.yaml: holds no protocol"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_field(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_protocol(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_names_that_are_no_protocol(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no protocol 'smok'; use one of .*smoke.*or a YAML file"):
        load_protocol("smok")
    with pytest.raises(InputError, match=r"nowhere\.yaml: cannot be read"):
        load_protocol(tmp_path / "nowhere.yaml")


def test_a_shipped_name_is_that_protocol_whatever_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = load_protocol("smoke").with_(seed=7)
    (tmp_path / "smoke").mkdir()
    told = {"schema": SCHEMA, "protocol": other.model_dump(mode="json"), "data": None}
    (tmp_path / "smoke" / RUN).write_text(json.dumps(told))
    assert protocol_of("smoke")[0].seed == 0 and protocol_of("./smoke")[0].seed == 7
    assert protocol_of(tmp_path / "smoke")[0].seed == 7
    assert " ./smoke --replay 3 " in replay_command({}, Path("smoke"), 3, "direct")
    (tmp_path / "gao2024").write_text("name: other\n")
    assert load_protocol("gao2024").name == "gao2024"


@pytest.mark.parametrize("name", ["smoke", "raylign", "vandekraats2005", "jaganathan2021"])
def test_what_methods_are_told_holds_the_truth(name: str) -> None:
    """At least 99 of 100 starts of all bins, shifts and turns measured here by SciPy."""
    protocol = load_protocol(name)
    who = patient(protocol.subjects, protocol.points.wanted, 0, 0, None)  # type: ignore[arg-type]
    view = View.from_carm(primary=10, sid=1000, sod=700, pixel_spacing=2, shape=(64, 64))
    axes = np.stack([(v / v.norm()).numpy() for v in (view.column_step, view.row_step, view.normal)])
    truth = Rigid(se3.from_parts(torch.eye(3, dtype=torch.float64), -who.isocentres[0].double()))
    inside = []
    for kind, search in [k for k in protocol.start_kinds if k[0] != "search"]:
        sampler = starts(f"mtre-bin/{kind.removesuffix('mm')}")
        many = sampler.draw(truth.matrix.expand(60, 4, 4), [view] * 60, who.isocentres[0], who.targets, generator(3, 0)).numpy()
        turns = np.degrees(Rotation.from_matrix(many[:, :3, :3]).as_rotvec()) @ axes.T
        middle = who.model.centre.double().numpy()
        shifts = (many[:, :3, :3] @ middle + many[:, :3, 3] - truth.apply(who.model.centre[None]).numpy()[0]) @ axes.T
        inside += list((abs(turns).max(1) <= search.degrees) & (abs(shifts).max(1) <= search.mm))
    assert np.mean(inside) >= 0.99


def test_the_command_line_may_say_otherwise() -> None:
    protocol = load_protocol("smoke")
    other = protocol.with_(seed=7, cases=3, methods=("ncc", "mine.registrars:make"))
    assert (other.seed, other.cases, other.methods) == (7, 3, ("ncc", "mine.registrars:make"))
    assert other.subjects == protocol.subjects and other.with_(seed=protocol.seed).seed == protocol.seed
    with pytest.raises(InputError, match="no method 'nc'"):
        protocol.with_(methods=("nc",))
    with pytest.raises(InputError, match="cases"):
        protocol.with_(cases=0)


def test_starts_in_turn_and_what_they_leave_open(tmp_path: Path) -> None:
    text = PLAIN + "starts: [near, bins, search]\nbins_mm: [0, 5, 20]\n"
    kinds = load_protocol(written(tmp_path, text)).start_kinds
    assert [name for name, _ in kinds] == ["near", "0-5mm", "5-20mm", "search"]
    # in which bin a start lies is not told
    assert kinds[1][1] == kinds[2][1] == Start("0-20mm").search and kinds[3][1] == WIDE
    told = load_protocol(written(tmp_path, text + "search: {degrees: 12, mm: 9, depth: 30}\n")).start_kinds
    assert all(search == SearchConfig(degrees=12, mm=9, depth=30) for _, search in told)


def test_views_beside_the_targets(tmp_path: Path) -> None:
    base = targets("gao2024")

    def made(views: str) -> object:
        return sampler_of(load_protocol(written(tmp_path, PLAIN + f"targets: gao2024\nviews: {views}\n")))

    assert made("{}") == base
    finer = made("{shape: [256, 512]}")
    assert finer.carm.shape == (256, 512) and finer.motion == base.motion  # type: ignore[attr-defined]
    # the detector keeps its size
    pitch, rows = finer.carm.pitch.low, finer.carm.row_pitch  # type: ignore[attr-defined]
    assert pitch * 512 == pytest.approx(2.176 * 128) and pitch * rows * 256 == pytest.approx(2.176 * 128)
    other = made("{sid: [900, 1000], pitch: 0.5, angles: [{primary: 10}, {primary: 100}], together: true}")
    assert other.views_per_case == 2 and other.carm.sid.high == 1000  # type: ignore[attr-defined]
    assert other.carm.pitch.low == other.carm.pitch.high == 0.5  # type: ignore[attr-defined]


def test_the_page_describes_every_field(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    protocol = load_protocol(written(tmp_path, example))
    assert protocol.model_fields_set == set(Protocol.model_fields)
    table = page[page.index("## Shipped") : page.index("## What differs")]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) >= set(shipped())
    for name in LEVELS:
        assert f"| `{name}` |" in page
