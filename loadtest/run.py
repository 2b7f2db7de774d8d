"""Runs a load test against a cluster of its own, or a running one:
`make smoke`, `make load SCRIPT=draw [URL=…]`, `make load-proof`.

k6 reads the scripts' settings from the environment, see README.md. Exit status:
k6's own, which is 0 only if every threshold held.
"""

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from cluster import FAULTS, LOSSY, ROOT, Cluster
from delay import DelayingProxy

HERE = Path(__file__).resolve().parent
SCRIPTS = sorted(path.stem for path in HERE.glob("*.js"))
K6 = Path(sys.executable).with_name("k6")


def k6(script, url, out, settings):
    """One run; k6's exit status."""
    out.mkdir(parents=True, exist_ok=True)
    command = [
        K6, "run", "--no-usage-report", "--address", "",
        *([] if sys.stdout.isatty() else ["--quiet", "--no-color"]),
        HERE / f"{script}.js",
    ]  # fmt: skip
    environment = {**os.environ, "URL": url, "OUT": str(out), **settings}
    return subprocess.run(command, env=environment, check=False).returncode


def run(script, options, out=HERE / "out", settings=None):
    """Against `options.url` or a cluster for this run; k6's exit status."""
    if options.url:
        return k6(script, delayed(options.url, options.delay), out, settings or {})
    with Cluster(options.binary) as cluster:
        told = {"NODES": ",".join(cluster.nodes), **(settings or {})}
        if options.fault in LOSSY:
            told["LOSSY"] = "1"
        if options.fault:
            fault = lambda: FAULTS[options.fault](cluster, options.seconds)  # noqa: E731
            timer = threading.Timer(options.after, fault)
            timer.daemon = True
            timer.start()
        return k6(script, delayed(cluster.url, options.delay), out, told)


def delayed(url, delay_ms):
    """The same gateway with late answers, if that is asked for."""
    if delay_ms is None:
        return url
    parts = urlsplit(url)
    if parts.scheme != "http":
        sys.exit("--delay is for http://; a certificate would not fit the proxy")
    return DelayingProxy(parts.hostname, parts.port or 80, delay_ms).url


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("script", choices=SCRIPTS)
    parser.add_argument("--url", help="of a gateway or balancer that runs; default: a cluster for this run")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/roomgate")
    parser.add_argument("--delay", type=float, metavar="MS", help="every answer of the gateway is so late")
    parser.add_argument("--fault", choices=FAULTS, help="what happens to the cluster of this run")
    parser.add_argument("--after", type=float, default=20, metavar="S", help="when, default 20")
    parser.add_argument("--for", type=float, default=5, metavar="S", dest="seconds", help="how long something is frozen, default 5")
    options = parser.parse_args()
    if options.fault and options.url:
        parser.error("--fault is for a cluster of this run: without --url")
    sys.exit(run(options.script, options))


if __name__ == "__main__":
    main()
