"""Films of a track: colours, times, files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raylign.data import Volume, XRay
from raylign.errors import InputError
from raylign.evaluation import film as films
from raylign.evaluation import overlay
from raylign.evaluation.film import Caption, Film
from raylign.geometry import View
from raylign.projection import project
from raylign.registration import centred

VIEW = View.from_carm(primary=0, secondary=0, sid=1000, sod=700, pixel_spacing=1.5, shape=(96, 96))


def ball() -> Volume:
    z, y, x = np.mgrid[:40, :40, :40] - 19.5
    data = torch.from_numpy((np.sqrt(x**2 + y**2 + z**2) < 14).astype(np.float32) * 0.05)
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    return Volume(data, affine, "1/mm")


def made(count: int = 4, *, supported: bool = True) -> Film:
    model = ball()
    pose = centred(model)
    image = project(model, VIEW, pose)[0, 0].float()
    xray = XRay(image, VIEW, torch.ones(96, 96, dtype=torch.bool))
    film = Film(model, longest=128)
    for k in range(count):
        film.add([xray], [VIEW], pose, k / 15, Caption(str(k), supported))
    return film


def test_a_palette_has_256_colours() -> None:
    colours = np.array(films.palette()).reshape(-1, 3)
    assert colours.shape == (256, 3)
    assert tuple(colours[127]) == (255, 255, 255)
    assert tuple(colours[191]) == overlay.END and tuple(colours[255]) == overlay.START


def test_lines_are_painted_over_grey() -> None:
    grey = np.full((2, 2), 0.5, np.float32)
    lines = np.array([[0, 1], [0.5, 0]], np.float32)
    for supported, colour in ((True, overlay.END), (False, overlay.START)):
        picture = films.coloured(films.indexed(grey, lines, supported=supported))
        expected = overlay.painted(overlay.grey(grey, limits=(0, 1)), lines, colour)
        assert np.abs(picture.astype(int) - expected.astype(int)).max() <= 255 / 8


def test_the_contour_lies_where_the_model_shows() -> None:
    picture = made(1).pictures[0]
    rows, columns = np.nonzero(picture >= 128)
    r = np.hypot(rows - 63.5, columns - 63.5)
    radius = 28 * 1000 / 700 / 1.5 * 128 / 96  # of the ball on the picture
    assert len(rows) > 60
    assert abs(float(np.median(r)) - radius) < 2.5


def test_a_gif_holds_all_frames_in_their_time(tmp_path: Path) -> None:
    film = made(4)
    films.write_gif(tmp_path / "film.gif", film)
    with Image.open(tmp_path / "film.gif") as image:
        assert image.n_frames == 4
        assert image.size == (128, 128)
        total = 0
        for k in range(4):
            image.seek(k)
            total += image.info["duration"]
            shown = np.asarray(image.convert("RGB"))
            assert np.array_equal(shown, films.coloured(film.pictures[k]))
    assert abs(total - 4000 / 15) <= 10


def test_durations_follow_the_times() -> None:
    times = np.arange(46) / 15
    assert abs(sum(films.durations(times.tolist())[:-1]) - 3000) <= 10
    assert films.durations([0.0, 0.001, 0.002]) == [20, 20, 20]
    assert films.durations([0.0]) == [1000]


def test_a_lost_model_is_drawn_in_the_other_colour_and_a_missing_picture_is_black() -> None:
    assert (made(1, supported=False).pictures[0] >= 192).any()
    film = Film(ball(), longest=128)
    film.add([None], [VIEW], centred(ball()), 0.0, Caption("", False))
    assert (film.pictures[0][(film.pictures[0] < 128)] == 0).mean() > 0.95


def test_mp4_needs_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"ffmpeg.*--film gif"):
        films.write_mp4(tmp_path / "film.mp4", made(1))
    assert not list(tmp_path.iterdir())


def test_ffmpeg_is_given_every_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$0.said"\ncat > "$last"\n')
    script.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(script))
    film = made(3)
    films.write_mp4(tmp_path / "out" / "film.mp4", film)
    assert (tmp_path / "out" / "film.mp4").read_bytes() == b"".join(films.coloured(p).tobytes() for p in film.pictures)
    said = (tmp_path / "ffmpeg.said").read_text()
    assert "-s 128x128" in said and "yuv420p" in said
    script.write_text("#!/bin/sh\necho no such codec >&2\nexit 1\n")
    with pytest.raises(InputError, match="no such codec"):
        films.write_mp4(tmp_path / "out" / "other.mp4", film)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["film.mp4"]


def test_long_films_are_thinned() -> None:
    assert [films.thinned(n, 600) for n in (1, 600, 601, 1800)] == [1, 1, 2, 3]
