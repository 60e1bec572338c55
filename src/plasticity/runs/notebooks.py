"""Executes a chapter with papermill and keeps the executed notebook next to the run it shows."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasticity import configuration
from plasticity.errors import Told
from plasticity.runs import files, results
from plasticity.runs.experiment import Experiment


class NotebookFailed(Told, RuntimeError):
    """A notebook that did not run to its end."""


def execute(experiment: Experiment, study: str, seed: int | None = None) -> Path:
    """Execute the chapter of an experiment at a study; return where the executed notebook is.

    Without a first ``seed`` the study's own is taken.
    Raises `configuration.ConfigError` for an unknown study, and `NotebookFailed`, naming the partly
    executed notebook, if a cell fails or papermill is not installed.
    """
    config = configuration.resolve(experiment.studies, study, first_seed=seed)
    if importlib.util.find_spec("papermill") is None:
        raise NotebookFailed('papermill is not installed: pip install "plasticity-companion[book]"')
    import papermill
    from nbclient.exceptions import DeadKernelError

    source = results.root().parent / "book" / f"{experiment.name}.ipynb"
    label = results.label(experiment.studies, study, config)
    target = results.folder(experiment.name, label) / "executed.ipynb"
    partial = target.with_name(".executing.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    parameters = {"study": study, "seed": -1 if seed is None else seed}
    unknown = set(parameters) - set(papermill.inspect_notebook(str(source)))
    if unknown:  # papermill would only warn, and run the defaults
        raise NotebookFailed(f"{source} has no parameter {', '.join(sorted(unknown))}")
    try:
        papermill.execute_notebook(str(source), str(partial), parameters, cwd=str(source.parent))
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        raise NotebookFailed(f"{source} failed; see {partial}\n{error}") from error
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
