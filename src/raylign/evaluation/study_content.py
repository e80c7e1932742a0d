"""What the report of an evaluation is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raylign.evaluation.protocol import NOTHING, Protocol
from raylign.evaluation.record import Record
from raylign.evaluation.scores import Scores, scores
from raylign.evaluation.table import row, times

CRITERIA = {"mtre": "mTRE", "mrpd": "mRPD"}


@dataclass(frozen=True, eq=False)
class Study:
    """An evaluation to be shown.

    Parameters
    ----------
    records, protocol: what was measured, and by which rules.
    run: ``run.json``. out: the folder of the run, as the user would name it.
    """

    records: tuple[Record, ...]
    protocol: Protocol
    run: Mapping[str, Any]
    out: Path

    @cached_property
    def scores(self) -> list[Scores]:
        """By arm and method, the starts first in each arm."""
        return scores(self.records, self.protocol)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of the table, one for each of ``scores``."""
        return [row(s, self.protocol) for s in self.scores]

    @cached_property
    def times(self) -> list[dict[str, Any]]:
        """Of the table of times."""
        return times(self.records, self.protocol)

    @property
    def usual(self) -> list[Scores]:
        """The starts and the methods in the first arm: the undisturbed one."""
        return [s for s in self.scores if s.arm == self.scores[0].arm] if self.scores else []

    @property
    def methods(self) -> list[Scores]:
        """The same without the starts."""
        return [s for s in self.usual if not s.nothing]

    @property
    def arms(self) -> list[str]:
        """Names of the arms there are."""
        return list(dict.fromkeys(s.arm for s in self.scores))

    @cached_property
    def styles(self) -> dict[str, int]:
        """The number by which each method is drawn; -1 of the starts."""
        names = dict.fromkeys(s.method for s in self.scores if not s.nothing)
        return {NOTHING: -1, **{name: k for k, name in enumerate(names)}}

    @property
    def criterion(self) -> str:
        """The name of what errors are judged by, as it is written."""
        return CRITERIA[self.protocol.criterion]

    @property
    def data(self) -> Path | None:
        """The folder of data, where there was one."""
        told = self.run.get("data")
        return Path(told["folder"]) if told else None

    def of(self, s: Scores) -> dict[str, Any]:
        """The row of some scores."""
        return self.rows[self.scores.index(s)]


def study_of(records: Iterable[Record], protocol: Protocol, run: Mapping[str, Any], out: str | Path) -> Study:
    """Records in any order, made ready."""
    return Study(tuple(sorted(records, key=lambda r: (r.case, r.method))), protocol, run, Path(out))
