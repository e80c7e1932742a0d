"""Damaged DICOM files: a valid object or one InputError, never anything else, nothing on stderr, no hang."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from raylign import InputError, Volume, XRay
from raylign.io import read_volume, read_xray
from tests.io.dicom_files import ct_folder, ct_slice, xa_dataset, xa_file, xa_pixels

MUTANTS = 120
LONGEST = 5.0  # seconds for one file of a few kB: more would be a hang


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One damage: cut, flipped bits, foreign bytes, a lost or doubled stretch. Half of them in the header."""
    out = bytearray(data)
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(out[: rng.randrange(len(out))])
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(min(len(out), 1200) if rng.random() < 0.7 else len(out))
        if kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at] = rng.choice((0, 1, 0x5C, 0x7F, 0xFF))
        elif kind == 3:
            del out[at : at + rng.randrange(1, 16)]
        else:
            out[at:at] = out[at : at + rng.randrange(1, 16)]
    return bytes(out)


def outcomes(read: Callable[[], Any], write: Callable[[bytes], Any], good: bytes, seed: int, kind: type) -> tuple[int, int]:
    rng = random.Random(seed)
    valid = refused = 0
    for _ in range(MUTANTS):
        write(mutate(good, rng))
        start = time.perf_counter()
        try:
            assert isinstance(read(), kind)
            valid += 1
        except InputError as error:
            assert "\n" not in str(error) and str(error)
            refused += 1
        assert time.perf_counter() - start < LONGEST
    return valid, refused


def check(counts: tuple[int, int], capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    assert min(counts) > 5  # both ways were taken
    assert capfd.readouterr().err == ""
    assert not list(recwarn)


def test_mutated_ct_slices(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    ct_folder(tmp_path, 3)
    path = ct_slice(tmp_path / "1.dcm", 1)
    counts = outcomes(lambda: read_volume(tmp_path), path.write_bytes, path.read_bytes(), 1, Volume)
    check(counts, capfd, recwarn)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless], ids=["plain", "rle", "jpeg2000"])
def test_mutated_xa_files(
    tmp_path: Path, syntax: Any, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path = xa_file(tmp_path / "x.dcm")
    if syntax is not None:
        ds = xa_dataset(xa_pixels())
        if syntax is RLELossless:
            ds.compress(syntax, generate_instance_uid=False)
        else:
            pytest.importorskip("openjpeg")
            ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path)
    counts = outcomes(lambda: read_xray(path), path.write_bytes, path.read_bytes(), 2, XRay)
    check(counts, capfd, recwarn)
