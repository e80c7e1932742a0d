"""One run that measures every renderer side by side: raylign, a peer, raylign, the next peer."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raylign.bench.cases import COSTS, OURS, Case, Entry, Outcome, Plan
from raylign.bench.crew import Crew, Tell, available_mb
from raylign.bench.process import Failed
from raylign.bench.scene import Scene, cameras, scene
from raylign.bench.settings import Choice, Setting, Trial, choose, described

TOLERANCE = 1.02
"""Times the reference error: still the same error."""

_CONVERGED = 0.25  # voxels between samples, from which on the error of the trilinear interpolant falls no more


class Comparison:
    """A run: the crew, the exact images and what has been found so far."""

    def __init__(self, plan: Plan, crew: Crew, subject: Scene, tell: Tell) -> None:
        self.plan, self.crew, self.subject, self.tell = plan, crew, subject, tell
        self.outcome = Outcome()
        self.choices: dict[tuple[str, int], Choice] = {}
        self._first: dict[str, Choice] = {}
        self._forward_ms: dict[str, tuple[float, int]] = {}  # of the setting chosen: ms and rays
        self._allowed: float | None = None
        self.timeout = 3 * plan.seconds + 60

    # -- settings ----------------------------------------------------------------------------------------------------

    def truth(self, size: int, index: int = 0) -> str:
        """The exact image's file."""
        path = self.crew.scratch / f"truth_{size}_{index}.npy"
        if not path.exists():
            np.save(path, self.subject.truth(size, index).numpy())
        return str(path)

    def target(self, who: str, size: int) -> float:
        """The error that a renderer must reach at a size.

        raylign must reach RTK's to within ``TOLERANCE``. A peer that interpolates trilinearly and nothing else could not, on
        some grids, with any number of samples; so peers are allowed the error that the trilinear interpolant itself leaves, where
        that is larger: ours is never the looser bound.
        """
        if self.plan.error is not None:
            return self.plan.error
        if size not in self.outcome.reference:
            self.outcome.reference[size] = self._reference(size)
        return TOLERANCE * self.outcome.reference[size] * (1.0 if who == OURS else self._lenience())

    def _lenience(self) -> float:
        """The trilinear interpolant's own error over the reference error, and one at least; found at the size of the search."""
        if self._allowed is None:
            size = self.plan.search_size
            converged = self._prepare(OURS, Case("forward", 1, size), {"model": "trilinear", "step": _CONVERGED})
            self._allowed = max(1.0, converged["errors"][0] / self._reference(size))
        return self._allowed

    def _reference(self, size: int) -> float:
        """The error of RTK's Joseph projector; without RTK of our own; without that of samples a quarter of a voxel apart."""
        for who, setting in (
            ("rtk", {"model": "joseph"}),
            (OURS, {"model": "joseph"}),
            (OURS, {"model": "trilinear", "step": _CONVERGED}),
        ):
            if who in self.crew.members:
                ladders = self.crew.members[who].ladders
                if any(setting["model"] == s["model"] for ladder in ladders for s in ladder):
                    return self._prepare(who, Case("forward", 1, size), setting)["errors"][0]
        raise Failed("no renderer to take the reference error from")

    def _prepare(self, who: str, case: Case, setting: Setting) -> Any:
        truths = [[index, self.truth(case.size, index)] for index in sorted({0, case.batch - 1})]
        return self.crew.members[who].ask(
            "prepare",
            self.timeout,
            what=case.what,
            case=cameras(who, self.subject, case.size, case.batch),
            setting=setting,
            truth=truths,
        )

    def choose_settings(self, size: int) -> None:
        """The cheapest setting of every member that reaches the error at ``size``."""
        for place, who in enumerate(list(self.crew.members)):
            target = self.target(who, size)
            self.tell(f"{who}: the cheapest setting with an error of {100 * target:.2f} %", 0.02 * place)

            try:
                choice, trials = choose(self._ladders(who), target, partial(self._trial, who, size))
            except Failed as error:
                self._leave(who, str(error))
                continue
            self._first[who] = choice
            self._forward_ms[who] = next(t.ms for t in trials if t.setting == choice.setting), size**2
            self.outcome.trials += [
                {"who": who, "size": size, "setting": described(t.setting), "error": t.error, "ms": t.ms} for t in trials
            ]

    def _ladders(self, who: str) -> list[list[Setting]]:
        ladders = self.crew.members[who].ladders
        mine = [ladder for ladder in ladders if ladder[0]["model"] == self.plan.model]
        return mine if who == OURS and mine else ladders

    def chosen(self, who: str, size: int) -> Choice:
        """The setting at a size: that of the search, or a finer one where that missed the error."""
        return self.choices.get((who, size), self._first[who])

    def _trial(self, who: str, size: int, setting: Setting) -> Trial | None:
        """One setting tried; None where it cannot be computed."""
        try:
            first = self._prepare(who, Case("forward", 1, size), setting)
            slow = first["first_ms"] > 250
            times = [first["first_ms"]] if slow else self.crew.members[who].ask("run", self.timeout, calls=3)["ms"]
        except Failed:
            if not self.crew.revive(who):
                raise
            return None
        return Trial(setting, first["errors"][0], statistics.median(times))

    def _leave(self, who: str, reason: str) -> None:
        if who == OURS:
            raise Failed(reason)
        self.crew.members.pop(who).worker.close()
        self.outcome.missing[who] = reason

    # -- cases -------------------------------------------------------------------------------------------------------

    def expected(self, who: str, case: Case) -> tuple[float, float]:
        """Seconds and MB that one call will take, from the largest case measured of the same thing, in proportion to rays."""
        known = [r for r in self.outcome.rows if r["who"] == who and r["what"] == case.what]
        if known:
            row = max(known, key=lambda r: r["batch"] * r["size"] ** 2)
            ratio = case.rays / (row["batch"] * row["size"] ** 2)
            return row["ms"] / 1000 * ratio, row["peak_mb"] * ratio
        ms, rays = self._forward_ms[who]
        return ms / 1000 * COSTS[case.what] * case.rays / rays, 0.0

    def skip(self, who: str, case: Case, reason: str) -> None:
        """Note why there is no row."""
        self.outcome.skipped.append({"who": who, "what": case.what, "batch": case.batch, "size": case.size, "reason": reason})

    def _admitted(self, case: Case) -> list[str]:
        """Who takes part in a case; the others are noted."""
        taking = []
        for who, member in list(self.crew.members.items()):
            if case.what not in member.whats:
                continue  # that it computes images alone is said once, not in every row
            if case.what in member.unable:
                self.skip(who, case, member.unable[case.what])
                continue
            seconds, mb = self.expected(who, case)
            if seconds > self.plan.seconds:
                self.skip(who, case, f"one call would take about {seconds:.1f} s, and a row has {self.plan.seconds:g} s")
            elif self.plan.device == "cpu" and mb > 0.7 * available_mb():
                self.skip(who, case, f"would take about {mb:.0f} MB of memory")
            elif not self.crew.revive(who):
                self.skip(who, case, "could not be started again")
            else:
                taking.append(who)
        return taking

    def run_case(self, case: Case) -> None:
        """Warm up, then measure in turns."""
        entries = {who: entry for who in self._admitted(case) if (entry := self._warmed(who, case)) is not None}
        order = [who for who in entries if who != OURS]
        while any(not e.done for e in entries.values()):
            # raylign's turn stands before every peer's, so that both meet the machine in the same state
            for who in order or [OURS]:
                if entries[who].done and (OURS not in entries or entries[OURS].done):
                    continue
                for turn in dict.fromkeys((OURS, who)):
                    if turn in entries and entries[turn].calls:
                        self._turn(turn, case, entries[turn])
        for who, entry in entries.items():
            if entry.ms:
                rehearsal_s = self.crew.members[who].rehearsal_s.get(case.what, 0.0)
                self.outcome.rows.append(entry.row(who, case, self.target(who, case.size), rehearsal_s))

    def _warmed(self, who: str, case: Case) -> Entry | None:
        """A first call; at a finer setting where the one chosen at another size misses the error here."""
        choice = self.chosen(who, case.size)
        target = self.target(who, case.size)
        try:
            while True:
                first = self._prepare(who, case, choice.setting)
                if first["errors"][0] <= target or not choice.finer:
                    break
                choice = Choice(choice.finer[0], choice.finer[1:], True)
        except Failed as error:
            self.skip(who, case, str(error))
            return None
        self.choices[who, case.size] = choice
        compiles = self.plan.device != "cpu"
        return Entry(
            choice.setting, first["first_ms"], first["errors"], self.plan.seconds, peak_mb=first["peak_mb"], compiles=compiles
        )

    def _turn(self, who: str, case: Case, entry: Entry) -> None:
        try:
            found = self.crew.members[who].ask("run", self.timeout, calls=entry.calls)
        except Failed as error:
            entry.failed = True
            if not entry.ms:
                self.skip(who, case, str(error))
            return
        entry.peak_mb = found["peak_mb"] if not entry.ms else max(entry.peak_mb, found["peak_mb"])
        entry.ms += found["ms"]


def compare(plan: Plan, tell: Tell, *, scaling: bool = False) -> Outcome:
    """Measure a plan; ``scaling`` also measures cost against empty space and against voxels crossed.

    Raises
    ------
    Failed: raylign's own worker does not run.
    """
    with tempfile.TemporaryDirectory(prefix="raylign-bench-") as folder:
        crew = Crew(Path(folder), plan.whats, plan.device, plan.peer_python)
        try:
            tell("the phantom", 0.0)
            run = Comparison(plan, crew, scene(plan.voxels), tell)
            _assemble(run)
            run.choose_settings(plan.search_size)
            for place, case in enumerate(cases := _cases(plan)):
                tell(str(case), 0.1 + 0.85 * place / len(cases))
                run.run_case(case)
            if scaling:
                from raylign.bench.series import scaled

                tell("cost against empty space and voxels crossed", 0.95)
                run.outcome.series = scaled(run)
            return run.outcome
        finally:
            crew.close()


def _assemble(run: Comparison) -> None:
    crew, tell = run.crew, run.tell
    crew.hire((OURS, *run.plan.peers))
    for place, who in enumerate((OURS, *run.plan.peers)):
        tell(f"starting {who}", 0.01 * place)
        crew.start(who)
        if who in crew.missing:
            tell(f"{who}: {crew.missing[who]}", 0.01 * place)
    crew.show(run.subject)
    run.outcome.missing = crew.missing
    run.outcome.versions = {who: member.version for who, member in crew.members.items()}
    for who, member in crew.members.items():
        for what in run.plan.whats:
            if what not in member.whats:
                run.outcome.skipped.append({"who": who, "what": what, "reason": "it computes images alone"})


def _cases(plan: Plan) -> Sequence[Case]:
    """From cheap to dear, so that what a case will cost is known from the one before."""
    return [Case(what, batch, size) for what in plan.whats for batch in sorted(plan.batches) for size in sorted(plan.sizes)]
