"""A track's report: one HTML file with its curves, a few of its frames, and what it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np

from raylign._version import __version__
from raylign.evaluation import charts, pictures
from raylign.evaluation.film import Film, coloured
from raylign.evaluation.markup import Markup, number, pairs, section, table, text
from raylign.geometry import se3
from raylign.io.atomic import write_text
from raylign.registration.tracking import State, Track, TrackedPose
from raylign.registration.tracking_gating import Signal

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SHOWN = 6  # frames


@dataclass(frozen=True, eq=False)
class TrackContent:
    """What a report shows.

    Parameters
    ----------
    track: the poses.
    film: whose pictures a few are taken from; of every ``stride``-th frame.
    name: of the sequence.
    command: that made it. inputs: by name, in words.
    """

    track: Track
    film: Film
    stride: int
    name: str
    command: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)


def relative(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """How far each frame's model lies from that of the first: mm of its centre [T, 3] and a rotation vector in degrees [T, 3].

    Along and about world axes, the patient's L, P, S for a C-arm; about the model's centre.
    """
    first = track.poses[0]
    centre = first.transform.inverse().apply(first.centre[None])
    shifts = [(p.transform.apply(centre)[0] - first.centre).tolist() for p in track.poses]
    back = first.transform.matrix[:3, :3].T
    turns = [(se3.log_rotation(p.transform.matrix[:3, :3] @ back) * (180 / math.pi)).tolist() for p in track.poses]
    return np.array(shifts), np.array(turns)


def write_track_report(path: str | Path, content: TrackContent) -> None:
    """Writes the page: whole, or not at all.

    Raises
    ------
    InputError: the file cannot be written.
    """
    write_text(path, track_html(content))


def track_html(content: TrackContent) -> str:
    """The page: style and pictures are part of it, nothing is fetched, nothing runs."""
    style = resources.files("raylign.evaluation").joinpath("assets", "report.css").read_text(encoding="utf-8")
    parts = [
        _headline(content.track),
        section("frames", "Frames", _frames(content)),
        section("motion", "Motion", *_motion(content.track)),
        section("gating", "Gating", *_gating(content.track)),
        section("trust", "Trust", *_trust(content.track)),
        section("inputs", "Inputs and settings", _inputs(content)),
    ]
    links = (("frames", "Frames"), ("motion", "Motion"), ("gating", "Gating"), ("trust", "Trust"), ("inputs", "Inputs"))
    nav = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in links)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>raylign: tracked: {text(content.name)}</title><style>{style}</style></head><body>"
        f'<header><div><h1>2D/3D tracking</h1><p>{text(content.name)}</p></div><nav aria-label="Sections">{nav}</nav></header>'
        f"<main>{''.join(parts)}</main>"
        f"<footer>raylign {text(__version__)}. Not a medical device; for research and development.</footer></body></html>\n"
    )


def verdict(track: Track) -> str:
    """The outcome in a few plain sentences."""
    poses = track.poses
    supported = sum(p.supported for p in poses)
    words = [f"{supported} of {len(poses)} frames support their pose."]
    losses = _stretches(poses)
    if losses:
        longest = max(b - a + 1 for a, b in losses)
        words.append(f"The model was lost {len(losses)} time{'s' if len(losses) > 1 else ''}, for {longest} frames at most.")
    if track.breathing is not None:
        words.append(f"Breathing at {60 * track.breathing.hertz:.0f} a minute.")
    if track.pulse is not None:
        words.append(f"Something beats at {60 * track.pulse.hertz:.0f} a minute.")
    return " ".join(words)


def _stretches(poses: Sequence[TrackedPose]) -> list[tuple[int, int]]:
    """First and last frame of every stretch in which the model was lost."""
    out: list[tuple[int, int]] = []
    for k, pose in enumerate(poses):
        if pose.state == State.LOST:
            out = [*out[:-1], (out[-1][0], k)] if out and out[-1][1] == k - 1 else [*out, (k, k)]
    return out


def _headline(track: Track) -> Markup:
    poses = track.poses
    good = sum(p.supported for p in poses) >= 0.5 * len(poses)
    shifts, turns = relative(track)
    held = np.array([p.supported for p in poses])
    span = np.ptp(shifts[held], axis=0) if held.any() else np.full(3, math.nan)
    working = [p.seconds for p in poses[1:]] or [math.nan]
    facts = (
        ("Frames", f"{len(poses)}, {number(track.rate, 1)} a second"),
        ("Motion to the left, back, head", ", ".join(number(float(s), 1) for s in span) + " mm"),
        ("Largest turn", f"{number(float(np.linalg.norm(turns[held], axis=1).max()) if held.any() else math.nan, 1)}°"),
        ("Median time for a frame", f"{number(1000 * float(np.median(working)), 0)} ms"),
    )
    tiles = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts)
    chip = "Tracked" if good else "Do not use without checking"
    return Markup(
        f'<div class="verdict {"ok" if good else "bad"}"><p class="chip">{chip}</p><p class="says">{text(verdict(track))}</p>'
        f'<dl class="facts">{tiles}</dl></div>'
    )


def _frames(content: TrackContent) -> Markup:
    """A few frames: the first, those in which something happens, the last, and others evenly between."""
    count = len(content.film.pictures)
    if not count:
        return Markup("<p>No film was made.</p>")
    poses = content.track.poses
    wanted = [0, count - 1]
    for a, b in _stretches(poses)[:2]:
        wanted += [min(count - 1, -(-a // content.stride)), min(count - 1, (b + 1) // content.stride)]
    wanted += [round(k * (count - 1) / (_SHOWN - 1)) for k in range(_SHOWN)]
    chosen = sorted(list(dict.fromkeys(wanted))[:_SHOWN])
    out = []
    for k in chosen:
        pose = poses[min(k * content.stride, len(poses) - 1)]
        image = pictures.data_uri(pictures.jpeg(coloured(content.film.pictures[k])))
        h, w = content.film.pictures[k].shape
        words = f"Frame {pose.index}: {pose.state}, probability {number(pose.probability, 2)}"
        out.append(
            f'<figure><svg viewBox="0 0 {w} {h}" role="img" aria-label="{text(words)}"><image width="{w}" height="{h}" '
            f'href="{image}"/></svg><figcaption>{text(words)}</figcaption></figure>'
        )
    return Markup(f'<div class="figures">{"".join(out)}</div>')


def _motion(track: Track) -> list[Markup]:
    shifts, turns = relative(track)
    seen = np.array([p.state != State.LOST for p in track.poses])
    shifts, turns = (np.where(seen[:, None], values, math.nan) for values in (shifts, turns))
    bands = _bands(track)
    plots = [
        _curve(
            "Shift of the model's centre from the first frame, mm",
            ("to the head", shifts[:, 2]),
            ("to the back", shifts[:, 1]),
            bands,
        ),
        _curve("The same", ("to the left", shifts[:, 0]), ("distance", np.linalg.norm(shifts, axis=1)), bands),
        _curve("Rotation from the first frame, degrees", ("about L", turns[:, 0]), ("about P", turns[:, 1]), bands),
        _curve("The same", ("about S", turns[:, 2]), ("angle", np.linalg.norm(turns, axis=1)), bands),
    ]
    words = Markup("<p>World axes; for a C-arm the patient's left, back and head. Shaded: lost.</p>")
    return [words, Markup(f'<div class="two">{"".join(plots)}</div>')]


def _curve(title: str, first: tuple[str, np.ndarray], second: tuple[str, np.ndarray] | None, bands: _Bands) -> Markup:
    lines = [charts.Line(list(enumerate(first[1].tolist())), first[0], "a")]
    if second is not None:
        lines.append(charts.Line(list(enumerate(second[1].tolist())), second[0], "b"))
    chart = charts.Chart(title, "frame", first[0], tuple(lines), bands)
    return Markup(f"<figure>{charts.line_chart(chart)}<figcaption><b>{text(title)}</b></figcaption></figure>")


_Bands = tuple[tuple[float, float, str], ...]


def _bands(track: Track) -> _Bands:
    """Stretches that are lost, shaded: every second band of a chart is not, hence the empty ones between."""
    last = max(len(track.poses) - 1, 1)
    out: list[tuple[float, float, str]] = []
    for a, b in _stretches(track.poses):
        ends = (max(a - 0.5, 0.0), min(b + 0.5, float(last)))
        out += [(*ends, "lost"), (ends[1], ends[1], "lost")]
    return tuple(out)


def _gating(track: Track) -> list[Markup]:
    out = []
    for name, signal, unit, nothing in (
        ("Breathing", track.breathing, "mm to the head", "No breathing is seen in how the model moves."),
        ("Pulse", track.pulse, "line integral", "Nothing beats in the image, or the frames are too few or too slow to tell."),
    ):
        if signal is None:
            out.append(Markup(f"<p>{text(nothing)}</p>"))
            continue
        says = f"{name}: {60 * signal.hertz:.1f} a minute, {100 * signal.share:.0f} % of the motion there"
        plots = _curve(says, (unit, signal.values), None, ()) + _curve("Phase, 0 at a crest", ("phase", signal.phase), None, ())
        out.append(Markup(f'<div class="two">{plots}</div>'))
    return out


def _trust(track: Track) -> list[Markup]:
    poses = track.poses
    probability = np.array([p.probability for p in poses])
    explained = np.array([p.explained for p in poses])
    chart = _curve(
        "Probability of the pose, and share explained", ("probability", probability), ("explained", explained), _bands(track)
    )
    counts = [(str(state), sum(p.state == state for p in poses)) for state in State]
    return [Markup(f'<div class="two">{chart}{table(("State", "Frames"), counts, "Frames by state")}</div>')]


def _inputs(content: TrackContent) -> Markup:
    first = content.track.first
    settings = {
        **content.inputs,
        "First frame": f"probability {number(first.confidence.probability, 2)}, {number(first.seconds, 2)} s",
        "Versions": ", ".join(f"{k} {v}" for k, v in first.versions.items()),
    }
    return Markup(pairs(settings, ("Input", "Value"), "What went in") + f"<p>{text(content.command)}</p>")


def signal_row(signal: Signal | None, index: int) -> tuple[str, str]:
    """A signal at a frame as two cells of a table: value and phase, empty where there is none."""
    if signal is None or not math.isfinite(float(signal.phase[index])):
        return "", ""
    return f"{float(signal.values[index]):.4f}", f"{float(signal.phase[index]):.4f}"
