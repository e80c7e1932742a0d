"""plastimatch: never linked, only ever run as the separate program ``plastimatch drr``.

The times are those that the program prints, less its writing of the image: neither its start nor the reading of the volume. An
image is a run of the program. It counts in centimetres, and takes and writes columns before rows, whatever its help says.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
TransformMatrix = {direction}
Offset = {offset}
CenterOfRotation = 0 0 0
ElementSpacing = {spacing}
DimSize = {size}
ElementType = MET_FLOAT
ElementDataFile = LOCAL
"""


def _words(numbers: Any) -> str:
    return " ".join(repr(float(x)) for x in numbers)


class Side:
    """``plastimatch drr``, by Siddon's exact path or by uniform samples, on the CPU.

    The volume's axes must run along L, P and S: of one whose axes run the other way version 1.9.4 makes an empty image.
    """

    whats = ("forward",)
    differentiable = False

    def __init__(self, scene: dict[str, Any]) -> None:
        data, affine = np.load(scene["volume"]), np.array(scene["affine"])
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        header = _HEADER.format(
            direction=_words((affine[:3, :3] / spacing).T.ravel()),
            offset=_words(affine[:3, 3]),
            spacing=_words(spacing),
            size=" ".join(str(n) for n in reversed(data.shape)),
        )
        self.folder = tempfile.TemporaryDirectory(prefix="bench-plastimatch-", dir=scene.get("scratch"))
        self.volume = Path(self.folder.name) / "volume.mha"
        with open(self.volume, "wb") as file:
            file.write(header.encode())
            file.write(np.ascontiguousarray(data, "<f4").tobytes())
        self.floor: float | None = None

    @staticmethod
    def load() -> None:
        if shutil.which("plastimatch") is None:
            raise ModuleNotFoundError("no program plastimatch", name="plastimatch")

    @staticmethod
    def version() -> str:
        said = subprocess.run(["plastimatch", "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"\d+\.\d+[\w.+-]*", said)
        return found.group() if found else "unknown"

    @staticmethod
    def ladders() -> list[list[dict[str, Any]]]:
        return [[{"model": "siddon", "algorithm": "exact"}], [{"model": "uniform", "algorithm": "uniform"}]]

    def prepare(self, what: str, case: dict[str, Any], setting: dict[str, Any]) -> None:
        self.shape, self.exposures, self.algorithm = case["shape"], case["exposures"], setting["algorithm"]
        if self.floor is None:  # what the program holds with the volume read and next to no image
            self.floor = self._run(0, [1, 1])[1]

    def call(self) -> dict[str, Any]:
        runs = [self._run(index, self.shape) for index in range(len(self.exposures))]
        peak = max(0.0, max(memory for _, memory in runs) - (self.floor or 0.0))
        return {"image": self._image, "seconds": sum(seconds for seconds, _ in runs), "peak_mb": peak}

    def _run(self, index: int, shape: list[int]) -> tuple[float, float]:
        """Seconds that the program says it took without writing, and its peak of resident memory, MB."""
        camera = self.exposures[index]
        height, width = shape
        words = ["plastimatch", "drr", "-A", "cpu", "-i", self.algorithm, "-P", "none", "-t", "pfm"]
        words += ["-I", str(self.volume), "-O", str(Path(self.folder.name) / f"{index}_"), "-r", f"{width} {height}"]
        words += ["-z", _words(reversed(camera["size"])), "-c", _words(reversed(camera["centre"]))]
        words += ["--nrm", _words(camera["nrm"]), "--vup", _words(camera["vup"]), "-o", _words(camera["isocentre"])]
        words += ["--sad", repr(camera["sad"]), "--sid", repr(camera["sid"])]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        total = re.search(r"Total time: ([\d.e+-]+)", said)
        if process.returncode != 0 or total is None:
            raise RuntimeError(f"plastimatch ended with {process.returncode}: {said[-200:]}")
        writing = re.search(r"I/O time: ([\d.e+-]+)", said)
        return float(total.group(1)) - (float(writing.group(1)) if writing else 0.0), usage.ru_maxrss / 1024

    def _image(self, index: int) -> np.ndarray:
        raw = (Path(self.folder.name) / f"{index}_0000.pfm").read_bytes()
        _, _, _, pixels = raw.split(b"\n", 3)
        image = 10 * np.frombuffer(pixels, "<f4").reshape(self.shape)  # 1/mm, and lengths in cm
        return image[:, ::-1] if self.exposures[index]["mirrored"] else image
