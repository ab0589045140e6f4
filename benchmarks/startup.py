"""How long does `cryoatom --help` take? The aim is under half a second.

python benchmarks/startup.py [--runs 11]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11)
    seconds = [measure() for _ in range(parser.parse_args().runs)]
    print(f"cryoatom --help: median {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f} s")


def measure() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cryoatom.cli.main", "--help"], check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
