"""The renderers of a comparison: found, rehearsed, given the volume; started again where one had to be ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raylign.bench.process import Failed, Missing, Worker
from raylign.bench.scene import RENDERERS, Scene, cameras, scene

TO_INSTALL = {
    "nanodrr": "pip install nanodrr==0.1.7, after torch, and name that interpreter with --peer-python if it is another one",
    "diffdrr": "pip install --no-deps diffdrr==0.6.1; pip install fastcore pandas torchio roma einops scipy, after torch,"
    " and name that interpreter with --peer-python if it is another one",
    "rtk": "pip install itk-rtk",
    "plastimatch": "apt-get install plastimatch, or another way to have the program plastimatch on the PATH",
}
"""How to get each peer."""

ON_THE_CPU = ("rtk", "plastimatch")
"""Those that stay there whatever the device."""

_START = 300.0  # seconds that imports, compilation and the volume may take


@dataclass
class Member:
    """One renderer, and what is known of it."""

    who: str
    worker: Worker
    version: str
    whats: tuple[str, ...]
    ladders: list[list[dict[str, Any]]]
    rehearsal_s: Mapping[str, float]
    unable: Mapping[str, str] = field(default_factory=dict)

    def ask(self, operation: str, timeout: float, /, **values: Any) -> Mapping[str, Any]:
        """See ``Worker.ask``."""
        return self.worker.ask(operation, timeout, **values)


@dataclass
class Crew:
    """Starts renderers on a scene and keeps them; ``close`` ends them all."""

    scratch: Path
    whats: Sequence[str]
    device: str = "cpu"
    peer_python: str | None = None
    members: dict[str, Member] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tiny = stored(scene(16), self.scratch / "tiny.npy")
        self._limit_mb = 0.8 * available_mb()
        self._volume: dict[str, Any] = {}
        self._hired: dict[tuple[str, str], Worker] = {}

    def close(self) -> None:
        """End every worker."""
        for worker in (*self._hired.values(), *(member.worker for member in self.members.values())):
            worker.close()

    def start(self, who: str) -> None:
        """Find a renderer, rehearse it and give it the volume; a peer that is not there is noted in ``missing``.

        Raises
        ------
        Failed: raylign's own worker does not start.
        """
        reason = ""
        for python in self._pythons(who):
            if (who, python) not in self._hired:
                self._hired[who, python] = self._hire(who, python)
            worker = self._hired[who, python]  # until it is a member, so that it is closed whatever happens
            try:
                self.members[who] = self._rehearsed(who, worker)
                self.give(who)
                return
            except Missing as error:
                reason = f"{error} is not installed; {TO_INSTALL.get(who, '')}"
            except Failed as error:
                reason = reason or str(error)
            finally:
                del self._hired[who, python]
                if who not in self.members:
                    worker.close()
            self._dismiss(who)
        if who == RENDERERS[0]:
            raise Failed(reason)
        self.missing[who] = reason

    def _dismiss(self, who: str) -> None:
        if who in self.members:
            self.members.pop(who).worker.close()

    def hire(self, everyone: Sequence[str]) -> None:
        """Let the workers of all of them import their packages at the same time, before ``start`` asks one after the other."""
        for who in everyone:
            python = self._pythons(who)[0]
            self._hired[who, python] = self._hire(who, python)

    def _pythons(self, who: str) -> list[str]:
        return [sys.executable] if who == RENDERERS[0] else list(filter(None, [self.peer_python, sys.executable]))

    def _hire(self, who: str, python: str) -> Worker:
        worker = Worker(who, python, limit_mb=self._limit_mb)
        worker.send("hello")
        return worker

    def _rehearsed(self, who: str, worker: Worker) -> Member:
        hello = worker.answer(_START)
        tiny = {**self._tiny, "device": self._device(who), "scratch": str(self.scratch)}
        case = cameras(who, scene(16), 8, 1)
        done = worker.ask("rehearse", _START, scene=tiny, case=case, whats=list(self.whats))
        return Member(who, worker, hello["version"], tuple(hello["whats"]), done["ladders"], done["seconds"], done["failed"])

    def _device(self, who: str) -> str:
        return "cpu" if who in ON_THE_CPU else self.device

    def show(self, subject: Scene, everyone: Sequence[str] | None = None) -> None:
        """Make ``subject`` the volume of every member, or of some; a peer that cannot take it is noted in ``missing``."""
        self._volume = stored(subject, self.scratch / "volume.npy")
        for who in list(self.members if everyone is None else everyone):
            try:
                self.give(who)
            except Failed as error:
                if who == RENDERERS[0]:
                    raise
                self._dismiss(who)
                self.missing[who] = str(error)

    def give(self, who: str) -> None:
        """Hand a member the present volume."""
        if self._volume:
            given = {**self._volume, "device": self._device(who), "scratch": str(self.scratch)}
            self.members[who].ask("setup", _START, scene=given)

    def revive(self, who: str) -> bool:
        """Start a member again whose worker is gone; whether it could be."""
        if self.members[who].worker.alive:
            return True
        self.start(who)
        return who in self.members


def stored(subject: Scene, path: Path) -> dict[str, Any]:
    """A scene's volume as a file, and what a worker needs to read it."""
    np.save(path, subject.volume.data.numpy())
    return {"volume": str(path), "affine": subject.volume.affine.tolist()}


def available_mb() -> float:
    """Memory that can be had without swapping, MB; no bound where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return float("inf")


Tell = Callable[[str, float], None]
"""Called with what is going on and the share done."""
