"""Executes the notebooks: each `analysis/notebooks/n*.py` (percent format) into the `.ipynb` beside it.

    python tools/notebooks.py [--check] [NAME ...]

With --check nothing is written, and as many are executed at once as there are cores: it fails where a notebook fails.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "analysis" / "notebooks"
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def executed(source: Path):
    """The notebook of a percent file, executed; raises nbclient's CellExecutionError where a cell fails."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same with every execution
    notebook.metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}},
                            record_timing=False)  # fmt: skip
    client.execute()
    for cell in notebook.cells:
        # What libraries print there differs from machine to machine.
        cell["outputs"] = [each for each in cell.get("outputs", []) if each.get("name") != "stderr"] or (
            [] if cell.cell_type == "code" else None
        )
        if cell.cell_type != "code":
            del cell["outputs"]
    return notebook


def _timed(source: Path):
    start = time.perf_counter()
    return source, executed(source), time.perf_counter() - start


def main() -> int:
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="execute, but write nothing")
    parser.add_argument("names", nargs="*", help="e.g. n1_batch_norm; all where none is given")
    parsed = parser.parse_args()
    chosen = [FOLDER / f"{name}.py" for name in parsed.names] or sorted(FOLDER.glob("n[0-9]*.py"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")])
    # What is written holds times of the machine, which a notebook then wants for itself.
    with ThreadPoolExecutor((os.cpu_count() or 1) if parsed.check else 1) as threads:
        for path, notebook, seconds in threads.map(_timed, chosen[::-1]):  # one of the last takes longest
            if not parsed.check:
                nbformat.write(notebook, path.with_suffix(".ipynb"))
            print(f"{path.stem}: {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
