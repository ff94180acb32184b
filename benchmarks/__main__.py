"""The command of ``make bench``: measure everything in one run, then write the tables and the plot.

With ``BENCH_QUICK=1`` it measures fewer jobs and writes files that Git ignores.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks.candidates import PEERS_PYTHON
from benchmarks.machine import describe
from benchmarks.measures import FULL, MEASURES, QUICK, Bench
from benchmarks.report import read, render, replace_results
from benchmarks.sandboxes import SandboxProcess

HERE = Path(__file__).parent
README = HERE / "README.md"


def main() -> None:
    """Measure, then write the report."""
    quick = bool(os.environ.get("BENCH_QUICK"))
    results = HERE / ("quick.jsonl" if quick else "results.jsonl")
    results.unlink(missing_ok=True)
    started_at = time.monotonic()
    with SandboxProcess() as process:
        bench = Bench(process, QUICK if quick else FULL, results)
        bench.add("machine", "facts", **describe())
        for measure in MEASURES:
            measure(bench)
    print(f"Measured in {(time.monotonic() - started_at) / 60:.1f} minutes.")
    _write_report(results, HERE / ("quick.md" if quick else "README.md"))


def _write_report(results: Path, page: Path) -> None:
    plot = page.with_name("quick.svg" if page != README else "results.svg")
    subprocess.run([PEERS_PYTHON, "-m", "benchmarks.plot", str(results), str(plot)], check=True)
    page.write_text(replace_results(README.read_text(), render(read(results), plot.name)))
    print(f"Wrote {page.name} and {plot.name} in benchmarks/.")


if __name__ == "__main__":
    main()
