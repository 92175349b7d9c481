"""Run a notebook from end to end, in a folder of its own, and write it with its outputs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import nbformat
import typer
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

KERNEL = "this-python"


def main(
    notebook: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An .ipynb file.")],
    output: Annotated[Path, typer.Option(help="Where it goes with its outputs.")],
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=JSON", help="In place of a parameter of the notebook."),
    ] = None,
    seconds: Annotated[int, typer.Option(help="That a cell may take.")] = 1200,
) -> None:
    """Run every cell by this very Python; the first error ends it, and nothing is written."""
    book = nbformat.read(notebook, as_version=4)
    at = _parameter_cell(book)
    source = book.cells[at].source
    book.cells[at].source += "".join(f"\n{_assignment(text)}" for text in parameters or [])
    started = time.perf_counter()
    try:
        _execute(book, seconds)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    book.cells[at].source = source
    _forget_plain_results(book)
    book.metadata = {"kernelspec": _SPEC, "language_info": {"name": "python"}}
    nbformat.write(book, output)
    print(f"{len(book.cells)} cells in {time.perf_counter() - started:.1f} s: {output}")


def _execute(book: Any, seconds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, _kernel_of_this_python(Path(folder)):
        work = Path(folder, "work")
        work.mkdir()
        NotebookClient(
            book,
            timeout=seconds,
            kernel_name=KERNEL,
            resources={"metadata": {"path": str(work)}},
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns of TCP on this machine
            record_timing=False,  # the same outputs make the same file
        ).execute()


_SPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def _parameter_cell(book: Any) -> int:
    """The cell that holds parameters, as papermill names it."""
    tagged = [
        i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", [])
    ]
    return tagged[0] if tagged else 0


def _forget_plain_results(book: Any) -> None:
    """A result that shows itself needs no words beside it: they may name this machine's folders."""
    for cell in book.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "execute_result" and "text/html" in output.data:
                del output.data["text/plain"]


def _assignment(text: str) -> str:
    name, sign, value = text.partition("=")
    try:
        if sign and name.isidentifier():
            return f"{name} = {json.loads(value)!r}"
    except ValueError:
        pass
    raise typer.BadParameter(f"{text}: expected NAME=JSON, such as IMAGES=40")


@contextlib.contextmanager
def _kernel_of_this_python(folder: Path) -> Iterator[None]:
    """Whatever kernels are installed, this Python runs the cells."""
    write_kernel_spec(folder / "kernels" / KERNEL)
    before = os.environ.get("JUPYTER_PATH", "")
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    yield


if __name__ == "__main__":
    typer.run(main)
