"""The command ``make bench``: measure everything in one run, then write the tables and the plot.

With ``BENCH_QUICK=1`` a small form of it, into files that are not kept.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks.contestants import PEERS_PYTHON
from benchmarks.machine import describe
from benchmarks.measures import FULL, MEASURES, QUICK, Bench
from benchmarks.report import read, render, replace_results
from benchmarks.shop import Shop

HERE = Path(__file__).parent
README = HERE / "README.md"


def main() -> None:
    """Measure, and show."""
    quick = bool(os.environ.get("BENCH_QUICK"))
    results = HERE / ("quick.jsonl" if quick else "results.jsonl")
    results.unlink(missing_ok=True)
    began = time.monotonic()
    with Shop() as shop:
        bench = Bench(shop, QUICK if quick else FULL, results)
        bench.note("machine", "facts", **describe())
        for measure in MEASURES:
            measure(bench)
    print(f"Measured in {(time.monotonic() - began) / 60:.1f} minutes.")
    _show(results, HERE / ("quick.md" if quick else "README.md"))


def _show(results: Path, page: Path) -> None:
    plot = page.with_name("quick.svg" if page != README else "results.svg")
    subprocess.run([PEERS_PYTHON, "-m", "benchmarks.plot", str(results), str(plot)], check=True)
    page.write_text(replace_results(README.read_text(), render(read(results), plot.name)))
    print(f"Written: {page.name} and {plot.name} in benchmarks/.")


if __name__ == "__main__":
    main()
