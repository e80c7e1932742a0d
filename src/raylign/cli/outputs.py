"""The four files of a registration, written whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.cli.console import check_interruption, uninterrupted
from raylign.errors import InputError

if TYPE_CHECKING:
    from raylign.data import Volume
    from raylign.evaluation import Truth
    from raylign.registration import Problem, Result

_SMALL = 4e6  # voxels, which are rendered as they are

RESULT, POSE, OVERLAY, REPORT = OUTPUTS = "result.json", "pose.tfm", "overlay.png", "report.html"


@dataclass(frozen=True)
class About:
    """What the outputs tell beside the result: the command, the inputs in numbers and in words, the truth where it is known.

    ``more`` are further parts of ``result.json`` by their keys.
    """

    command: str
    inputs: Mapping[str, Any]
    words: Mapping[str, str] = field(default_factory=dict)
    truth: Truth | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def staged(out: str | Path, names: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to write into whose files move to ``out`` when the block ends well; otherwise nothing is left of it.

    Files of the same names in ``out`` are replaced, others are left alone. ``names``, where they are known before, are those of
    the files that will be written.

    Raises
    ------
    InputError: ``out`` is a file, or cannot be made or written to; a folder is there in the place of a file.
    """
    target = Path(out)
    made: list[Path] = []
    try:
        if target.exists() and not target.is_dir():
            raise InputError("is a file, not a folder", file=target, field="--out", remedy="name a folder")
        _free(target, names)
        for parent in reversed([p for p in (target.parent, *target.parent.parents) if not p.exists()]):
            parent.mkdir()
            made.append(parent)
        # within the folder where there is one: beside it may be another file system, to which a rename cannot go
        place = target if target.is_dir() else target.parent
        folder = Path(tempfile.mkdtemp(prefix=".raylign-", dir=place))
    except OSError as error:
        _remove(made)
        raise _unwritable(target, error) from None
    try:
        yield folder
        check_interruption()
        with uninterrupted():
            _publish(folder, target)
    except OSError as error:
        _remove(made, folder)
        if not _of_writing(error, folder, target):  # of a library, or of an input
            raise
        raise _unwritable(target, error) from error
    except BaseException:
        _remove(made, folder)
        raise
    _remove([], folder)


def _of_writing(error: OSError, *places: Path) -> bool:
    """Whether what failed is a file in one of the folders, or something that only writing can meet: a full disk names no file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return True
    files = [Path(os.fsdecode(name)).absolute() for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return any(file.is_relative_to(place.absolute()) for file in files for place in places)


def _free(target: Path, names: Sequence[str]) -> None:
    for name in names:
        if (target / name).is_dir():
            raise InputError("is a folder where a file is to be written", file=target / name, remedy="move it away")


def _publish(folder: Path, target: Path) -> None:
    """Move every file of ``folder`` into ``target``; where one cannot be, put back what was there."""
    if not target.exists():
        folder.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only the owner may enter
        os.rename(folder, target)
        return
    names = sorted(p.name for p in folder.iterdir())
    _free(target, names)
    aside = folder / ".before"
    aside.mkdir()
    moved: list[str] = []
    try:
        for name in names:
            if (target / name).exists():
                os.replace(target / name, aside / name)
            moved.append(name)
            os.replace(folder / name, target / name)
    except OSError:
        for name in moved:
            with suppress(OSError):
                (target / name).unlink(missing_ok=True)
                if (aside / name).exists():
                    os.replace(aside / name, target / name)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _remove(made: list[Path], folder: Path | None = None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    for parent in reversed(made):
        with suppress(OSError):
            parent.rmdir()


def _unwritable(target: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        f"cannot be written ({reason})", file=target, field="--out", remedy="choose a folder you may write to with free space"
    )


def result_dict(result: Result, about: About) -> dict[str, Any]:
    """The content of ``result.json``: the result, what went in and the command; numbers that are not finite become null."""
    return finite({**result.to_dict(), **about.more, "inputs": about.inputs, "command": about.command})


def finite(value: Any) -> Any:
    """``value`` for JSON, which knows no NaN and no infinity: those become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


def _for_display(problem: Problem) -> Volume:
    """The model as attenuation, no finer than pictures of a few hundred pixels show: a scan of 0.7 mm takes seconds to render.

    Where it was cut off is told here, on a grid that is fine enough to tell; on a coarse one a small bone touches every face.
    """
    import torch

    from raylign.data import Volume
    from raylign.registration.pyramid import content, model_pyramid

    model = problem.model
    box = content(model)
    spacing = 0.0 if float(box[1].prod()) < _SMALL else 1.0
    level = model_pyramid(model, box, [spacing])[0]
    data = torch.from_numpy(level.data.copy())
    ends = [face.size > 0 for face in level.faces]
    truncated = ((ends[0], ends[1]), (ends[2], ends[3]), (ends[4], ends[5]))
    return Volume(data, torch.from_numpy(level.affine), "raw" if model.unit == "raw" else "1/mm", truncated)


def write_outputs(folder: Path, problem: Problem, result: Result, about: About) -> None:
    """Write ``result.json``, ``pose.tfm``, ``overlay.png`` and ``report.html`` into ``folder``."""
    from raylign.evaluation import ReportContent, gather
    from raylign.evaluation.pictures import write_png
    from raylign.evaluation.report import write_report
    from raylign.io.transforms import write_pose_itk
    from raylign.registration.coverage import covered
    from raylign.registration.problem import as_read

    shown = replace(problem, model=_for_display(as_read(problem, result)))
    exposures = gather.rendered(shown, result, covered, longest=320)
    points = gather.surface_points(problem.model)
    content = ReportContent(result, exposures, truth=about.truth, points=points, command=about.command, inputs=dict(about.words))
    text = json.dumps(result_dict(result, about), indent=1, allow_nan=False)
    (folder / RESULT).write_text(text + "\n", encoding="utf-8", newline="\n")
    write_pose_itk(result.transform, folder / POSE)
    with ThreadPoolExecutor(1) as beside:  # filters and encoders let go of the interpreter
        sheet = beside.submit(lambda: write_png(folder / OVERLAY, gather.sheet(exposures)))
        write_report(folder / REPORT, content)
        sheet.result()
