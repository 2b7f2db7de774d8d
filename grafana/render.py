"""Takes a picture of every dashboard as `roomgate dev --prometheus` draws it, for
docs/: render.py --prometheus URL [--minutes N] [--out FOLDER]
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from boards import dashboards

HERE = Path(__file__).resolve().parent
WIDTH, CELL, HEADER = 1400, 30, 40


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", metavar="URL", required=True)
    parser.add_argument("--minutes", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    for board in dashboards():
        name = board.uid.removeprefix("roomgate-")
        height = HEADER + CELL * max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board.json["panels"])
        out = options.out.resolve() / f"dashboard-{name}.png"
        page = f"{options.prometheus}/user/live/?board={name}&minutes={options.minutes}&still"
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
                 f"--window-size={WIDTH},{height}", "--virtual-time-budget=10000", f"--screenshot={out}", page],
                check=True, capture_output=True, timeout=120,
            )  # fmt: skip
        print(f"{out.name}: {out.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
