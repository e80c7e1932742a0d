"""YAML as plain values, and what is wrong with it in one line."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.errors import InputError

if TYPE_CHECKING:
    from pydantic import ValidationError


def loaded(file: Path) -> Mapping[str, Any]:
    """A file's names and values: plain ones only, and no key twice.

    Raises
    ------
    InputError: no such file, no text, no YAML, no names and values.
    """
    import yaml

    class Strict(yaml.SafeLoader):
        """Plain values, and no key twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            seen: set[Any] = set()
            for key, _ in node.value:
                name = self.construct_object(key, deep=True)
                if isinstance(name, Hashable) and name in seen:
                    raise InputError("stands there twice", field=f"{name} (line {key.start_mark.line + 1})", file=file)
                seen.add(name)
            return super().construct_mapping(node, deep)

    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, remedy="name a protocol, a YAML file") from None
    except UnicodeDecodeError:
        raise InputError("is no text", file=file, remedy="name a protocol, a YAML file") from None
    try:
        values = yaml.load(text, Loader=Strict)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"is no YAML{where} ({getattr(error, 'problem', None) or error})", file=file) from None
    except InputError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:  # 2021-13-45 looks like a date and is none
        raise InputError(f"holds a value that is none ({error})", file=file, remedy="write it in quotes") from None
    if not isinstance(values, Mapping):
        raise InputError("holds no protocol", file=file, remedy="begin with name:, title: and subjects:")
    return values


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
