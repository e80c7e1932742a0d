"""The other end of the pipe: a worker process that is asked, watched and, where it takes too much, ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

_HERE = Path(__file__).resolve().parent
_LOOK_EVERY = 0.2  # seconds between two looks at a busy worker's memory


class Missing(Exception):
    """A peer's package or program is not there."""


class Failed(Exception):
    """A worker answered with an error, or ended, or had to be ended."""


class Worker:
    """A renderer in a process of its own.

    Parameters
    ----------
    who: a renderer's name; the file of that name in ``sides`` is run.
    python: the interpreter that runs it.
    limit_mb: resident memory at which it is ended, so that a comparison never takes the machine down.
    """

    def __init__(self, who: str, python: str = sys.executable, *, limit_mb: float = float("inf")) -> None:
        self.who, self.python, self.limit_mb = who, python, limit_mb
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the worker)
        self._lines: queue.Queue[str] = queue.Queue()
        environment = dict(os.environ)
        if who == "raylign":  # the same raylign as ours, installed or not
            environment["PYTHONPATH"] = os.pathsep.join([str(_HERE.parents[1]), *filter(None, [environment.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [python, str(_HERE / "worker.py"), str(_HERE / "sides" / f"{who}.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def ask(self, operation: str, timeout: float, /, **values: Any) -> Mapping[str, Any]:
        """The answer to a request.

        Raises
        ------
        Missing: its package is not installed. Failed: it said why not, ended, or took longer or more memory than it may.
        """
        self.send(operation, **values)
        return self.answer(timeout)

    def send(self, operation: str, /, **values: Any) -> None:
        """A request whose answer is fetched later, with ``answer``, which also says so if the worker is gone."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps({"op": operation, **values}).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self, timeout: float) -> Mapping[str, Any]:
        """The answer to the last request; raises as ``ask`` does."""
        until = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=_LOOK_EVERY)
                break
            except queue.Empty:
                if self._resident_mb() > self.limit_mb:
                    self.close()
                    raise Failed(f"took more than {self.limit_mb:.0f} MB of memory and was ended") from None
                if time.monotonic() > until:
                    self.close()
                    raise Failed(f"took longer than {timeout:.0f} s and was ended") from None
        if not line:
            self._lines.put("")  # whoever asks again is told again
            raise Failed(self._end())
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise Missing(str(answer["missing"]))
        if "error" in answer:
            raise Failed(str(answer["error"]))
        return answer

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, and whatever it runs, now."""
        if self._process.poll() is None:
            if hasattr(os, "killpg"):  # a program that it runs goes too
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode())
        self._lines.put("")

    def _resident_mb(self) -> float:
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _end(self) -> str:
        """Why it ended, from its exit status and the last line it left on stderr."""
        code = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        reason = "was killed (out of memory?)" if code == -9 else f"ended with {code}"
        return f"{reason}: {lines[-1].strip()[:200]}" if lines else reason
