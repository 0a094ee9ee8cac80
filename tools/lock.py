"""Resolves `requirements/*.txt` again: hashes for every platform, and no registry's address.

What is locked stays as it is unless pyproject.toml no longer allows it; `--upgrade` takes the newest.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMON = [
    "--universal",
    "--python-version",
    "3.11",
    "--generate-hashes",
    "--no-header",
    "--no-emit-index-url",
]
LOCKS = {
    # What `make run` and the image install.
    "run.txt": ["--extra", "planstore", "--extra", "fast"],
    # Everything; shared packages at the versions of run.txt.
    "dev.txt": ["--extra", "dev", "--constraint", "requirements/run.txt"],
}


def main() -> int:
    """Resolves each lock in turn; the exit status is that of the first failure, or 0."""
    for name, options in LOCKS.items():
        inputs = ["pyproject.toml", "requirements/build.in"]
        command = [
            sys.executable, "-m", "uv", "pip", "compile", "--quiet", *COMMON, *options, *sys.argv[1:],
            *inputs, "--output-file", f"requirements/{name}",
        ]  # fmt: skip
        status = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode
        if status:
            return status
        print(f"requirements/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
