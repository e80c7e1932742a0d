"""Jobs of an evaluation in several processes of this machine. One that dies is replaced, and what it was at is tried again."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

from raylign.errors import InputError
from raylign.evaluation.execution import RETRIES, Job, Work, died, environment
from raylign.evaluation.record import Record, Records, from_line

_STILLBORN = 3  # processes in a row that may end before they are ready


class Process:
    """One worker and what it has been given."""

    def __init__(self, work: Work, threads: int, inbox: queue.Queue[tuple[Process, str]]) -> None:
        self.job = Job(())
        self.at: tuple[int, str] | None = None
        self.begun: Record | None = None
        self.ready = self.silent = False
        self._inbox = inbox
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raylign.evaluation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(threads),
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._send(work.text())

    def give(self, job: Job) -> None:
        """Let it do a job."""
        self.job, self.at, self.begun = job, None, None
        self._send(job.text())

    def close(self) -> None:
        """End it now, with whatever it started."""
        if hasattr(os, "killpg"):
            with suppress(OSError):  # it is the first of a group of its own
                os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._log):
            with suppress(OSError):
                assert stream is not None
                stream.close()

    @property
    def ended(self) -> bool:
        """Whether it is gone, whoever else may hold its output open."""
        return self._process.poll() is not None

    def how_it_ended(self) -> str:
        """In one line, from its exit status and the last line it left on stderr."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it closed its output and stays
            return "it said no more"
        self._log.seek(max(0, self._log.seek(0, 2) - 2000))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        if code == -signal.SIGKILL:
            return "killed, for want of memory perhaps"
        last = " ".join(lines[-1].split())[:200] if lines else ""
        said = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{said}, {last}" if last else said

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it is gone, which its output will tell
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._inbox.put((self, line.decode("utf-8", errors="replace")))
        self._inbox.put((self, ""))


def processes(work: Work, todo: Sequence[Job], count: int, threads: int = 1) -> Records:
    """Records in the order in which they are done.

    Parameters
    ----------
    count: of processes. threads: of each.

    Raises
    ------
    InputError: processes that do not start.
    """
    crew = _Crew(work, todo, threads)
    try:
        for _ in range(min(count, len(todo))):
            crew.hire()
        while crew.members:
            yield from crew.next()
    finally:
        crew.close()


class _Crew:
    def __init__(self, work: Work, todo: Sequence[Job], threads: int) -> None:
        self.work, self.threads = work, threads
        self.waiting: deque[Job] = deque(todo)
        self.members: set[Process] = set()
        self._inbox: queue.Queue[tuple[Process, str]] = queue.Queue()
        self._tries: Counter[tuple[int, str]] = Counter()
        self._stillborn = 0

    def hire(self) -> None:
        self.members.add(Process(self.work, self.threads, self._inbox))

    def close(self) -> None:
        for member in self.members:
            member.close()
        self.members.clear()

    def next(self) -> Iterator[Record]:
        """What the next message brings."""
        try:
            member, line = self._inbox.get(timeout=0.2)  # so that an interruption is noticed
        except queue.Empty:
            # a process of a method's own may outlive a worker and hold its output open, so that no end comes
            for one in [m for m in self.members if m.ended]:
                if one.silent:
                    yield from self._lost(one)
                one.silent = True  # what it said last may still be on its way
            return
        if member not in self.members:  # it was let go
            return
        kind, value = self._understood(line)
        if kind == "record":
            record = from_line(value)
            member.job = member.job.without({(record.case, record.method)})
            yield record
        elif kind == "at":
            member.at = (value[0], value[1])
            member.begun = None if value[2] is None else from_line(value[2])
        elif kind in ("ready", "done"):
            member.ready, self._stillborn = True, 0
            self._occupy(member)
        else:
            yield from self._lost(member)

    @staticmethod
    def _understood(line: str) -> tuple[str, Any]:
        try:
            kind, value = json.loads(line)
        except ValueError:  # the end, or a line that was cut off by it
            return "end", None
        return kind, value

    def _occupy(self, member: Process) -> None:
        if self.waiting:
            job = self._next_for(member)
            self.waiting.remove(job)
            member.give(job)
        else:
            self.members.discard(member)
            member.close()

    def _next_for(self, member: Process) -> Job:
        """A case of the subject that it has at hand, or else of one that nobody has, or else the first."""
        mine = member.job.subject
        busy = {other.job.subject for other in self.members}
        by_preference = (
            (job for job in self.waiting if mine and job.subject == mine),
            (job for job in self.waiting if job.subject not in busy),
            self.waiting,
        )
        return next(job for jobs in by_preference for job in jobs)

    def _lost(self, member: Process) -> Iterator[Record]:
        self.members.discard(member)
        how = member.how_it_ended()
        member.close()
        if not member.ready:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                raise InputError(
                    f"worker processes do not start ({how})",
                    field="--workers",
                    remedy="mend that; in Python, RunSettings(workers=0) needs none",
                )
        left = member.job
        if left.cases:
            # before it said where it was, or between two methods: at what came next
            at = member.at if member.at is not None and member.at in left else (left.cases[0][0], "")
            case, method = at
            self._tries[at] += 1
            if self._tries[at] > RETRIES:
                methods = dict(left.cases)[case] if not method else (method,)
                yield from died(self.work, case, methods, how, member.begun if method else None)
                left = left.without({(case, m) for m in methods})
        if left.cases:
            self.waiting.appendleft(left)
        if self.waiting:
            self.hire()
