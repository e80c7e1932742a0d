"""From plain mappings, as YAML and JSON give them, to frozen dataclasses: strictly, with one clear line for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from raylign.errors import InputError

T = TypeVar("T")


def typed(kind: type[T], values: Any, field: str, file: str | Path | None = None) -> T:
    """A dataclass made of a mapping whose every key is one of its fields and whose every value has that field's type.

    Nothing is converted that is not meant: "3" is no number, 1.5 no whole one. Lists become tuples.

    Parameters
    ----------
    kind: the dataclass; fields may be dataclasses themselves.
    values: the mapping.
    field, file: where the mapping stands, for the message.

    Raises
    ------
    InputError: an unknown or missing key, a value of another type or out of its range.
    """
    from pydantic import ValidationError

    if not isinstance(values, Mapping):
        raise InputError(f"expected names and values, got {values!r}", field=field or None, file=file, remedy="see the recipes")
    _no_strangers(kind, values, field, file)
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"holds something that is no number, word or list ({error})", field=field or None, file=file) from None
    try:
        made: T = _adapter(cast(Any, kind)).validate_json(text, strict=True)
    except ValidationError as error:
        raise _line(error, field, file) from None
    return made


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _no_strangers(kind: Any, values: Mapping[str, Any], field: str, file: str | Path | None) -> None:
    """Refuse keys that are no fields; the dataclasses of other rooms would let them pass."""
    known = [f.name for f in fields(kind) if f.init]
    for name, value in values.items():
        if name not in known:
            raise InputError(
                f"there is no {name!r} here", field=_joined(field, name), file=file, remedy=f"it may hold {', '.join(known)}"
            )
        inner = _inner(kind, name)
        if inner is not None and isinstance(value, Mapping):
            _no_strangers(inner, value, _joined(field, name), file)
        elif inner is not None and isinstance(value, list):
            for n, item in enumerate(value):
                if isinstance(item, Mapping):
                    _no_strangers(inner, item, f"{_joined(field, name)}.{n}", file)


def _inner(kind: Any, name: str) -> Any:
    """The one dataclass that a field holds, alone, or in a tuple, or or-ed with None."""
    from typing import get_args, get_type_hints

    def dataclasses_in(hint: Any) -> list[Any]:
        if is_dataclass(hint):
            return [hint]
        return [found for part in get_args(hint) for found in dataclasses_in(part)]

    found = dataclasses_in(get_type_hints(kind)[name])
    return found[0] if len(found) == 1 else None


def _joined(field: str, name: str) -> str:
    return f"{field}.{name}" if field else str(name)


def _line(error: Any, field: str, file: str | Path | None) -> InputError:
    first = error.errors()[0]
    place = field
    for part in first["loc"]:
        place = _joined(place, str(part))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        inner = _joined(place, cause.field) if cause.field and not place.endswith(cause.field) else place
        return InputError(cause.problem, remedy=cause.remedy, field=inner or None, file=file)
    given = first.get("input")
    said = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "missing":
        return InputError("is missing", field=place, file=file, remedy="add it")
    hint = "; YAML 1.1 takes 1e-3 for a word: write 1.0e-3" if isinstance(given, str) and "number" in said else ""
    return InputError(f"{said}, got {given!r}{hint}", field=place or None, file=file)
