"""Shards: tar archives in WebDataset's layout, whole cases under one key, and their reader.

A shard is an uncompressed tar file. Files of one exposure share the name before the first dot, the key; what follows says what
they are: ``KEY.image.png`` (or ``.npy``), ``KEY.valid.png``, ``KEY.segments.npy`` where there are any, ``KEY.json``. Nothing in a
shard depends on when or where it was made.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from raylign.errors import InputError
from raylign.geometry import View

INDEX = "index.json"


@dataclass(frozen=True, eq=False)
class Sample:
    """One exposure of a shard.

    Parameters
    ----------
    key: of the exposure in its data set.
    image: [H, W] float32.
    valid: [H, W].
    segments: [C, H, W] float32; C may be 0.
    view: geometry in world mm.
    pose, start: [4, 4] float64 ``T_world_from_volume``, the true one and where a registration starts.
    about: everything else that ``KEY.json`` says.
    """

    key: str
    image: Float[Tensor, "H W"]
    valid: Bool[Tensor, "H W"]
    segments: Float[Tensor, "C H W"]
    view: View
    pose: Float[Tensor, "4 4"]
    start: Float[Tensor, "4 4"]
    about: Mapping[str, Any]


def encoded(key: str, image: Tensor, valid: Tensor, segments: Tensor, about: Mapping[str, Any], pixels: str) -> dict[str, bytes]:
    """The files of one exposure by name."""
    plain = image.detach().cpu().numpy().astype(np.float32)
    said = dict(about)
    files: dict[str, bytes] = {}
    if pixels == "png16":
        low, high = float(plain.min()), float(plain.max())
        step = (high - low) / 65535 or 1.0
        files[f"{key}.image.png"] = _png(np.rint((plain.astype(np.float64) - low) / step).astype(np.uint16))
        said["image"] = {"offset": low, "step": step}
    else:
        files[f"{key}.image.npy"] = _npy(plain)
    files[f"{key}.valid.png"] = _png(valid.detach().cpu().numpy().astype(np.uint8) * 255)
    if len(segments):
        files[f"{key}.segments.npy"] = _npy(segments.detach().cpu().numpy().astype(np.float16))
    files[f"{key}.json"] = (json.dumps(said, allow_nan=False) + "\n").encode()
    return files


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """A tar archive of files in their order, the same bytes at any time."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))


def read_shards(
    path: str | Path | Sequence[str | Path],
    *,
    part: str | None = None,
    shuffle: int | None = None,
    world: tuple[int, int] = (0, 1),
) -> Iterator[Sample]:
    """Every exposure of a data set, once.

    Parameters
    ----------
    path: the folder of a data set, a shard, or several shards.
    part: "train", "validation" or "test": only those shards.
    shuffle: a seed: shards come in another order, and exposures are mixed among 1,000 at a time; None: as they were written.
    world: (rank, processes): every process reads its own shards.

    Raises
    ------
    InputError: no shard there, a damaged one, a schema that this version does not know.
    """
    from raylign.simulation.datasets.recipes import SCHEMA

    shards = _shards(path, part)
    mixed = random.Random(shuffle)
    if shuffle is not None:
        mixed.shuffle(shards)
    samples = (sample for shard in shards[world[0] :: world[1]] for sample in _read(shard, SCHEMA))
    yield from samples if shuffle is None else _mixed(samples, mixed, 1000)


def _shards(path: str | Path | Sequence[str | Path], part: str | None) -> list[Path]:
    if not isinstance(path, str | Path):
        return [Path(p) for p in path]
    at = Path(path)
    if at.is_file():
        return [at]
    found = sorted(p for p in at.glob("*.tar") if part is None or p.name.startswith(f"{part}-"))
    if not found:
        what = "no shards" if part is None else f"no shards of {part}"
        raise InputError(f"holds {what}", file=at, remedy="make some with raylign simulate RECIPE -o FOLDER --format shards")
    return found


def _mixed(samples: Iterator[Sample], mixed: random.Random, size: int) -> Iterator[Sample]:
    """Samples in a random order, of which ``size`` are held at a time."""
    held: list[Sample] = []
    for sample in samples:
        if len(held) < size:
            held.append(sample)
            continue
        n = mixed.randrange(size)
        held[n], out = sample, held[n]
        yield out
    mixed.shuffle(held)
    yield from held


def _read(shard: Path, schema: int) -> Iterator[Sample]:
    try:
        with tarfile.open(shard, "r|") as archive:
            files: dict[str, bytes] = {}
            key = ""
            for member in archive:
                name, _, rest = member.name.partition(".")
                if files and name != key:
                    yield decoded(key, files, shard, schema)
                    files = {}
                handle = archive.extractfile(member)
                if handle is None:
                    raise InputError(f"{member.name} is no file", file=shard)
                key, files[rest] = name, handle.read()
            if files:
                yield decoded(key, files, shard, schema)
    except (tarfile.TarError, OSError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise InputError(
            f"cannot be read as a shard ({reason})", file=shard, remedy="make it again: delete it and resume"
        ) from None


def decoded(key: str, files: Mapping[str, bytes], shard: Path, schema: int) -> Sample:
    """One exposure of its files."""
    about = json.loads(files["json"])
    if about.get("schema") != schema:
        raise InputError(f"schema {about.get('schema')} is not known", file=shard, remedy=f"this version reads schema {schema}")
    if "image.png" in files:
        scale = about["image"]
        image = torch.from_numpy(
            (scale["offset"] + scale["step"] * _pixels(files["image.png"]).astype(np.float64)).astype(np.float32)
        )
    else:
        image = torch.from_numpy(_array(files["image.npy"]))
    valid = torch.from_numpy(_pixels(files["valid.png"]) > 0)
    segments = (
        _array(files["segments.npy"]).astype(np.float32) if "segments.npy" in files else np.zeros((0, *image.shape), np.float32)
    )
    pose, start = (torch.tensor(about[name], dtype=torch.float64) for name in ("pose_world_from_ct", "start_world_from_ct"))
    return Sample(key, image, valid, torch.from_numpy(segments), View.from_dict(about["view"]), pose, start, about)


def _png(array: NDArray[Any]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(array).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def _pixels(content: bytes) -> NDArray[Any]:
    from PIL import Image

    return np.array(Image.open(io.BytesIO(content)))


def _npy(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _array(content: bytes) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
