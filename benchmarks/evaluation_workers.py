"""How much faster an evaluation is with more workers: processes of this machine, and a Dask cluster on it.

``python benchmarks/evaluation_workers.py [--protocol smoke] [--cases 24] [--workers 1,2] [--ways processes,dask] [--data FOLDER]
[--json]``

The same run, once for each number of workers and each way, from the call to the last record. Processes start and load their
kernels within that time. Of a Dask cluster (a scheduler, and workers of one thread) the workers wait already, and were asked once
before. Records are checked to be equal. MB is the largest process so far. The load is told: on a busy machine seconds say
little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from raylign.evaluation.protocol import load_protocol
from raylign.evaluation.provenance import machine
from raylign.evaluation.record import Record
from raylign.evaluation.runner import RunSettings, run


@contextmanager
def cluster(place: Path, count: int) -> Iterator[str]:
    """Address of a scheduler with so many workers."""
    from distributed import Client

    file = place / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    words: list[list[str]] = [[*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]]
    words += [[*dask, "worker", "--scheduler-file", str(file), "--nthreads", "1", "--name", str(n)] for n in range(count)]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": place}
    started = []
    try:
        for command in words:
            started.append(subprocess.Popen([*command, "--no-dashboard"], **quiet))
            while not (file.exists() and file.read_text().strip()):
                time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=120)
        yield address
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def measured(way: str, count: int, protocol: Any, place: Path, data: Path | None) -> tuple[dict[str, Any], list[Record]]:
    """One run."""
    load = os.getloadavg()[0]
    if way == "processes":
        begun = time.perf_counter()
        records = run(protocol, place / f"{way}-{count}", RunSettings(workers=count, data=data))
        seconds = time.perf_counter() - begun
    else:
        with cluster(place, count) as address:
            run(protocol.with_(cases=2 * count), place / f"warm-{count}", RunSettings(dask=address, data=data))
            begun = time.perf_counter()
            records = run(protocol, place / f"{way}-{count}", RunSettings(dask=address, data=data))
            seconds = time.perf_counter() - begun
    row = {"way": way, "workers": count, "seconds": seconds, "load_before": load}
    row["cpu_of_registrations"] = sum(r.seconds.get("cpu", 0.0) for r in records)
    row["largest_process_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of any so far
    return row, records


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", default="smoke")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--ways", default="processes,dask")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    protocol = load_protocol(given.protocol).with_(cases=given.cases)
    rows, first = [], None
    for way in given.ways.split(","):
        for count in map(int, given.workers.split(",")):
            with tempfile.TemporaryDirectory() as place:
                row, records = measured(way, count, protocol, Path(place), given.data)
            plain = [replace(r, seconds={}) for r in records]
            first = first or plain
            rows.append({**row, "same_records": plain == first})
    if given.json:
        print(json.dumps({"rows": rows, "protocol": given.protocol, "cases": given.cases, "machine": machine()}))
        return
    print(f"{given.protocol}, {given.cases} cases, {machine()['cores']} cores")
    print(f"{'way':10s} {'workers':>7s} {'seconds':>8s} {'cpu':>7s} {'load':>5s} {'MB':>6s}  same records")
    for r in rows:
        cost = f"{r['seconds']:8.1f} {r['cpu_of_registrations']:7.1f} {r['load_before']:5.1f} {r['largest_process_mb']:6.0f}"
        print(f"{r['way']:10s} {r['workers']:7d} {cost}  {'yes' if r['same_records'] else 'NO'}")


if __name__ == "__main__":
    main()
