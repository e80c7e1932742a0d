"""What every reader does first: is the file there, can it be read, and whose fault is it when a library chokes."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raylign.errors import InputError


def suffix(path: str | Path) -> str:
    """The lower-case suffix of a file name, with the two-part ones (".nii.gz", ".seg.nrrd", ".mrk.json") whole."""
    name = Path(path).name.lower()
    for double in (".nii.gz", ".seg.nrrd", ".mrk.json", ".view.json"):
        if name.endswith(double):
            return double
    return Path(name).suffix


def existing_file(path: str | Path) -> Path:
    """``path``, once it is known to be a file with something in it.

    Raises
    ------
    InputError: nothing there, a folder, an empty file.
    """
    file = Path(path)
    if not file.exists():
        raise InputError("no such file", file=file, remedy="check the path")
    if file.is_dir():
        raise InputError("is a folder where a file is needed", file=file, remedy="name a file in it")
    if file.stat().st_size == 0:
        raise InputError("the file is empty", file=file, remedy="export or copy it again")
    return file


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises on a malformed file into one InputError that names the file and what it should have been."""
    try:
        yield
    except InputError as error:
        raise error.at(path) from None
    except (MemoryError, ImportError):  # not the file's fault
        raise
    except Exception as error:  # a malformed file makes third-party readers raise anything at all
        raise InputError(
            f"cannot be read as {what} ({_short(error)})", file=path, remedy="check that the file is whole and of that format"
        ) from error


_STDERR = threading.Lock()


@contextmanager
def silent() -> Iterator[None]:
    """Nothing on the process's standard error: ITK's C code and libtiff's complain there of what they also refuse.

    What they have to say comes as an exception too, and becomes the one line that the user reads.
    """
    with _STDERR:
        sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # a process without standard error has nothing to silence
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # ITK puts the place in its sources first and the reason last
    text = lines[-1] if lines else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def read_text(path: str | Path, what: str) -> str:
    """The text of a file, UTF-8 with or without a byte-order mark."""
    file = existing_file(path)
    with reading(file, what):
        result = file.read_bytes().decode("utf-8-sig")
    return result


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """A JSON object from a file."""
    text = read_text(path, what)
    value: Any = None
    with reading(path, what):
        value = json.loads(text)
        if not isinstance(value, dict):
            raise InputError("the JSON holds no object with keys", file=path)
    return value
