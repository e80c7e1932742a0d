"""The projector on a CUDA device: is it right, how should it be cut up, and what does it cost beside nanodrr.

    python benchmarks/projector_gpu.py -o DIR

runs, within about eight minutes, one section after the other, and writes ``DIR/projector_gpu.json`` anew after each:

``correctness``  the kernel suite (``tests/projection``), on the device
``capture``      ``raylign.project`` under ``torch.compile(fullgraph=True)`` and in a CUDA graph, against the eager result
``sweep``        time of the kernels under every way to cut them up, by CUDA events; the rest is measured at the defaults
``culling``      what the table of empty bricks brings on a volume of which most is empty
``compare``      forward, forward + pose gradient, forward + volume gradient and double backward, batches and sizes, at equal
                 integration error on an analytic phantom, with peak memory: raylign, nanodrr's Triton and PyTorch paths

Every package renders the same voxels in the same geometry, each at the cheapest setting of its own whose error against the
exact image is within 2 % of what the trilinear interpolant leaves when it is sampled four times a voxel. Packages take turns.
nanodrr is left out, with a line that says so, where it or torchio is not installed. Without a CUDA device the command ends with
exit code 1; ``--rehearse`` runs all of it on the CPU in miniature, to see that it runs: its times mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WHATS = ("forward", "forward+pose", "forward+volume", "double-backward")
TILES = (
    (1, 4, 8, 1),
    (2, 2, 8, 1),
    (1, 8, 4, 1),
    (2, 4, 8, 2),
    (2, 8, 8, 4),
    (4, 4, 8, 4),
    (4, 8, 4, 4),
    (8, 16, 1, 4),
    (2, 8, 16, 8),
    (4, 16, 8, 8),
)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The projector on a CUDA device: right, how fast, and beside nanodrr.")
    parser.add_argument("-o", "--out", type=Path, default=Path(os.environ.get("OUT", "build/bench")), help="folder for the JSON")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 200, 512], help="edges of the square images, pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64], help="poses a call")
    parser.add_argument("--volume", type=int, default=256, help="voxels along an edge of the volume")
    parser.add_argument("--seconds", type=float, default=450.0, help="after which no section and no row is begun")
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS), help="which to run")
    parser.add_argument("--rehearse", action="store_true", help="in miniature, on the CPU: only to see that it runs")
    return parser.parse_args(given)


@dataclass
class Run:
    """What all sections share."""

    options: argparse.Namespace
    device: Any
    found: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds."""
        return float(self.options.seconds) - (time.perf_counter() - self.began)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()

    def write(self) -> None:
        """All that has been found so far."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        path = self.options.out / "projector_gpu.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1))
        part.replace(path)

    def milliseconds(self, call: Callable[[], Any], seconds: float = 0.3) -> float:
        """Of one call among many, by CUDA events: the device's time, launches hidden where they are shorter than the work."""
        import torch

        call()
        self.synchronize()
        if self.device.type != "cuda":
            started = time.perf_counter()
            call()
            return 1000 * (time.perf_counter() - started)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def timed(count: int) -> float:
            first.record()
            for _ in range(count):
                call()
            last.record()
            torch.cuda.synchronize()
            return float(first.elapsed_time(last)) / count

        count = max(3, min(200, int(1000 * seconds / 3 / max(timed(2), 1e-3))))
        return statistics.median(timed(count) for _ in range(3))


def environment(run: Run) -> dict[str, Any]:
    """Machine and versions."""
    import torch
    import triton

    told = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    if run.device.type == "cuda":
        properties = torch.cuda.get_device_properties(run.device)
        told |= {
            "gpu": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "capability": list(torch.cuda.get_device_capability()),
        }
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return told | {"commit": commit.stdout.strip() or None}


def correctness(run: Run) -> dict[str, Any]:
    """The kernel suite on the device, by pytest in a process of its own."""
    which = "triton and storage and joseph" if run.options.rehearse else "not numba and not compiles_for_a_gpu"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/projection/test_kernels.py",
        "tests/projection/test_cuda.py",
        "-k",
        which,
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=max(60.0, run.left))
    return {"passed": done.returncode == 0, "tail": done.stdout.splitlines()[-25:] + done.stderr.splitlines()[-5:]}


def scene_of(run: Run, voxels: int) -> Any:
    """The analytic phantom on a grid."""
    from raylign.bench.scene import scene

    return scene(voxels)


def capture(run: Run) -> dict[str, Any]:
    """Compiled and recorded, image and pose gradient, against the eager ones."""
    import torch

    import raylign
    from raylign.bench.scene import poses

    subject = scene_of(run, 64 if run.device.type == "cuda" else 16)
    volume = raylign.Volume(subject.volume.data.to(run.device), subject.volume.affine.to(run.device))
    size = 96 if run.device.type == "cuda" else 12
    view = on_device(subject.view(size), run.device)
    at = poses(4).to(run.device)

    def step(moved: Any) -> tuple[Any, Any]:
        moved = moved.detach().requires_grad_()
        image = raylign.project(volume, view, moved, step=2.0)
        return image.detach(), torch.autograd.grad(image.square().sum(), moved)[0]

    def differences(got: tuple[Any, Any], wanted: tuple[Any, Any]) -> dict[str, float]:
        return {n: float((a - b).abs().max() / b.abs().max()) for n, a, b in zip(("image", "pose"), got, wanted, strict=True)}

    wanted, told = step(at), {}
    with noted(told, "compile"):
        forward = torch.compile(lambda moved: raylign.project(volume, view, moved, step=2.0), fullgraph=True)
        leaf = at.clone().requires_grad_()
        image = forward(leaf)
        told["compile"] = differences((image.detach(), torch.autograd.grad(image.square().sum(), leaf)[0]), wanted)
    with noted(told, "graph"):
        if run.device.type != "cuda":
            told["graph"] = "not on this device"
        else:
            still = at.clone()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step(still)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                recorded = step(still)
            still.copy_(poses(8)[4:].to(run.device))
            graph.replay()
            torch.cuda.synchronize()
            told["graph"] = differences(recorded, step(still)) | {
                "replay_ms": run.milliseconds(graph.replay),
                "eager_ms": run.milliseconds(lambda: step(still)),
            }
    return told


def on_device(view: Any, device: Any) -> Any:
    """A view whose tensors lie on a device, so that nothing is left to be copied there."""
    import dataclasses

    import torch

    moved = {f.name: getattr(view, f.name) for f in dataclasses.fields(view)}
    return dataclasses.replace(view, **{k: v.to(device) for k, v in moved.items() if isinstance(v, torch.Tensor)})


@contextmanager
def noted(told: dict[str, Any], name: str) -> Iterator[None]:
    """What goes wrong is a finding, and no reason to stop."""
    try:
        yield
    except Exception as error:
        told[name] = {"failed": f"{type(error).__name__}: {error}"[:600], "where": traceback.format_exc().splitlines()[-12:]}


def kernel_case(run: Run, voxels: int, size: int, batch: int, step: float = 1.0) -> dict[str, Any]:
    """Tensors for the kernels themselves: volume, rays, samples, weights."""
    import torch

    from raylign.bench.scene import poses
    from raylign.projection.rays import ray_batch, sample_counts

    subject = scene_of(run, voxels)
    view = subject.view(size)
    rays = ray_batch(subject.volume.affine, (view,), poses(batch), torch.device("cpu")).flatten(0, 1).to(run.device)
    samples = sample_counts((view,), step * min(subject.volume.spacing)).repeat(batch).to(run.device)
    w = torch.rand(batch, size, size, device=run.device)
    s = torch.rand(batch, size, size, 6, device=run.device)
    return {"volume": subject.volume.data.to(run.device), "rays": rays, "samples": samples, "shape": (size, size), "w": w, "s": s}


def kernel_calls(case: dict[str, Any], model: str) -> dict[str, Callable[[], Any]]:
    """The backend's functions on a case."""
    from raylign.projection import cuda

    volume, rays, n, shape = case["volume"], case["rays"], case["samples"], case["shape"]
    size = tuple(volume.shape)
    calls: dict[str, Callable[[], Any]] = {
        "integrals": lambda: cuda.integrals(volume, rays, n, shape, model),
        "jacobian": lambda: cuda.jacobian(volume, rays, n, shape, model),
        "adjoint": lambda: cuda.adjoint(case["w"], case["s"], rays, n, size, model),
        "adjoint, deterministic": lambda: cuda.adjoint(case["w"], case["s"], rays, n, size, model, True),
    }
    if model == "trilinear":
        calls["contraction"] = lambda: cuda.contraction(case["w"], case["s"], 4)
        calls["curvature"] = lambda: cuda.curvature(volume, case["s"], rays, n, shape)
    return calls


def sweep(run: Run) -> dict[str, Any]:
    """Ways to cut the kernels up; then every function of every model the fastest way."""
    from raylign.projection import cuda

    small = run.options.rehearse
    voxels, size, batches = (16, 8, (1,)) if small else (run.options.volume, 200, (1, 64))
    cases = {batch: kernel_case(run, voxels, size, batch) for batch in batches}
    rows = []
    for rows_, columns, lanes, warps in TILES[3:5] if small else TILES:
        setting = {"rows": rows_, "columns": columns, "lanes": lanes, "warps": warps}
        for run_length in (16,) if small else (16, 32):
            with cuda.tuned(**setting, run=run_length):
                for batch, case in cases.items():
                    calls = kernel_calls(case, "trilinear")
                    for what in ("integrals", "jacobian", "adjoint"):
                        if run_length == 16 or what != "adjoint":
                            row: dict[str, Any] = {**setting, "run": run_length, "batch": batch, "what": what}
                            with noted(row, "ms"):
                                row["ms"] = run.milliseconds(calls[what], 0.1)
                            rows.append(row)
        if run.left < 0.6 * run.options.seconds:
            break
    best = {
        f"{what}, batch {batch}": fastest(rows, what, batch) for what in ("integrals", "jacobian", "adjoint") for batch in batches
    }
    models = []
    for model, (batch, case) in itertools.product(("trilinear", "joseph", "siddon"), cases.items()):
        for what, call in kernel_calls(case, model).items():
            row = {"model": model, "batch": batch, "what": what}
            with noted(row, "ms"):
                row["ms"] = run.milliseconds(call, 0.1)
            models.append(row)
    storage = []
    for dtype in ("float32", "float16", "bfloat16", "int16"):
        import torch

        batch = max(batches)
        held = cases[batch] | {"volume": (cases[batch]["volume"] * (1.0 if dtype != "int16" else 1e6)).to(getattr(torch, dtype))}
        storage.append(
            {"storage": dtype, "batch": batch, "ms": run.milliseconds(kernel_calls(held, "trilinear")["jacobian"], 0.1)}
        )
    return {"rows": rows, "best": best, "models": models, "storage": storage, "default": vars(cuda.tuning())}


def fastest(rows: list[dict[str, Any]], what: str, batch: int) -> dict[str, Any] | None:
    """The row of least time."""
    mine = [r for r in rows if r["what"] == what and r["batch"] == batch and isinstance(r.get("ms"), float)]
    return min(mine, key=lambda r: r["ms"], default=None)


def culling(run: Run) -> dict[str, Any]:
    """The body alone in a grid with eight times its volume, with and without the table; and that no bit changes."""
    import torch

    from raylign.projection import cuda

    size, batch = (8, 1) if run.options.rehearse else (200, 8)
    case = kernel_case(run, 24 if run.options.rehearse else run.options.volume // 2, size, batch)
    n = case["volume"].shape[0]
    volume = torch.zeros(2 * n, 2 * n, 2 * n, device=run.device)
    inner = slice(n // 2, n // 2 + n)
    volume[inner, inner, inner] = case["volume"]
    rays = case["rays"].clone()
    rays[:, 0] += n // 2
    table = cuda.occupancy(volume)
    told: dict[str, Any] = {
        "filled": float(table.float().mean()),
        "occupancy_ms": run.milliseconds(lambda: cuda.occupancy(volume), 0.1),
    }
    for model in ("trilinear", "joseph", "siddon"):
        plain = cuda.jacobian(volume, rays, case["samples"], case["shape"], model)
        culled = cuda.jacobian(volume, rays, case["samples"], case["shape"], model, occupied=table)
        told[model] = {
            "same": all(torch.equal(a, b) for a, b in zip(plain, culled, strict=True)),
            "plain_ms": run.milliseconds(lambda m=model: cuda.jacobian(volume, rays, case["samples"], case["shape"], m), 0.1),
            "culled_ms": run.milliseconds(
                lambda m=model: cuda.jacobian(volume, rays, case["samples"], case["shape"], m, occupied=table), 0.1
            ),
        }
    return told


@dataclass
class Renderer:
    """One package on one path, with the setting that was chosen for it."""

    who: str
    timed: Any
    side: Any
    cameras: Callable[[int, int], dict[str, Any]]
    backend: str | None = None
    setting: dict[str, Any] = field(default_factory=dict)

    def prepare(self, what: str, size: int, batch: int, setting: dict[str, Any] | None = None) -> None:
        self.timed.prepare(what, self.cameras(size, batch), self.setting if setting is None else setting)
        if self.backend is not None:
            self.side.backend = self.backend

    def able(self, what: str) -> bool:
        return self.backend != "triton" or what != "double-backward"


def renderers(run: Run, subject: Any, folder: Path) -> tuple[list[Renderer], dict[str, str]]:
    """raylign and, where they are there, nanodrr's two paths; and who is missing and why."""
    import numpy as np

    from raylign.bench.scene import cameras
    from raylign.bench.sides import nanodrr as nanodrr_side
    from raylign.bench.sides import raylign as raylign_side
    from raylign.bench.sides.derivatives import Derivatives

    path = folder / "volume.npy"
    np.save(path, subject.volume.data.numpy())
    scene = {"volume": str(path), "affine": subject.volume.affine.tolist(), "device": run.device.type}
    made, missing = [], {}
    paths = [
        ("raylign", raylign_side, "raylign", None),
        ("nanodrr-triton", nanodrr_side, "nanodrr", "triton"),
        ("nanodrr-torch", nanodrr_side, "nanodrr", "torch"),
    ]
    if run.device.type != "cuda":
        paths.pop(1)
    for who, module, package, backend in paths:
        try:
            side = module.Side(scene)
        except ImportError as error:
            missing[who] = f"{error}; pip install nanodrr==0.1.7 torchio"
            continue
        made.append(
            Renderer(who, Derivatives(side, run.device.type), side, lambda s, b, p=package: cameras(p, subject, s, b), backend)
        )
    return made, missing


def compare(run: Run) -> dict[str, Any]:
    """Rows as those of ``raylign bench projector``, with the device's time and both of nanodrr's paths."""
    import torch

    from raylign.bench.settings import described

    small = run.options.rehearse
    subject = scene_of(run, 24 if small else run.options.volume)
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    told: dict[str, Any] = {"rows": rows, "skipped": skipped}
    with tempfile.TemporaryDirectory() as folder:
        crew, told["missing"] = renderers(run, subject, Path(folder))
        size = min(run.options.sizes)
        truth = subject.truth(size)
        finest, told["converged_error"] = None, None
        for one in crew:
            finest = (
                1.02 * tried(run, one, {"model": "trilinear", "step": 0.25}, size, truth)[0] if one.who == "raylign" else finest
            )
            told["converged_error"] = finest
            with noted(told, f"setting of {one.who}"):
                one.setting, told[f"setting of {one.who}"] = chosen(run, one, size, truth, finest)
        for size, batch, what in itertools.product(sorted(run.options.sizes), sorted(run.options.batches), WHATS):
            case = {"what": what, "batch": batch, "size": size}
            entries: dict[str, dict[str, Any]] = {}
            for one in crew:
                if not one.able(what) or not one.setting:
                    continue
                if run.left < 5:
                    skipped.append({"who": one.who, **case, "why": "no time left"})
                    continue
                try:
                    entries[one.who] = measured(run, one, what, size, batch)
                except (torch.OutOfMemoryError, RuntimeError, ValueError) as error:
                    skipped.append({"who": one.who, **case, "why": f"{type(error).__name__}: {error}"[:200]})
                if run.device.type == "cuda":
                    torch.cuda.empty_cache()
            # a second turn of everybody: who was first has no advantage
            for one in crew:
                if one.who in entries and run.left > 5 and entries[one.who]["ms"] < 300:
                    with noted(entries[one.who], "second"):
                        again = measured(run, one, what, size, batch)
                        entries[one.who]["ms"] = min(entries[one.who]["ms"], again["ms"])
                        entries[one.who]["device_ms"] = min(entries[one.who]["device_ms"], again["device_ms"])
            rows += [
                {"who": who, **case, **entry, "setting": described(next(o.setting for o in crew if o.who == who))}
                for who, entry in entries.items()
            ]
            run.write()
    told["ratios"] = ratios(rows)
    return told


def tried(run: Run, one: Renderer, setting: dict[str, Any], size: int, truth: Any) -> tuple[float, float]:
    """Relative RMS error of a setting, and ms of a forward call."""
    import numpy as np

    one.prepare("forward", size, 1, setting)
    difference = np.asarray(one.timed.call()["image"](0), np.float64) - truth.numpy()
    return float(np.sqrt((difference**2).mean() / (truth.numpy() ** 2).mean())), run.milliseconds(one.timed.call, 0.1)


def chosen(run: Run, one: Renderer, size: int, truth: Any, target: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cheapest setting that reaches the error, as ``raylign bench projector`` chooses it."""
    from raylign.bench.settings import Trial, choose

    assert target is not None
    choice, trials = choose(one.timed.ladders(), target, lambda setting: Trial(setting, *tried(run, one, setting, size, truth)))
    return choice.setting, {"setting": choice.setting, "reached": choice.reached, "trials": [vars(t) for t in trials]}


def measured(run: Run, one: Renderer, what: str, size: int, batch: int) -> dict[str, Any]:
    """Wall clock of a call with everything waited for, the device's time, and the peak of memory above what is held."""
    import torch

    one.prepare(what, size, batch)
    one.timed.call()
    held = peak = 0.0
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() / 2**20
    started = time.perf_counter()
    one.timed.call()
    seconds = time.perf_counter() - started
    if run.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20 - held
    walls, events = [1000 * seconds], []
    for _ in range(max(1, min(30, int(0.4 / max(seconds, 1e-5))))):
        if run.device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
        started = time.perf_counter()
        one.timed.call()  # waits for the device
        walls.append(1000 * (time.perf_counter() - started))
        if run.device.type == "cuda":
            last.record()
            torch.cuda.synchronize()
            events.append(first.elapsed_time(last))
    return {
        "ms": statistics.median(walls),
        "ms_min": min(walls),
        "device_ms": statistics.median(events or walls),
        "repeats": len(walls),
        "peak_mb": peak,
    }


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours over theirs, wall clock and memory, wherever both were measured."""
    found = []
    for row in rows:
        for other in rows:
            same = all(row[k] == other[k] for k in ("what", "batch", "size"))
            if same and row["who"] == "raylign" and other["who"] != "raylign":
                found.append(
                    {
                        "peer": other["who"],
                        **{k: row[k] for k in ("what", "batch", "size")},
                        "time": row["ms"] / other["ms"],
                        "memory": row["peak_mb"] / other["peak_mb"] if other["peak_mb"] > 0 else None,
                    }
                )
    forward = {(r["batch"], r["size"]): r["ms"] for r in rows if r["who"] == "raylign" and r["what"] == "forward"}
    for row in rows:
        if row["who"] == "raylign" and row["what"] != "forward" and (row["batch"], row["size"]) in forward:
            over = row["ms"] / forward[row["batch"], row["size"]]
            found.append({"peer": "own forward", **{k: row[k] for k in ("what", "batch", "size")}, "time": over, "memory": None})
    return found


SECTIONS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "environment": environment,
    "correctness": correctness,
    "capture": capture,
    "sweep": sweep,
    "culling": culling,
    "compare": compare,
}


def main(given: list[str] | None = None) -> int:
    """Run the sections; 0 where the suite passed, 1 without a CUDA device or where something failed."""
    options = arguments(given)
    if options.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
        options.sizes, options.batches, options.seconds = [12], [1, 2], 1e4
    sys.path.insert(0, str(ROOT / "src"))
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        print("projector_gpu: PyTorch finds no CUDA device; run this on a machine with one (or see --rehearse)", file=sys.stderr)
        return 1
    run = Run(options, torch.device("cpu" if options.rehearse else "cuda", *([] if options.rehearse else [0])))
    for name in options.sections:
        if run.left < 10:
            run.found.setdefault("left_out", []).append(name)
            continue
        print(f"{name} ... ({run.left:.0f} s left)", flush=True)
        with noted(run.found, name):
            run.found[name] = SECTIONS[name](run)
        run.write()
    for line in run.found.get("compare", {}).get("ratios", []):
        print(line)
    print(options.out / "projector_gpu.json")
    failed = [n for n in options.sections if "failed" in run.found.get(n, {})]
    return 0 if run.found.get("correctness", {"passed": True}).get("passed") and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
