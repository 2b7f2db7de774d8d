"""Runs check.py against a Prometheus of its own, which watches a cluster in which
people draw and read: part of `make operators-test`.

Usage: live_test.py --binary PATH --k6 PATH
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOADTEST = HERE.parent / "loadtest"
sys.path.insert(0, str(LOADTEST))
from cluster import Cluster  # noqa: E402

# Longer than a rate over a minute needs, and short enough for every test run.
SECONDS = 75
LOADS = {"draw": {"VUS": "4", "SESSIONS": "3", "ROOMS": "6"}, "history": {"VUS": "2", "EVENTS": "100"}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--k6", type=Path, required=True)
    options = parser.parse_args()
    with Cluster(options.binary, "--prometheus") as cluster:
        loads = [load(options.k6, script, cluster, settings) for script, settings in LOADS.items()]
        # They ask whether everything is right and fast; here they only make it busy.
        for each in loads:
            each.wait()
        url = cluster.parts["prometheus"]["url"]
        check = [sys.executable, HERE / "check.py", "--prometheus", url, "--minutes", "2"]
        sys.exit(subprocess.run(check, check=False).returncode)


def load(k6, script, cluster, settings):
    told = {"URL": cluster.url, "OUT": str(cluster.folder), "DURATION": f"{SECONDS}s", **settings}
    command = [k6, "run", "--no-usage-report", "--address", "", "--quiet", LOADTEST / f"{script}.js"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env={**os.environ, **told}, **quiet)


if __name__ == "__main__":
    main()
