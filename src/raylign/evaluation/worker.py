"""A process that does jobs of an evaluation: ``python -m raylign.evaluation.worker``, a line of JSON each way.

It is told the work, then jobs, on standard input, and ends when that ends: a worker whose evaluation was killed does not stay.
What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raylign.evaluation.record import Record


def main() -> None:
    """Answer until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()

    def say(kind: str, value: Any = None) -> None:
        out.write(json.dumps([kind, value]) + "\n")
        out.flush()

    def told(case: int, method: str, begun: Record | None) -> list[Any]:
        return [case, method, None if begun is None else begun.line()]

    from raylign.errors import InputError
    from raylign.evaluation.execution import Job, Work, known, loadable, one_torch_thread, ours, perform

    work = Work.of_text(lines.get())
    if ours() != work.versions:
        sys.exit("raylign was changed since the run began")
    try:
        loadable(known(work.protocol).methods)
    except InputError as error:
        sys.exit(str(error))
    with one_torch_thread():
        _load()
        say("ready")
        while True:
            job = Job.of_text(lines.get())
            for record in perform(work, job, lambda *at: say("at", told(*at))):
                say("record", record.line())
            say("done")


def _load() -> None:
    """Whatever takes long to load, before the first case."""
    import raylign.evaluation.attempt
    import raylign.evaluation.cases  # noqa: F401


def _read(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # whoever asked is gone, and so is the answer's reader


if __name__ == "__main__":
    main()
