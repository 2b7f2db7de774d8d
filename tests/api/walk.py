"""Runs the commands of the README's section "With curl" and compares what they
print with what is printed there."""

import os
import re
import subprocess
from pathlib import Path

README = Path(__file__).resolve().parent.parent.parent / "README.md"


def steps():
    """Pairs of a command and what it prints."""
    section = README.read_text().split("## With curl\n")[1].split("\n## ")[0]
    found = []
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append([line[2:], ""])
            elif line.startswith("> "):
                found[-1][0] += "\n" + line[2:]
            else:
                found[-1][1] += line + "\n"
    return found


def run(url):
    """True if all of it is as printed."""
    commands = steps()
    # One shell for all, and between two commands a line that says so.
    script = "".join(f"{command}\necho '---{number}---'\n" for number, (command, _) in enumerate(commands))
    script = script.replace("URL=http://127.0.0.1:8080", f"URL={url}")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ, check=False)
    printed = re.split(r"---\d+---\n", done.stdout)
    right = len(printed) == len(commands) + 1
    for (command, expected), got in zip(commands, printed):
        pattern = ".*".join(re.escape(part) for part in expected.split("…"))
        if not re.fullmatch(pattern, got):
            right = False
            print(f"README: $ {command}\nprints:\n{got}instead of:\n{expected}{done.stderr}")
    print(f"README: {len(commands)} commands" + (" as printed" if right else ""))
    return right
