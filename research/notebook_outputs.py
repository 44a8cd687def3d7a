"""Run the notebook and keep it with its outputs: `python research/notebook_outputs.py`.

Left out are messages on standard error (warnings, progress), logs of whole runs' times, the larger of two pictures.
"""

import editreward.scripts

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"


def main() -> None:
    """Run it in its folder, and write it."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if is_kept(output)]
            for output in cell.outputs:
                if "image/jpeg" in output.get("data", {}):
                    output.data.pop("image/png", None)
    nbformat.write(notebook, NOTEBOOK)


def is_kept(output: nbformat.NotebookNode) -> bool:
    """Whether an output is for readers."""
    return output.get("name") != "stderr" and "runtime" not in output.get("text", "")


if __name__ == "__main__":
    main()
