"""Time and memory of a training step of the convex similarity: our kernels beside the same step through the PyTorch reference.

    python benchmarks/convex_step.py [--sizes 1x64,1x128,4x128] [--steps 3] [--limit-gb 18] [--json FILE]

A size is pairs x side: a cube of so many voxels and images of so many pixels along each side. Each row runs in a process of its
own: a step is the expansion of the volume, its projection under all poses, the encoder, the gradient by the poses, the loss of
that gradient, and its derivatives by all weights (the double backward). ``kernels`` projects as raylign does; ``reference`` by
``raylign.projection.reference``, plain PyTorch in float32, which autograd differentiates twice, with samples on the part of each
ray alone that the cube can lie in. Memory is the largest resident set of the process less what it had before the first step.
Compilation, and the first step, are stated apart. A row that would need more than the limit says so.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_COLUMNS = ("pairs", "side", "projector", "seconds a step", "first step", "peak, MB", "of it the step's, MB")


def _rss_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def measured(pairs: int, side: int, projector: str, steps: int) -> dict[str, float]:
    """One row, in this process."""
    import torch
    from torch import Tensor

    from raylign.geometry import View
    from raylign.methods.convex_similarity.model import Similarity
    from raylign.methods.convex_similarity.network import BranchConfig, NetworkConfig, make_network
    from raylign.methods.cubes import CubeConfig
    from raylign.methods.geodesic import between, downhill, moved
    from raylign.methods.looks import Looks
    from raylign.projection import operator, reference

    stream = torch.Generator().manual_seed(0)
    cube = CubeConfig(side, 320.0 / side, side)
    sizes = NetworkConfig(fine=BranchConfig(side // 16, 48), coarse=BranchConfig(side // 8, 96, 2))
    network = make_network(sizes, side, 0)
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, side),) * 3, indexing="ij")
    shell = ((x / 0.8) ** 2 + (y / 0.6) ** 2 + (z / 0.7) ** 2).sqrt()
    volume = ((shell > 0.75) & (shell < 0.95)).to(torch.float32) * (0.5 + torch.rand(side, side, side, generator=stream))
    view = View.from_carm(sid=1020.0, sod=800.0, pixel_spacing=278.5 / side, shape=(side, side))
    looks = Looks(torch.randn(pairs, 1, side, side, generator=stream), view.vectors.expand(pairs, 4, 3))
    eye = torch.eye(4, dtype=torch.float64).expand(pairs, 4, 4)
    at, truth = (moved(eye, 0.2 * torch.randn(pairs, 6, generator=stream, dtype=torch.float64), 100.0) for _ in range(2))

    def plain(one: Tensor, rays: Tensor, shape: tuple[int, int], samples: list[int], model: str = "trilinear") -> Tensor:
        # the cube's half diagonal about its middle, as a share of the way to the detector
        half, middle = math.sqrt(3) / 2 * 320.0, 800.0
        low, high = max(0.0, (middle - half) / 1020.0), min(1.0, (middle + half) / 1020.0)
        part = torch.cat([rays[:, :1] + low * rays[:, 1:2], (high - low) * rays[:, 1:], low * rays[:, 2:]], 1)
        count = [math.ceil((high - low) * n) for n in samples]
        return (high - low) * reference.integrals(one, part.to(one.dtype), shape, count, model)

    if projector == "reference":
        operator.integrals = plain  # type: ignore[assignment]
    similarity = Similarity(network, cube)
    before, spent = _rss_mb(), []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        _, slopes = similarity.gradient(network.expanded(volume), looks, at, twice=True)
        between(slopes, -downhill(at, truth, 100.0)).mean().backward()
        network.zero_grad(set_to_none=True)
        spent.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": sum(spent[1:]) / max(len(spent) - 1, 1), "first": spent[0], "peak": peak, "own": peak - before}


def _apart(pairs: int, side: int, projector: str, said: argparse.Namespace) -> dict[str, Any]:
    """One row, in a process of its own; ``failed`` where it needed too much memory."""
    command = [sys.executable, __file__, "--row", f"{pairs}x{side}:{projector}", "--steps", str(said.steps)]
    command += ["--limit-gb", str(said.limit_gb)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    row: dict[str, Any] = {"pairs": pairs, "side": side, "projector": projector}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        short = any(word in done.stderr for word in ("memory", "MemoryError", "allocate")) or done.returncode < 0
        return {**row, "failed": f"more than {said.limit_gb:g} GB" if short else last}
    return {**row, **json.loads(done.stdout.strip().splitlines()[-1])}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1x64,1x128,4x128")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--limit-gb", type=float, default=18.0)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    if said.row:
        limit = int(said.limit_gb * 2**30)
        resource.setrlimit(
            resource.RLIMIT_AS, (limit + 6 * 2**30, resource.RLIM_INFINITY)
        )  # libraries map some GB they never touch
        size, _, projector = said.row.partition(":")
        pairs, side = map(int, size.split("x"))
        print(json.dumps(measured(pairs, side, projector, said.steps)))
        return
    rows = []
    print(f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|")
    for size in said.sizes.split(","):
        pairs, side = map(int, size.split("x"))
        for projector in ("kernels", "reference"):
            row = _apart(pairs, side, projector, said)
            rows.append(row)
            start = f"| {pairs} | {side} | {projector} |"
            if "failed" in row:
                print(f"{start} {row['failed']} | | | |", flush=True)
            else:
                print(f"{start} {row['seconds']:.2f} | {row['first']:.2f} | {row['peak']:.0f} | {row['own']:.0f} |", flush=True)
    if said.json:
        said.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
