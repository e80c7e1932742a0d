"""Weights in a file: named tensors (safetensors) and plain numbers and words (JSON) beside them, nothing that could run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


def read_weights_of(path: str | Path, method: str, schema: int, recipe: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``read_weights`` of one method's file; ``recipe``: that such files come from.

    Raises
    ------
    InputError: as of ``read_weights``; a file of another method or schema.
    """
    tensors, said = read_weights(path)
    if said.get("method") != method or said.get("schema") != schema:
        raise InputError(
            f"holds {said.get('method', 'something else')}, not a {method} of schema {schema}", file=path,
            remedy=f"name the weights of a raylign train of {recipe}",
        )  # fmt: skip
    return tensors, said


@contextmanager
def fitting(path: str | Path) -> Iterator[None]:
    """Within it a network is made of what a file says; what does not fit is the file's fault.

    Raises
    ------
    InputError: names or shapes that are missing, too many or others.
    """
    try:
        yield
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"its weights do not fit ({str(error).splitlines()[0]})", file=path) from None


def whole_scans(about: Mapping[str, Any]) -> bool:
    """Whether the models of a training were whole scans; else they were bones. ``about``: what stands beside its weights."""
    data = dict(dict(about.get("settings", {})).get("data", {}))
    return "structures" in data and not data["structures"]
