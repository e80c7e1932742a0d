"""The state of a training in one file: what it takes to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raylign.errors import InputError
from raylign.methods.weights import read_weights, write_weights

_NETWORK, _OPTIMISER, _GATHERED = "network.", "optimiser.", "gathered."


def save_checkpoint(
    path: str | Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    about: dict[str, Any],
    gathered: Mapping[str, Tensor] | None = None,
) -> None:
    """Write network and optimiser, whole or not at all; ``about`` says at which iteration, and of what.

    Data need no further state: minibatch n follows from the seed, n and what was ``gathered``, if anything.

    Raises
    ------
    InputError: the file cannot be written.
    """
    tensors = {_NETWORK + name: value for name, value in network.state_dict().items()}
    for number, values in optimiser.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                tensors[f"{_OPTIMISER}{number}.{name}"] = torch.as_tensor(value)
    tensors |= {_GATHERED + name: value for name, value in (gathered or {}).items()}
    write_weights(path, tensors, about)


def load_checkpoint(
    path: str | Path, network: nn.Module, optimiser: torch.optim.Optimizer, fingerprint: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Bring network and optimiser to where a checkpoint has them; what it says about itself, and what was gathered.

    Raises
    ------
    InputError: no such file, a damaged one, one of another training.
    """
    tensors, about = read_weights(path)
    if about.get("fingerprint") != fingerprint:
        raise InputError("is of a training with other settings", file=path, remedy="name another folder with --out")
    try:
        network.load_state_dict({n.removeprefix(_NETWORK): t for n, t in tensors.items() if n.startswith(_NETWORK)})
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith(_OPTIMISER):
                number, _, what = name.removeprefix(_OPTIMISER).partition(".")
                state.setdefault(int(number), {})[what] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        int(about["iteration"]), float(about["cpu_seconds"]), [float(x) for x in about["losses"]][1]
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"is damaged ({str(error).splitlines()[0]})", file=path, remedy="delete it: the training begins anew"
        ) from None
    return about, {name.removeprefix(_GATHERED): t for name, t in tensors.items() if name.startswith(_GATHERED)}
