"""Weights in a file: named tensors (safetensors) and plain numbers and words (JSON) beside them, nothing that could run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from raylign.errors import InputError
from raylign.io.atomic import atomic_write

_KEY = "raylign"


def write_weights(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors by name and what is to be known about them, whole or not at all.

    Parameters
    ----------
    about: plain numbers, words, lists and mappings.

    Raises
    ------
    InputError: the file cannot be written.
    """
    from safetensors.torch import save

    content = save(
        {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
        {_KEY: json.dumps(dict(about), sort_keys=True, allow_nan=False)},
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, on the CPU, and what stands beside them.

    Raises
    ------
    InputError: no such file, a damaged one, or one that raylign did not write.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    remedy = "name a .safetensors file that raylign train wrote"
    if not file.is_file():
        raise InputError("there is no such file", file=file, remedy=remedy)
    try:
        with safe_open(str(file), framework="pt") as opened:
            said = (opened.metadata() or {}).get(_KEY)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot be read ({str(error).splitlines()[0]})", file=file, remedy=remedy) from None
    if said is None:
        raise InputError("raylign did not write it", file=file, remedy=remedy)
    try:
        about = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise InputError(f"what stands beside its weights is damaged ({error})", file=file, remedy=remedy) from None
    if not isinstance(about, dict):
        raise InputError("what stands beside its weights is damaged (no names and values)", file=file, remedy=remedy)
    return tensors, about
