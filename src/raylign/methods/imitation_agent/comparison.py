"""Table 1 of Toth et al. (2018): the agent, six gradient metrics, our silhouettes; the same exposures, the same starts.

Case n shows test patient n modulo 100, so that few cases are of many patients; every hundred cases the starts are new. A case
is a function of the seed and its number alone and leaves records of its own, one of what agents reach and one of what no agent
has a say in: what was broken off goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.io.atomic import write_text
from raylign.methods.imitation_agent.agent import Agent
from raylign.methods.imitation_agent.baselines import BASELINES, SearchConfig, refined, searched
from raylign.methods.imitation_agent.pool import Pool, PoolConfig, as_exposures, read_patient
from raylign.methods.imitation_agent.rollout import RolloutConfig, walk
from raylign.methods.imitation_agent.silhouette import SilhouetteConfig, silhouetted
from raylign.methods.imitation_agent.training import StatesConfig
from raylign.methods.imitation_agent.trust import agreed, voted
from raylign.methods.imitation_agent.world import World
from raylign.simulation.seeds import generator

Tell = Callable[[str, float], None]

START, SILHOUETTE, AGENT, AGREED, REFINED = "start", "silhouette", "agent", "agent-starts", "agent+refinement"
METRICS = (*BASELINES, SILHOUETTE)
"""Methods in which no agent has a say. They cost ten times as much as one."""
METHODS = (START, *METRICS, AGENT, AGREED, REFINED)
"""Rows of the table, in its order."""

_STARTS = 20  # place in the tree of seeds; a training uses 3 to 8


@dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    Parameters
    ----------
    cases: registrations of the agent (the paper: 1,000).
    metrics: so many of them, the first, are registered by ``METRICS`` too; all by default.
    seed: of exposures and starts. Patients' anatomies are those of ``data.test``, whatever the seed.
    data: test patients and their exposures; its seed is not looked at.
    starts: largest shifts and turns of the starts.
    rollout: how the agent walks.
    walks: starts about the given one whose ends' median is the row "agent-starts", as in ``raylign register``.
    search: of the metrics, and the box and grid of the silhouette.
    silhouette: the direct method on the model alone, in plane.
    refinement: the similarity that is climbed from that median, the row "agent+refinement".

    Raises
    ------
    InputError: no cases, a negative seed, too few walks.
    """

    cases: int = 1000
    metrics: int | None = None
    seed: int = 0
    data: PoolConfig = field(default_factory=PoolConfig)
    starts: StatesConfig = field(default_factory=StatesConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    walks: int = 5
    search: SearchConfig = field(default_factory=SearchConfig)
    silhouette: SilhouetteConfig = field(default_factory=SilhouetteConfig)
    refinement: str = "gc"

    def __post_init__(self) -> None:
        if self.cases < 1:
            raise InputError(f"{self.cases} cases", field="--cases", remedy="give 1 or more")
        if self.metrics is not None and self.metrics < 1:
            raise InputError(f"{self.metrics} cases", field="--metrics", remedy="give 1 or more")
        if self.seed < 0:
            raise InputError(f"{self.seed} is negative", field="--seed", remedy="give 0, 1, 2, ...")
        if self.walks < 2:
            raise InputError(f"{self.walks} walks have no median", field="walks", remedy="give 3 or more")

    @property
    def patients(self) -> int:
        """How many test patients the cases show."""
        return min(self.cases, len(self.data.seeds("test")))

    @property
    def pool(self) -> PoolConfig:
        """Settings of the pool that holds exposures of those patients and nobody else's."""
        first = self.data.test[0]
        return replace(self.data, test=(first, first + self.patients - 1), seed=self.seed)

    def of(self, case: int) -> tuple[int, int]:
        """Seed of a case's patient, and which of his starts it is."""
        many = len(self.data.seeds("test"))
        return self.data.test[0] + case % many, case // many

    def start(self, case: int) -> Float[Tensor, "3"]:
        """Start of a case (mm, mm, degrees), counted from the true pose: uniform, as published."""
        stream = generator(self.seed, _STARTS, *self.of(case))
        return replace(self.starts, near=0.0).draw(1, stream)[0]

    def said(self) -> dict[str, Any]:
        """What decides the content of a case's record, for JSON."""
        said = asdict(self)
        del said["cases"], said["metrics"]
        plain: dict[str, Any] = json.loads(json.dumps(said))
        return plain


def patient_world(pool: Pool, seed: int, agent: Agent) -> World:
    """The exposure of one test patient as the agent sees it; states are counted from the true pose.

    Raises
    ------
    InputError: the patient was not made, a damaged file.
    """
    exposures = as_exposures(read_patient(pool.path(seed, pool.config.exposures["test"])))
    return World(exposures, agent.world)


def by_metrics(world: World, start: Float[Tensor, "3"], config: CompareConfig) -> dict[str, dict[str, Any]]:
    """Every one of ``METRICS`` from one start on the first exposure of a world.

    Returns
    -------
    By method: ``end`` (mm, mm, degrees from the truth), ``seconds`` of one processor, ``looks`` at states.
    """
    ends = searched(world, 0, start, tuple(BASELINES.values()), config.search)
    ends = [*ends, silhouetted(world, 0, start, config.search, config.silhouette)]
    return {
        name: {"end": found.end.tolist(), "seconds": found.seconds, "looks": found.looks}
        for name, found in zip(METRICS, ends, strict=True)
    }


def by_agent(world: World, agent: Agent, start: Float[Tensor, "3"], config: CompareConfig) -> dict[str, dict[str, Any]]:
    """The start and what an agent makes of it on the first exposure of a world; as ``by_metrics``, with the agent's ``path``."""
    out: dict[str, dict[str, Any]] = {START: {"end": start.tolist(), "seconds": 0.0, "looks": 0}}
    zero = torch.zeros(1, dtype=torch.int64)
    begun = time.process_time()
    one = walk(agent, world, zero, start[None], config.rollout)
    spent = time.process_time() - begun
    looks, path = int(one.count[0]), one.paths[0].tolist()
    arrived = bool(one.arrived[0])
    out[AGENT] = {"end": one.ends[0].tolist(), "seconds": spent, "looks": looks, "arrived": arrived, "path": path}
    begun = time.process_time()
    ends, more = voted(agent, world, zero, start[None], (config.walks, config.rollout))
    middle, spread = agreed(ends[0])
    spent, looks = time.process_time() - begun, int(more.count.sum())
    out[AGREED] = {"end": middle.tolist(), "seconds": spent, "looks": looks, "spread": float(spread)}
    last = refined(world, 0, middle, config.refinement, config.search)
    out[REFINED] = {"end": last.end.tolist(), "seconds": spent + last.seconds, "looks": looks + last.looks}
    return out


def case_path(folder: Path, case: int) -> Path:
    """Where the record of a case lies."""
    return folder / f"case-{case:05d}.json"


def compare(agent: Agent, pool: Pool, folder: Path, config: CompareConfig, tell: Tell | None = None) -> list[dict[str, Any]]:
    """Register all cases that have no record yet, and read them all.

    Parameters
    ----------
    agent, pool: with the test patients of ``config.pool`` in it.
    folder: of the records; whoever calls sees to it that they are of these settings and this agent.

    Raises
    ------
    InputError: a patient that was not made, a file that is damaged or cannot be written.
    """
    out = []
    for case in range(config.cases):
        seed, repeat = config.of(case)
        own = {"case": case, "subject": seed, "repeat": repeat}
        start = config.start(case)
        methods: dict[str, Any] = {}
        for part in ("metrics", "agent") if config.metrics is None or case < config.metrics else ("agent",):
            path = case_path(folder / part, case)
            if not path.exists():
                world = patient_world(pool, seed, agent)
                made = by_metrics(world, start, config) if part == "metrics" else by_agent(world, agent, start, config)
                write_record(path, {**own, "methods": made})
            methods |= read_record(path)["methods"]
        out.append({**own, "methods": {name: methods[name] for name in METHODS if name in methods}})
        if tell is not None:
            tell(f"case {case + 1} of {config.cases}", (case + 1) / config.cases)
    return out


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record, whole or not at all; states and seconds with six decimals."""
    write_text(path, json.dumps(_short(record), allow_nan=False) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """A record as it was written.

    Raises
    ------
    InputError: it is not there, or damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", file=path, remedy="delete it: the same command makes it again") from None
    return found


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    return [_short(v) for v in value] if isinstance(value, list) else value
