"""One case of an evaluation again: made anew and registered, to be looked at."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.errors import InputError
from raylign.evaluation.attempt import check_method, solve
from raylign.evaluation.record import one_line
from raylign.evaluation.runner import RUN, read_run

if TYPE_CHECKING:
    from raylign.evaluation.cases import Case
    from raylign.evaluation.protocol import Protocol
    from raylign.registration import Result


def protocol_of(name_or_path: str | Path) -> tuple[Protocol, Path | None]:
    """The protocol of a name, a YAML file or the folder of a run, and of a run the folder of its data.

    A shipped name is that protocol's, whatever lies in the folder that one is in: ``./smoke`` is the folder.

    Raises
    ------
    InputError: none of these.
    """
    from raylign.evaluation.protocol import is_shipped, load_protocol

    path = Path(name_or_path)
    folder = path.parent if path.name == RUN else path
    if is_shipped(str(name_or_path)) or not (folder / RUN).is_file():
        return load_protocol(name_or_path), None
    return protocol_of_run(folder)


def protocol_of_run(folder: Path) -> tuple[Protocol, Path | None]:
    """The protocol of the folder of a run, and the folder of its data.

    Raises
    ------
    InputError: there is no run, or one of another raylign.
    """
    from raylign.evaluation.protocol import Protocol

    told = read_run(folder)
    try:
        protocol = Protocol.model_validate_json(json.dumps(told["protocol"]))
    except ValueError as error:
        line = " ".join(str(error).split())
        raise InputError(f"is of another raylign ({line[:200]})", file=folder / RUN, remedy="name the protocol itself") from None
    return protocol, None if told["data"] is None else Path(told["data"]["folder"])


def replay(protocol: Protocol, index: int, method: str | None = None, data: Path | None = None) -> tuple[Case, Result]:
    """A case of a protocol and what a method makes of it: the same as in a run of the same seed.

    Parameters
    ----------
    method: the protocol's first one if not given.

    Raises
    ------
    InputError: no such case or method, data that are not there; whatever the method breaks off with.
    """
    from raylign.evaluation.cases import case_count, make_case
    from raylign.evaluation.execution import one_torch_thread

    name = method or protocol.methods[0]
    check_method(name)
    count = case_count(protocol, data)
    if not 0 <= index < count:
        raise InputError(f"there is no case {index}", field="--replay", remedy=f"give 0 to {count - 1}")
    with one_torch_thread():
        case = make_case(protocol, index, protocol.seed, data)
        try:
            return case, solve(case, name, protocol.seed)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{name} breaks off on case {index} ({one_line(error)})", field="--replay", remedy="there is no result to show"
            ) from error


def replay_command(run: Mapping[str, Any], folder: Path | str, case: int, method: str) -> str:
    """The command that shows one registration of a run again."""
    place = str(folder) if os.sep in str(folder) else os.path.join(os.curdir, str(folder))  # a bare word may name a protocol
    words = ["raylign", "evaluate", place, "--replay", str(case), "--method", method, "-o", f"case-{case}"]
    return shlex.join(words)
