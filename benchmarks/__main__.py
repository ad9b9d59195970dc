"""`make bench`: measure everything on a lab of its own, and print the table that README quotes."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks import api, harness, lab, large, proxy, traffic
from benchmarks.table import Row, render
from labkit.lab import Lab
from labkit.local.paths import LabPaths
from labkit.local.server import lifecycle


def main() -> int:
    """Measure; the exit code is 1 where a figure missed its baseline."""
    rows: list[Row] = []

    def take(more: list[Row]) -> None:
        rows.extend(more)
        for row in more:
            print(f"  {row.what}: {row.value:.3g} {row.unit} ({row.ratio:.2f} × {row.against})", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as folder:
        paths = LabPaths(Path(folder) / "home")
        os.environ |= {"LABKIT_HOME": str(paths.home), "KUBECONFIG": str(Path(folder) / "kubeconfig")}
        try:
            take(lab.start(paths))
            opened = Lab.open("local")
            take(lab.create(opened))
            take(lab.idle(paths))
            take(api.rows(os.environ["KUBECONFIG"]))
            take(lab.rule_repaired(opened, paths))
            take(lab.switch(opened, paths))
            take(lab.programs_repaired(opened, paths))
            take(traffic.rows(opened))
            take(harness.rows(opened, paths))
            take(lab.scale(opened))
            take(lab.first_packet(opened))
            opened.run(opened.clean_up())
            take(proxy.rows(paths))
            take(large.rows(paths))
        finally:
            lifecycle.down(paths)
    print(render(rows))
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
