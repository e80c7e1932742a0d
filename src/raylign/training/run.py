"""A training from recipe to weights: data, loop, figures on held-out patients, model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raylign.errors import InputError
from raylign.io.atomic import write_text
from raylign.registration.versions import versions
from raylign.training.curves import draw_curves
from raylign.training.loop import CURVES, LOG, LoopConfig, train, write_json
from raylign.training.recipes import Chosen

Tell = Callable[[str, float], None]

CARD, CARD_JSON = "card.md", "card.json"


@dataclass(frozen=True)
class RunConfig:
    """Where a training lies and with what it is run.

    Parameters
    ----------
    folder: of all its files.
    pool: folder of the data that it learns from; ``folder/pool`` where none is given. It may serve several trainings.
    workers: processes that make these data.
    device: on which it learns.
    save_every: iterations between checkpoints.
    until: iteration before which to stop for now.
    """

    folder: Path
    pool: Path | None = None
    workers: int = 1
    device: str = "cpu"
    save_every: int = 250
    until: int | None = None


@dataclass(frozen=True)
class Done:
    """What came of a run.

    Parameters
    ----------
    iteration: reached.
    finished: whether that is the end; only then are there weights.
    figures: of validation and test patients, by part.
    weights: name of the file of weights in the folder. said: the figures of test patients in words.
    """

    iteration: int
    finished: bool
    figures: Mapping[str, Mapping[str, float]]
    weights: str = ""
    said: str = ""


def run(chosen: Chosen, config: RunConfig, tell: Tell | None = None) -> Done:
    """Make the data, train, measure, write weights and card; go on where an earlier run was broken off.

    Raises
    ------
    InputError: folders of other trainings or of other data, files that cannot be written, a loss that is not finite, weights to
        begin from that do not fit or are missing.
    """
    say = tell or (lambda stage, share: None)
    folder = config.folder
    wanted = getattr(chosen.settings, "begin", None)
    if chosen.begin is None and wanted is not None:
        raise InputError(
            f"preset {chosen.preset} begins from the weights of preset {wanted}", field="--from",
            remedy="name the agent.safetensors of such a training",
        )  # fmt: skip
    task = chosen.make(chosen.settings, chosen.seed, config.pool or folder / "pool", config.device)
    if chosen.begin is not None:
        if not hasattr(task, "begin"):
            raise InputError(f"a {chosen.method} begins from random weights", field="--from", remedy="leave it out")
        task.begin(chosen.begin.file)
    _settled(folder, chosen)
    task.prepare(config.workers, lambda stage, share: say(stage, 0.3 * share))
    loop = LoopConfig(folder, chosen.fingerprint(), config.save_every, config.until)
    drawn = _Drawing(folder, f"{chosen.name}, preset {chosen.preset}, seed {chosen.seed}")

    def trained(stage: str, share: float) -> None:
        say(stage, 0.3 + 0.6 * share)
        drawn.refresh()

    reached = train(task, loop, trained)
    drawn.refresh()
    if reached < task.iterations:
        return Done(reached, False, {})
    made = task.finish(lambda stage, share: say(stage, 0.9 + 0.1 * share))
    return _written(chosen, folder, task, made, reached)


def join(chosen: Chosen, config: RunConfig, tell: Tell | None = None) -> Done:
    """Join agents (``chosen.members``) into one whose members vote, or take the one; measure it, write weights and card.

    Measured as the recipe's preset says, on its validation and test patients, of whom no member may know any.

    Raises
    ------
    InputError: agents that do not fit, folders of something else, files that cannot be written.
    """
    say = tell or (lambda stage, share: None)
    folder = config.folder
    task = chosen.make(chosen.settings, chosen.seed, config.pool or folder / "pool", config.device)
    if not hasattr(task, "joined"):
        raise InputError(f"several of {chosen.method} are not joined", field="--join", remedy="leave it out")
    agent = task.joined([one.file for one in chosen.members])
    _settled(folder, chosen)
    task.prepare(config.workers, lambda stage, share: say(stage, 0.3 * share), ("validation", "test"))
    made = task.measured(agent, lambda stage, share: say(stage, 0.3 + 0.7 * share))
    return _written(chosen, folder, task, made, int(agent.about["iterations"]))


def _written(chosen: Chosen, folder: Path, task: Any, made: tuple[Any, dict[str, Any]], reached: int) -> Done:
    """Weights and card of an agent with its figures."""
    agent, figures = made
    about = {**chosen.to_dict(), "iterations": reached, "figures": figures, "versions": versions()}
    file = folder / task.weights
    replace(agent, about=about).save(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    write_json(folder / CARD_JSON, {**about, "sha256": digest})
    write_text(folder / CARD, task.card(about, digest))
    return Done(reached, True, figures, task.weights, task.said(figures["test"]))


def _settled(folder: Path, chosen: Chosen) -> None:
    """Note what a folder is of, or see that it is of the same."""
    file = folder / "settings.json"
    if file.exists():
        try:
            known = json.loads(file.read_text(encoding="utf-8")).get("fingerprint")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"cannot be read ({error})", file=file, remedy="name another folder with --out") from None
        if known != chosen.fingerprint():
            raise InputError("is of a training with other settings", file=folder, remedy="name another folder with --out")
        return
    write_json(file, {"fingerprint": chosen.fingerprint(), **chosen.to_dict()})


class _Drawing:
    """The curves, drawn anew where the log has grown by a validation."""

    def __init__(self, folder: Path, title: str) -> None:
        self.log, self.picture, self.title, self.rows = folder / LOG, folder / CURVES, title, -1

    def refresh(self) -> None:
        if not self.log.exists():
            return
        text = self.log.read_text(encoding="utf-8")
        rows = sum(not line.endswith(",") for line in text.splitlines()[1:])
        if rows != self.rows:
            self.rows = rows
            draw_curves(self.log, self.picture, self.title)
