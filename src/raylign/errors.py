"""The one exception a user meets when what they handed in is wrong."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used, said in one line: where, which field, what is wrong, how to mend it.

    Parameters
    ----------
    problem: what is wrong, in plain words ("the source-to-detector distance is missing").
    remedy: what the user can do about it ("pass --sid, or export the file with geometry").
    file: the file or folder at fault, where there is one.
    field: the tag, key or argument at fault ("DistanceSourceToDetector (0018,1110)").
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str = "",
        file: str | Path | None = None,
        field: str | None = None,
    ) -> None:
        self.problem, self.remedy = problem, remedy
        self.file = None if file is None else str(file)
        self.field = field
        super().__init__(self._line())

    def _line(self) -> str:
        where = ": ".join(part for part in (self.file, self.field) if part)
        line = f"{where}: {self.problem}" if where else self.problem
        if self.remedy:
            line += f"; {self.remedy}"
        return " ".join(line.split())

    def at(self, file: str | Path) -> InputError:
        """The same error, naming ``file`` where no file was named before."""
        if self.file is not None:
            return self
        return type(self)(self.problem, remedy=self.remedy, file=file, field=self.field)
