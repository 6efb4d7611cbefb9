"""Runs the notebooks beside this file, each cell to its end.

    python python/examples/run.py            # and writes their outputs into them
    python python/examples/run.py --check    # writes nothing
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", default=["closing_quote.ipynb", "port.ipynb"])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for name in args.notebooks:
        notebook = nbformat.read(FOLDER / name, as_version=4)
        # What a notebook writes, it writes beside itself: into a folder of its own here, below the repository's.
        with tempfile.TemporaryDirectory(dir=FOLDER) as work:
            NotebookClient(notebook, timeout=900, resources={"metadata": {"path": work}}).execute()
        for cell in notebook.cells:
            # When a cell was run says nothing about it.
            cell.metadata.pop("execution", None)
        if not args.check:
            nbformat.write(notebook, FOLDER / name)
        print(f"{name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells", file=sys.stderr)


if __name__ == "__main__":
    main()
