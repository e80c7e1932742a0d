"""One renderer in a process of its own: it answers requests, a line of JSON each, until its input ends.

Run as ``python worker.py SIDE.py``. Standard library and NumPy alone, and nothing of raylign, because a peer may live in
another environment. What a renderer's library prints goes to stderr, so that stdout carries answers and nothing else.

Requests: ``hello`` (is the package there, which version, what can it do), ``rehearse`` (a tiny scene, so that compilers and
lazy loading are done), ``setup`` (the volume), ``prepare`` (a case and a setting, then one call), ``run`` (timed calls).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def rss_mb(field: str = "VmRSS") -> float:
    """Resident memory of this process, or its peak since ``forget_peak`` (``VmHWM``), in MB; without /proc, its peak."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def settle() -> None:
    """Give freed memory back to the system, so that what is resident is what is held."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """Let the peak of resident memory start from what is resident now (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")


def loaded(path: str) -> Any:
    """A module from its file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"bench_{Path(path).stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Worker:
    """A renderer's ``Side`` and the case that it is at."""

    def __init__(self, path: str) -> None:
        started = time.perf_counter()
        self.kind: Any = loaded(path).Side
        self.kind.load()
        self.derivatives: Any = loaded(str(Path(path).with_name("derivatives.py"))) if self.kind.differentiable else None
        self.import_s = time.perf_counter() - started
        self.side: Any = None
        self.baseline = 0.0

    def hello(self) -> dict[str, Any]:
        return {"version": self.kind.version(), "whats": list(self.kind.whats), "import_s": self.import_s}

    def rehearse(self, request: dict[str, Any]) -> dict[str, Any]:
        seconds: dict[str, float] = {}
        failed: dict[str, str] = {}
        side = self._made(request["scene"])
        for what in (w for w in request["whats"] if w in self.kind.whats):
            started = time.perf_counter()
            for ladder in side.ladders():
                try:
                    side.prepare(what, request["case"], ladder[-1])
                    side.call()
                except Exception as error:
                    failed[what] = describe(error)
            seconds[what] = time.perf_counter() - started
        return {"seconds": seconds, "failed": failed, "ladders": side.ladders()}

    def setup(self, request: dict[str, Any]) -> dict[str, Any]:
        self.side = None
        settle()
        self.side = self._made(request["scene"])
        settle()
        self.baseline = self._memory("held")
        return {"ladders": self.side.ladders(), "baseline_mb": self.baseline}

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        self.side.prepare(request["what"], request["case"], request["setting"])
        settle()
        self._forget()
        started = time.perf_counter()
        answer = self.side.call()
        first = answer.get("seconds", time.perf_counter() - started)
        peak = self._peak(answer.get("peak_mb", 0.0))
        errors = [relative_rms(answer["image"](index), truth) for index, truth in request["truth"]]
        del answer
        settle()
        self._forget()
        return {"first_ms": 1000 * first, "errors": errors, "peak_mb": peak}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        times, program = [], 0.0
        for _ in range(request["calls"]):
            started = time.perf_counter()
            answer = self.side.call()
            seconds = time.perf_counter() - started
            times.append(1000 * answer.get("seconds", seconds))  # a program of its own says what its start-up does not belong to
            program = max(program, answer.get("peak_mb", 0.0))
            del answer
        return {"ms": times, "peak_mb": self._peak(program)}

    def _peak(self, program: float) -> float:
        """Peak of memory above the baseline; what a program of its own took, where it is one."""
        return program if program else max(0.0, self._memory("peak") - self.baseline)

    def _made(self, scene: dict[str, Any]) -> Any:
        side = self.kind(scene)
        return side if self.derivatives is None else self.derivatives.Derivatives(side, scene["device"])

    def _memory(self, which: str) -> float:
        own = self.side.memory_mb(which) if hasattr(self.side, "memory_mb") else None
        return own if own is not None else rss_mb("VmHWM" if which == "peak" else "VmRSS")

    def _forget(self) -> None:
        if hasattr(self.side, "memory_mb"):
            self.side.memory_mb("forget")
        forget_peak()


def relative_rms(image: Any, truth: str) -> float:
    """RMS of the difference to the exact image, over the RMS of that."""
    import numpy as np

    exact = np.load(truth)
    difference = np.asarray(image, dtype=np.float64) - exact
    error = float(np.sqrt((difference**2).mean() / (exact**2).mean()))
    if not np.isfinite(error):
        raise RuntimeError("the image has pixels that are not finite numbers")
    return error


def describe(error: BaseException) -> str:
    """One line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def main() -> None:
    """Answer requests until stdin ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [p for p in sys.path if p != here]  # the folder of this script must not hide libraries of the same names

    def answer(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if worker is None:
                worker = Worker(sys.argv[1])
            operation = request["op"]
            answer(worker.hello() if operation == "hello" else getattr(worker, operation)(request))
        except ModuleNotFoundError as error:
            answer({"missing": error.name or str(error)})
        except Exception as error:  # whatever a peer raises is a line of the report
            answer({"error": describe(error)})


if __name__ == "__main__":
    main()
