"""`python -m benchmarks NAME`: the commands of this folder, which measure the library and write pages of docs."""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap

COMMANDS = {
    "speed": "time and memory beside the published procedures: the table of docs/performance.md",
    "growth": "how time and memory grow with weights and runs: the figure of docs/performance.md",
    "unchanged": "do all masks, record ids and figures agree with those of an earlier commit?",
    "trainers": "a masked step beside a dense one under each trainer: the table of docs/trainers.md",
    "gpu": "the published accuracies that need a GPU, a few minutes a call",
    "collapse": "channels without a weight, under several conventions, beyond frankle-figure-5",
    "recall": "what methods leave of attention, and what that costs: the tables of docs/results/attention.md",
    "lenet": "SNIP's LeNet-300-100 written a second time: docs/results/snip-lenet-mnist.md",
    "starts": "how pruned networks start: the tables on GraSP in docs/results/frankle-lenet-mnist.md",
    "statements": "what papers state, judged by our records: the tables of statements in docs/results",
    "certificate": "published numbers beside ours: the tables of docs/results/index.md",
}


def main() -> int:
    """Hand over to `main` of the module of that name; its exit code."""
    listed = (
        textwrap.fill(words, 78, initial_indent=f"  {name:<13}", subsequent_indent=" " * 15)
        for name, words in COMMANDS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="%(prog)s NAME ...",
        description="\n".join(["Measure the library, and write the pages that say so.", "", *listed]),
        epilog="python -m benchmarks NAME --help explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="one of the names above")
    name = parser.parse_args(sys.argv[1:2]).name
    if name is None:
        parser.print_help()
        return 0
    if name not in COMMANDS:
        parser.error(f"no benchmark {name!r}; there are {', '.join(COMMANDS)}")
    return int(importlib.import_module(f"benchmarks.{name}").main(sys.argv[2:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
