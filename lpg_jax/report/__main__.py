"""Print the tables of finished runs and write their files again; with --out, the report of all evidence runs.

python -m lpg_jax.report runs/digits
python -m lpg_jax.report runs/evidence --out results
python -m lpg_jax.report --out results                   # again, of what results/runs keeps
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lpg_jax import report


def main(argv: Sequence[str] | None = None) -> None:
    """Report on every work directory of the command line; a damaged one ends with status 2 and one line of reason."""
    parser = argparse.ArgumentParser(
        prog="python -m lpg_jax.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "workdir", nargs="*", help="directory of a finished run; with --out that of `python -m evidence`, or nothing"
    )
    parser.add_argument("--out", type=Path, help="write tables, figures and the ledger of claims to this directory")
    options = parser.parse_args(argv)
    if options.out and len(options.workdir) > 1:
        parser.error(f"--out with {len(options.workdir)} directories: give one, that of `python -m evidence`")
    if not options.workdir and not options.out:
        parser.error("give the directory of a finished run")
    try:
        if options.out:
            print(*report.evidence_report(next(iter(options.workdir), None), options.out), sep="\n")
        else:
            for workdir in options.workdir:
                print(*_show_and_write(workdir), sep="\n")
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")


def _show_and_write(workdir: str) -> list[Path]:
    report.show(workdir)
    return report.write(workdir)


if __name__ == "__main__":
    main()
