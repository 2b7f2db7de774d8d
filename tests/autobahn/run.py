"""The WebSocket cases of Autobahn against the framing of the gateway.

Usage: run.py SERVER, the program of main.rs. Cases that the protocol rules out
are not asked for: a binary message is closed with 1003 (`it::broken_frames`
shows it), and compression is not offered.
"""

import asyncio
import subprocess
import sys
from collections import Counter

from kosoku import FailureError, run_fuzzingclient

BINARY = ["1.2.*", "9.2.*", "9.4.*", "9.6.*", "9.8.*"]
COMPRESSED = ["12.*", "13.*"]


async def results(server):
    process = subprocess.Popen([server], stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip()
        return await run_fuzzingclient(f"ws://{address}", exclude_cases=BINARY + COMPRESSED)
    except FailureError as failure:
        return failure.results
    finally:
        process.kill()


def main():
    cases = asyncio.run(results(sys.argv[1]))
    verdicts = Counter(case.behavior.value for case in cases)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    print(f"{len(cases)} cases of Autobahn: {told}")
    failed = [case for case in cases if not case.passed]
    for case in failed:
        print(f"{case.case_id} {case.behavior.value}, close {case.behavior_close.value}: {case.result}")
    sys.exit(1 if failed or not cases else 0)


if __name__ == "__main__":
    main()
