"""What pydantic finds wrong with a YAML file, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.errors import InputError

if TYPE_CHECKING:
    from pydantic import ValidationError


def field_of(error: ValidationError, file: Path | None) -> InputError:
    """The first thing that pydantic found wrong: which field, what, and how to mend it."""
    first = _telling(error.errors())
    # members of a union stand in the place by their types' names, which are no fields
    place = ".".join(str(part) for part in first["loc"] if not _is_type(part))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        inner = cause.field
        where = place if not inner or place.endswith(inner) else f"{place}.{inner}" if place else inner
        return InputError(cause.problem, remedy=cause.remedy, field=where or None, file=file)
    said = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "missing":
        return InputError("is missing", field=place, file=file, remedy="add it")
    if first["type"] == "extra_forbidden":
        return InputError("there is no such field", field=place, file=file, remedy="the page on protocols has those there are")
    return InputError(f"{said}, got {first.get('input')!r}", field=place or None, file=file)


def _telling(errors: list[Any]) -> Any:
    """Of what was found, the entry that says most: of a union every member complains; an unknown field is the plainest word."""
    strange = [e for e in errors if e["type"] == "extra_forbidden"]
    return (strange or errors)[0]


def _is_type(part: Any) -> bool:
    return isinstance(part, str) and (part[:1].isupper() or part in _TYPES or "[" in part)


_TYPES = ("float", "int", "str", "tuple", "phantoms", "scans", "folder", "deepfluoro", "ljubljana")
