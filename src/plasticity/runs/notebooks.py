"""Executes a chapter with papermill and keeps the executed notebook next to the run it shows."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasticity import configuration
from plasticity.errors import Told
from plasticity.runs import files, folders, results
from plasticity.runs.experiment import Experiment


class NotebookFailed(Told, RuntimeError):
    """A notebook that did not run to its end."""


def execute(experiment: Experiment, study: str, seed: int | None = None) -> Path:
    """Execute the chapter of an experiment at a study; return where the executed notebook is.

    Without a first ``seed`` the study's own is taken.
    Raises `configuration.ConfigError` for an unknown study, and `NotebookFailed`, naming the partly
    executed notebook, if a cell fails, or saying what is missing: the chapter, papermill, a kernel.
    """
    config = configuration.resolve(experiment.studies, study, first_seed=seed)
    source = _chapter(experiment.name)
    label = results.label(experiment.studies, study, config)
    target = results.folder(experiment.name, label) / "executed.ipynb"
    partial = target.with_name(".executing.ipynb")
    _execute(source, partial, {"study": study, "seed": -1 if seed is None else seed})
    document = json.loads(partial.read_text(encoding="utf-8"))
    if not ran_to_its_end(document):
        raise NotebookFailed(f"{source} did not run to its end; see {partial}")
    # papermill notes absolute paths, which mean nothing on another machine
    document["metadata"]["papermill"] |= {
        "input_path": f"book/{source.name}",
        "output_path": target.name,
    }
    with_palettes(document)
    files.write_atomically(target, (json.dumps(document, indent=1) + "\n").encode())
    partial.unlink()
    return target


def _chapter(name: str) -> Path:
    """Return the notebook of an experiment: beside the runs, or in the checkout of this code.

    There only if PLASTICITY_RUNS names the runs: else the chapter would find others than these.
    """
    home, runs = folders.checkout(), results.root().absolute()
    beside = runs.parent / "book" / f"{name}.ipynb"
    if beside.is_file():
        return beside
    if home and os.environ.get("PLASTICITY_RUNS") and (home / "book" / beside.name).is_file():
        return home / "book" / beside.name
    raise NotebookFailed(
        f"there is no {beside}: go to a checkout of the repository, which has the folder book"
        f"{f' ({home})' if home else ''}, and give the same command"
    )


def _execute(source: Path, target: Path, parameters: Mapping[str, Any]) -> None:
    """Execute a notebook by papermill. Raises `NotebookFailed` if that fails, whatever it lacks."""
    for package in ("papermill", "ipykernel"):
        if importlib.util.find_spec(package) is None:
            extra = 'pip install "plasticity-companion[book]"'
            raise NotebookFailed(f"{package} is not installed: {extra}")
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError

    try:
        known = papermill.inspect_notebook(str(source))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise NotebookFailed(f"{source} cannot be read as a notebook: {error}") from error
    if unknown := set(parameters) - set(known):  # papermill would only warn, and run the defaults
        raise NotebookFailed(f"{source} has no parameter {', '.join(sorted(unknown))}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(target, error) from error
    try:
        papermill.execute_notebook(str(source), str(target), parameters, cwd=str(source.parent))
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        raise NotebookFailed(f"{source} failed; see {target}\n{error}") from error
    except NoSuchKernel as error:  # a KeyError, whose only words are the kernel's name
        raise NotebookFailed(
            f"{source} asks for the Jupyter kernel {error.name!r}, which is not installed: set its "
            "kernel to python3, or give this Python that name, by "
            f"`python -m ipykernel install --sys-prefix --name {error.name}`"
        ) from error
    except OSError as error:
        raise NotebookFailed(f"{source} could not be executed: {error}") from error


def with_palettes(notebook: Mapping[str, Any]) -> None:
    """Give the pictures of a notebook 256 colours: it is committed, and is mostly pictures.

    It takes Pillow, which comes with matplotlib, and leaves other outputs as they are.
    """
    from PIL import Image

    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if picture := output.get("data", {}).get("image/png"):
                found = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
                smaller = io.BytesIO()
                found.quantize(256).save(smaller, "PNG", optimize=True)
                output["data"]["image/png"] = base64.b64encode(smaller.getvalue()).decode()


def ran_to_its_end(notebook: Mapping[str, Any]) -> bool:
    """Return whether papermill's own record says that every cell ran and none failed.

    Papermill calls cells "completed" that a killed kernel never reached; only ``exception``, which
    is null until a cell starts, tells these apart.
    """
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return all(cell["metadata"]["papermill"]["exception"] is False for cell in cells)
