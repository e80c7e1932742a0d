"""A training loop that can be killed at any moment and goes on with the same result.

Plain PyTorch: one process, one device. A minibatch is a function of its number, and of what the task gathered before, if it does
such a thing: nothing else about the data has to be kept. The next one is made by a thread while the network learns from this one.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from raylign.errors import InputError
from raylign.io.atomic import write_text
from raylign.training.checkpoints import load_checkpoint, save_checkpoint

Tell = Callable[[str, float], None]

CHECKPOINT, LOG, CURVES = "checkpoint.safetensors", "log.csv", "curves.png"
_SHOWN = 100  # iterations over which the logged loss is the mean


class Task(Protocol):
    """What is trained. ``batch`` is called from another thread than ``loss``."""

    columns: tuple[str, ...]

    @property
    def network(self) -> nn.Module: ...
    @property
    def optimiser(self) -> torch.optim.Optimizer: ...
    @property
    def iterations(self) -> int: ...
    @property
    def validate_every(self) -> int: ...

    def rate(self, iteration: int) -> float:
        """Learning rate of an iteration."""
        ...

    def batch(self, iteration: int) -> Any:
        """Minibatch ``iteration``: the same whenever it is asked for."""
        ...

    def loss(self, batch: Any) -> Tensor:
        """What is minimised."""
        ...

    def validate(self) -> dict[str, float]:
        """Figures of the network as it stands; ``columns`` of them are logged."""
        ...


@runtime_checkable
class Gathering(Protocol):
    """A task whose minibatches depend on what its network has done so far, too.

    Minibatch n may depend on what was gathered after fewer than n iterations, and on nothing later: it is made while minibatch
    n - 1 is learned from.
    """

    def gather(self, done: int) -> None:
        """Called after ``done`` iterations; again after a break, and then without effect."""
        ...

    def gathered(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint."""
        ...

    def regain(self, gathered: Mapping[str, Tensor]) -> None:
        """Go on with it; KeyError or ValueError where it is something else."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """How a training is run; none of it changes its result.

    Parameters
    ----------
    folder: of checkpoint, log and curves.
    fingerprint: of what is trained; a checkpoint with another is refused.
    save_every: iterations between checkpoints.
    until: iteration before which to stop for now, if not at the end.

    Raises
    ------
    InputError: no iterations between checkpoints.
    """

    folder: Path
    fingerprint: str
    save_every: int = 250
    until: int | None = None

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise InputError(f"{self.save_every} iterations", field="save_every", remedy="give 1 or more")


def train(task: Task, config: LoopConfig, tell: Tell | None = None) -> int:
    """Train to the end, or to ``config.until``, from the folder's checkpoint where there is one; the iteration reached.

    Raises
    ------
    InputError: a checkpoint of another training, a folder that cannot be written, a loss that is not finite.
    """
    first, spent, losses = 0, 0.0, _Mean()
    checkpoint = config.folder / CHECKPOINT
    if checkpoint.exists():
        about, gathered = load_checkpoint(checkpoint, task.network, task.optimiser, config.fingerprint)
        _regain(task, gathered, checkpoint)
        first, spent = int(about["iteration"]), float(about["cpu_seconds"])
        sum_, count = about["losses"]
        losses = _Mean(float(sum_), int(count), first)
    log = _Log(config.folder / LOG, task.columns, first)
    end = task.iterations if config.until is None else min(config.until, task.iterations)
    begun = time.process_time()
    device = next(task.network.parameters()).device
    total = torch.zeros((), device=device)
    if first < end:
        _gather(task, first)
    for iteration, batch in _ahead(task, first, end):
        task.network.train()
        for group in task.optimiser.param_groups:
            group["lr"] = task.rate(iteration)
        task.optimiser.zero_grad(set_to_none=True)
        loss = task.loss(batch)
        loss.backward()
        task.optimiser.step()
        total += loss.detach()
        done = iteration + 1
        validates = done % task.validate_every == 0 or done == task.iterations
        saves = done % config.save_every == 0 or done == end
        if done % _SHOWN == 0 or validates or saves:
            before = losses.last
            losses.add(float(total), done)
            total.zero_()
            if not losses.finite:
                raise InputError(
                    f"a loss among iterations {before + 1} to {done} is not finite", field="optimiser.rate",
                    remedy="give a lower rate",
                )  # fmt: skip
            if tell is not None:
                tell(f"{done} of {task.iterations} iterations, loss {losses.shown:.4f}", done / task.iterations)
        if done % _SHOWN == 0 or validates:
            figures = task.validate() if validates else {}
            log.add(done, losses.take(), task.rate(iteration), spent + time.process_time() - begun, figures)
        if done < task.iterations:
            _gather(task, done)
        if saves:
            about = {
                "fingerprint": config.fingerprint,
                "iteration": done,
                "cpu_seconds": spent + time.process_time() - begun,
                "losses": [losses.sum, losses.count],
            }
            kept = task.gathered() if isinstance(task, Gathering) else None
            save_checkpoint(checkpoint, task.network, task.optimiser, about, kept)
    return max(first, end)


def _gather(task: Task, done: int) -> None:
    if isinstance(task, Gathering):
        task.gather(done)


def _regain(task: Task, gathered: dict[str, Tensor], checkpoint: Path) -> None:
    if not isinstance(task, Gathering):
        return
    try:
        task.regain(gathered)
    except (KeyError, ValueError) as error:
        raise InputError(f"is damaged ({error})", file=checkpoint, remedy="delete it: the training begins anew") from None


def _ahead(task: Task, first: int, end: int) -> Iterator[tuple[int, Any]]:
    """Minibatches by number, each made while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as maker:
        following = maker.submit(task.batch, first) if first < end else None
        for iteration in range(first, end):
            assert following is not None
            batch = following.result()
            following = maker.submit(task.batch, iteration + 1) if iteration + 1 < end else None
            yield iteration, batch


class _Mean:
    """Mean loss since the last row of the log."""

    def __init__(self, sum_: float = 0.0, count: int = 0, last: int = 0) -> None:
        self.sum, self.count, self.last, self.shown = sum_, count, last, float("nan")

    @property
    def finite(self) -> bool:
        return math.isfinite(self.sum)

    def add(self, total: float, iteration: int) -> None:
        """The sum of the losses up to an iteration, since the last that was added."""
        self.sum, self.count, self.last = self.sum + total, self.count + iteration - self.last, iteration
        self.shown = self.sum / max(self.count, 1)

    def take(self) -> float:
        mean = self.sum / max(self.count, 1)
        self.sum, self.count = 0.0, 0
        return mean


class _Log:
    """Rows of a CSV file: iteration, mean loss since the row before, rate, CPU seconds, figures where some were measured."""

    def __init__(self, path: Path, columns: tuple[str, ...], upto: int) -> None:
        self.path, self.columns = path, ("iteration", "loss", "rate", "cpu_seconds", *columns)
        self.rows: list[dict[str, str]] = []
        if path.exists():  # what came after the checkpoint is done again
            with path.open(encoding="utf-8", newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["iteration"]) <= upto]

    def add(self, iteration: int, loss: float, rate: float, seconds: float, figures: dict[str, float]) -> None:
        row = {"iteration": str(iteration), "loss": f"{loss:.6g}", "rate": f"{rate:.6g}", "cpu_seconds": f"{seconds:.1f}"}
        self.rows.append(row | {name: f"{figures[name]:.4f}" if name in figures else "" for name in self.columns[4:]})
        self.flush()

    def flush(self) -> None:
        lines = [",".join(self.columns)] + [",".join(row.get(name) or "" for name in self.columns) for row in self.rows]
        write_text(self.path, "\n".join(lines) + "\n")


def write_json(path: Path, content: Any) -> None:
    """Plain values as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
