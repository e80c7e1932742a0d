"""The Triton backend apart from its numbers: what it refuses, what it asks for, that it compiles for a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from raylign.errors import InputError
from raylign.projection import cuda
from tests.projection.test_kernels import SAMPLES, SHAPE, SIZE, contents, scene, weights

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def in_a_process(code: str) -> str:
    """What a fresh interpreter prints that runs these lines, without the interpreter of Triton."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_triton_is_loaded_when_a_kernel_is_asked_for_and_not_before() -> None:
    assert in_a_process("import sys, raylign.projection.cuda; print('triton' in sys.modules)").strip() == "False"


def test_a_machine_without_triton_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "triton" or n.startswith("raylign.projection.cuda_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(InputError, match="needs Triton, which is not installed; install PyTorch's CUDA build"):
        cuda.integrals(contents(), scene(), torch.tensor(SAMPLES), SHAPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": contents().double()}, "volumes of torch.float64 are not projected on a GPU; convert to float32"),
        ({"rays": scene().float()}, "rays of torch.float32 are too coarse"),
        ({"rays": scene()[:, :5]}, r"rays of shape \(6, 5, 3\) are not \[B, 4, 3\] or \[B, 6, 3\]"),
        ({"samples": torch.tensor(SAMPLES[:5])}, "numbers of samples are not one int64 a view"),
        ({"samples": torch.tensor(SAMPLES, device="meta")}, "tensors lie on cpu, meta"),
        ({"model": "nearest"}, "no interpolation model 'nearest'"),
        ({"occupied": torch.ones(1, 2, 3, dtype=torch.uint8)}, r"table of bricks of shape \(1, 2, 3\) is not \(2, 2, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    pytest.importorskip("triton")
    given = {"volume": contents(), "rays": scene(), "samples": torch.tensor(SAMPLES), "shape": SHAPE} | change
    with pytest.raises(InputError, match=message):
        cuda.integrals(**given)


def test_weights_and_labels_of_other_shapes_are_refused() -> None:
    rays, n = scene(), torch.tensor(SAMPLES)
    with pytest.raises(InputError, match="slope_weights: slope_weights of shape"):
        cuda.adjoint(weights(6, *SHAPE), weights(6, *SHAPE), rays, n, SIZE)
    with pytest.raises(InputError, match="vectors: vectors of shape"):
        cuda.curvature(contents(), weights(6, *SHAPE), rays, n, SHAPE)
    with pytest.raises(InputError, match="labels: the label map is no uint8 tensor"):
        cuda.label_integrals(contents(), torch.zeros(3, 3, 3, dtype=torch.uint8), 2, rays, n, SHAPE)
    with pytest.raises(InputError, match="channels: 0 channels are too few"):
        cuda.label_integrals(None, torch.zeros(3, 3, 3, dtype=torch.uint8), 0, rays, n, SHAPE)


@pytest.mark.parametrize("change", [{"rows": 3}, {"run": 12}, {"brick": 4}, {"lanes": 0}, {"lanes": 32, "run": 32}])
def test_settings_that_do_not_fit_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"Tuning|bricks of 4 voxels|32 lanes"), cuda.tuned(**change):
        pass
    assert cuda.tuning() == cuda.Tuning()


def test_occupancy_is_the_or_of_eight_bricks() -> None:
    volume = torch.zeros(19, 33, 8)
    volume[3, 17, 0] = -1.0
    volume[18, 32, 7] = torch.nan
    found = cuda.occupancy(volume)
    assert found.shape == (3, 4, 2)
    for k in range(3):
        for j in range(4):
            for i in range(2):
                block = [slice(max(0, 16 * (n - 1)), 16 * (n + 1)) for n in (k, j, i)]
                assert found[k, j, i] == (volume[tuple(block)] != 0).any()


@pytest.mark.parametrize(("shape", "vectors"), [((2, 13, 17), 6), ((1, 1, 1), 4), ((3, 40, 30), 4)])
def test_the_contraction_sums_slopes_by_pixel_column_and_row(shape: tuple[int, int, int], vectors: int) -> None:
    pytest.importorskip("triton")
    w, s = weights(*shape), weights(*shape, 6)
    found = cuda.contraction(w, s, vectors)
    weighted = w.double()[..., None] * s.double()
    r, c = torch.arange(shape[1], dtype=torch.float64), torch.arange(shape[2], dtype=torch.float64)
    whole, by_c, by_r = weighted.sum((1, 2)), torch.einsum("bhws,w->bs", weighted, c), torch.einsum("bhws,h->bs", weighted, r)
    expected = torch.stack([whole[:, :3], whole[:, 3:], by_c[:, 3:], by_r[:, 3:], by_c[:, :3], by_r[:, :3]], 1)[:, :vectors]
    assert found.dtype == torch.float64
    assert float((found - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


def test_every_kernel_compiles_for_a_gpu_without_spilling() -> None:
    """Through ptxas, for sm_90, in the storage and the modes that the interpreter does not tell apart."""
    pytest.importorskip("triton")
    printed = in_a_process("""
        import pathlib, subprocess, tempfile, warnings
        warnings.simplefilter("ignore")
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from raylign.projection import cuda, cuda_contraction, cuda_joseph, cuda_siddon, cuda_trilinear

        at = cuda.Tuning()
        pointers = dict(volume="*fp32", labels="*u8", vectors="*fp32", rays="*fp64", samples="*i64", table="*u8", out="*fp32",
                        slopes="*fp32", weights="*fp32", slope_weights="*fp32", scale="*fp64")
        constants = dict(VECTORS=6, HAS_VOLUME=True, WIDE=False, ROWS=at.rows, COLUMNS=at.columns, LANES=at.lanes, BITS=at.bits,
                         LENGTH=at.brick - 4, BLOCK=128, SLOPES=True, FIXED=False, WHAT=cuda.JACOBIAN)

        def compiled(kernel, changed, **types):
            given = {**pointers, **types}
            fixed = {p.name: {**constants, **changed}[p.name] for p in kernel.params if p.is_constexpr}
            signature = {p.name: "constexpr" if p.is_constexpr else given.get(p.name, "i32") for p in kernel.params}
            source = ASTSource(kernel, signature=signature, constexprs=fixed)
            options = {"num_warps": at.warps, "enable_fp_fusion": True}
            done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(done.asm["cubin"])
                file.flush()
                command = [tool, "--dump-resource-usage", file.name]
                told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(kernel.__module__, kernel.__name__, "STACK:0 " in told)

        tool = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        compiled(cuda_trilinear.march, {}, volume="*bf16")
        compiled(cuda_trilinear.scatter, {"FIXED": True}, out="*i64")
        compiled(cuda_joseph.march, {"WIDE": True}, volume="*i16")
        compiled(cuda_siddon.march, {"WHAT": cuda.LABELS})
        compiled(cuda_siddon.scatter, {"FIXED": True}, out="*i64")
        compiled(cuda_contraction.contract, {}, out="*fp64")
    """)
    lines = printed.split("\n")[:-1]
    assert len(lines) == 6
    assert all(line.endswith("True") for line in lines), printed


def test_the_benchmark_says_that_it_needs_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "projector_gpu.py"
    spec = importlib.util.spec_from_file_location("projector_gpu", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["projector_gpu"] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        assert module.main(["-o", str(tmp_path), "--sizes", "64"]) == 1
    finally:
        del sys.modules["projector_gpu"]
    assert "PyTorch finds no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@needs_gpu
def test_launches_can_be_recorded_in_a_graph() -> None:
    """Nothing in a launch waits for the device or copies to it; the deterministic adjoint's scale included."""
    device = torch.device("cuda")
    volume, rays, n = contents().to(device), scene().to(device), torch.tensor(SAMPLES, device=device)
    w, s = weights(6, *SHAPE).to(device), weights(6, *SHAPE, 6).to(device)

    def everything() -> list[torch.Tensor]:
        done = list(cuda.jacobian(volume, rays, n, SHAPE, occupied=cuda.occupancy(volume)))
        return [*done, cuda.adjoint(w, s, rays, n, SIZE, deterministic=True), cuda.curvature(volume, s, rays, n, SHAPE)]

    expected = everything()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = everything()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(recorded, expected, strict=True))
