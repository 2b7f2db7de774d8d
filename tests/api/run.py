"""Holds the gateway to its own description, and to the README's walk with curl:
`make api-test`.

Starts a cluster, reads /openapi.json and sends it what the description allows
and what it doesn't. Whatever comes back must be described: its status, its
type, its headers and its body; and it must never be a 500.

Usage: run.py [SEED]; without one always the same, so that a build is not red by
chance. For nights: run.py $RANDOM.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import walk

HERE = Path(__file__).resolve().parent
BINARY = HERE.parent.parent / "target/debug/roomgate"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance"
)
# A socket isn't HTTP, and a stream doesn't end; `tests/it` has them.
ENDLESS = ["--exclude-path", "/v1/ws", "--exclude-path", "/v1/rooms/{room}/live"]
# They end the token that the others need.
LAST_WORDS = ["--exclude-path", "/v1/signout", "--exclude-operation-id", "erase"]


def post(url, body, token=None, method="POST"):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


class Cluster:
    """`roomgate dev` in a folder of its own."""

    def __init__(self, folder):
        self.log = open(f"{folder}/log", "w+")
        self.process = subprocess.Popen(
            [BINARY, "dev", "--data", f"{folder}/data", "--port", "0", "--json", "--no-limits"],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        told = ""
        for line in self.process.stdout:
            told += line
            if line == "}\n":
                break
        if not told:
            self.log.seek(0)
            sys.exit(f"roomgate dev did not come up:\n{self.log.read()}")
        # Not the balancer, whose own refusals are not ours to describe.
        self.url = json.loads(told)["nodes"][0]["url"]

    def person(self, name):
        wish = {"email": f"{name}@example.test", "password": "correct horse", "name": name}
        return post(f"{self.url}/v1/signup", wish)["token"]

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def schemathesis(url, token, config, *more):
    """One run; true if nothing was found."""
    command = [
        Path(sys.executable).with_name("schemathesis"),
        "--config-file", config,
        "run", f"{url}/openapi.json",
        "--checks", CHECKS,
        "--continue-on-failure", "--no-color", "--generation-database", "none",
        *more,
    ]  # fmt: skip
    if token:
        command += ["-H", f"Authorization: Bearer {token}"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks"}
    return subprocess.run(command, cwd=HERE, env=environment, check=False).returncode == 0


def main():
    seed = ["--seed", sys.argv[1] if len(sys.argv) > 1 else "1"]
    with tempfile.TemporaryDirectory(prefix="roomgate-api-") as folder:
        cluster = Cluster(folder)
        try:
            alice, gone = cluster.person("alice"), cluster.person("gone")
            room = post(f"{cluster.url}/v1/rooms", {"slug": "described", "schema": "open"}, alice)
            items = [
                {"op": f"op-{n}", "kind": "shape.add", "shape": {"id": f"s{n}", "type": "t", "n": n}}
                for n in range(20)
            ]
            post(f"{cluster.url}/v1/rooms/{room['room']}/events", {"items": items}, alice)
            plain, known = f"{folder}/plain.toml", f"{folder}/known.toml"
            Path(plain).write_text("")
            Path(known).write_text('[parameters]\n"path.room" = "described"\n')
            found_nothing = [
                walk.run(cluster.url),
                schemathesis(
                    cluster.url, alice, known, *ENDLESS, *LAST_WORDS, *seed,
                    "--phases", "coverage,fuzzing", "--max-examples", "40",
                ),  # fmt: skip
                # Rooms that don't exist, and a token that ends on the way.
                schemathesis(
                    cluster.url, gone, plain, "--exclude-path", "/v1/ws", *seed,
                    "--phases", "coverage,fuzzing", "--max-examples", "10",
                ),  # fmt: skip
            ]
        finally:
            cluster.stop()
    sys.exit(0 if all(found_nothing) else 1)


if __name__ == "__main__":
    main()
