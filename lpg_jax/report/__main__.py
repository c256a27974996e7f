"""`python -m lpg_jax.report WORKDIR...`: print the tables of finished runs and write their files again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lpg_jax import report


def main(argv: Sequence[str] | None = None) -> None:
    """Report on every work directory of the command line; a damaged one ends with status 2 and one line of reason."""
    parser = argparse.ArgumentParser(prog="python -m lpg_jax.report", description=__doc__)
    parser.add_argument("workdir", nargs="+", help="directory of a finished run, with summary.json in it")
    for workdir in parser.parse_args(argv).workdir:
        try:
            report.show(workdir)
            paths = report.write(workdir)
        except (OSError, ValueError) as error:
            parser.exit(2, f"error: {error}\n")
        print(*paths, sep="\n")


if __name__ == "__main__":
    main()
