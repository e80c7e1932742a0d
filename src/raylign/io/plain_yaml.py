"""YAML as plain values: numbers, words, lists and names, and nothing that a file could run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from raylign.errors import InputError


def read_yaml(file: Path, what: str, begin: str) -> Mapping[str, Any]:
    """A file's names and values, no name twice.

    Parameters
    ----------
    what: a word for the messages, "recipe" say. begin: how such a file begins.

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
                if key.tag == "tag:yaml.org,2002:merge":  # "<<": names that stand elsewhere, and may be told otherwise here
                    continue
                name = self.construct_object(key, deep=True)
                if isinstance(name, Hashable) and name in seen:
                    raise InputError("stands there twice", field=f"{name} (line {key.start_mark.line + 1})", file=file)
                seen.add(name)
            return super().construct_mapping(node, deep)

    remedy = f"name a {what}, a YAML file"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, remedy=remedy) from None
    except UnicodeDecodeError:
        raise InputError("is no text", file=file, remedy=remedy) from None
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
        raise InputError(f"holds no {what}", file=file, remedy=f"begin with {begin}")
    return values
