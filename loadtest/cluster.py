"""A cluster of `roomgate dev` for one run, and what can happen to it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# All people come from one address, and some load comes from one user.
LIFTED = {
    f"ROOMGATE__LIMITS__{limit}": "0"
    for limit in (
        "SIGNUPS_PER_MINUTE",
        "SIGNINS_PER_MINUTE",
        "WRITES_PER_MINUTE",
        "USER_SUBMITS_PER_MINUTE",
        "USER_IMPORTS_PER_HOUR",
        "ROOMS_PER_USER",
        "USER_MESSAGES_PER_SECOND",
        "USER_BYTES_PER_SECOND",
    )
}


class Cluster:
    """On free ports, in a folder of its own that goes with it."""

    def __init__(self, binary, *options, settings=None):
        """With more options of `roomgate dev`, and settings of the nodes (ROOMGATE__…)."""
        self.binary = binary
        # Tests say where (scripts/test-folder.sh); what is measured is measured on a disk.
        parent = Path(os.environ.get("TMPDIR") or ROOT / "target/loadtest-run")
        parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="cluster-", dir=parent))
        self.log = open(self.folder / "log", "w+")
        self.environment = {**LIFTED, **(settings or {}), **os.environ}
        self.process = subprocess.Popen(
            [binary, "dev", "--data", self.folder / "data", "--port", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=self.environment,
            text=True,
            # Ctrl-C is for k6 first; the cluster is stopped after it.
            start_new_session=True,
        )
        told = ""
        for line in self.process.stdout:
            told += line
            if line == "}\n":
                break
        if not told.endswith("}\n"):
            self.log.seek(0)
            sys.exit(f"roomgate dev did not come up:\n{self.log.read()}")
        self.parts = json.loads(told)
        self.url = self.parts["lb"]
        self.nodes = [node["name"] for node in self.parts["nodes"]]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def endpoint(self, shard, role):
        endpoints = self.parts["shards"][shard]["endpoints"]
        return next(endpoint for endpoint in endpoints if endpoint["role"] == role)

    def promote(self):
        """Makes the first shard's replica its primary; what was said about it."""
        config = self.folder / "data/nodes/node-1.toml"
        name = self.parts["shards"][0]["name"]
        command = [self.binary, "shards", "promote", name, "--config", config]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def kill_node(cluster, _seconds):
    os.kill(cluster.parts["nodes"][0]["pid"], signal.SIGKILL)


def drain_node(cluster, _seconds):
    os.kill(cluster.parts["nodes"][0]["pid"], signal.SIGTERM)


def kill_redis(cluster, _seconds):
    os.kill(cluster.parts["redis"]["pid"], signal.SIGKILL)


def freeze_replica(cluster, seconds):
    _freeze(cluster.endpoint(0, "replica")["pid"], seconds)


def freeze_primary(cluster, seconds):
    _freeze(cluster.endpoint(0, "primary")["pid"], seconds)


def fail_over(cluster, _seconds):
    os.kill(cluster.endpoint(0, "primary")["pid"], signal.SIGKILL)
    done = cluster.promote()
    if done.returncode != 0:
        raise RuntimeError(f"the replica was not promoted:\n{done.stdout}{done.stderr}")


# Each is called in the middle of a run with the cluster and `--for`.
FAULTS = {
    "kill-node": kill_node,
    "drain-node": drain_node,
    "kill-redis": kill_redis,
    "freeze-replica": freeze_replica,
    "freeze-primary": freeze_primary,
    "fail-over": fail_over,
}
# In durability async, what the replica hadn't received yet is lost.
LOSSY = {"fail-over"}


def _freeze(server, seconds):
    with frozen(server):
        time.sleep(seconds)


@contextlib.contextmanager
def frozen(server):
    """A PostgreSQL server with all its processes stands still meanwhile."""
    # First the one that makes the others.
    os.kill(server, signal.SIGSTOP)
    stopped = [server, *_children(server)]
    for pid in stopped[1:]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def _children(parent):
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        # Others end while they are looked at.
        with contextlib.suppress(OSError):
            stats.append(path.read_text())
    # pid (name) state ppid; a name may contain anything.
    fields = [(stat.split(" ", 1)[0], stat.rpartition(") ")[2].split()) for stat in stats]
    return [int(pid) for pid, rest in fields if int(rest[1]) == parent]
