"""Run a notebook with papermill as a scheduler needs it: parameters checked, stopped cleanly, never half recorded."""

import logging
import os
import re
import signal
import symtable
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import nbformat
import papermill
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node
from papermill.utils import find_first_tagged_cell_index, nb_kernel_name, nb_language
from traitlets import default

from ctkit.arguments import did_you_mean, shown
from ctkit.desk.parameters import Parameters
from ctkit.desk.progress_lines import SECONDS_PER_LINE
from ctkit.desk.shipped import RUNBOOKS, find_runbook
from ctkit.desk.terminal import in_main_thread, is_watched, signals_to
from ctkit.errors import ParameterError
from ctkit.jobs.progress import Progress
from ctkit.report import RESULT_MIME_TYPE
from ctkit.visible import get_logger

logger = get_logger(__name__)

_SECRET_KEY = re.compile(r"passw|secret|token|credential|(api|access|private|account)_?key|connection_string", re.I)
_SECRET_VALUE = re.compile(r"://[^/\s@]+:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY", re.I)


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, object],
    *,
    shared: Mapping[str, object] | None = None,
    output: str | Path | None = None,
    cwd: str | Path | None = None,
) -> int:
    """Run a notebook from top to bottom and keep it, with all outputs, as a record.

    The first SIGINT, SIGTERM or SIGHUP interrupts the running cell, which may take all the time it needs to finish; a
    second one aborts it. Either way, the record shows what the notebook has done. Outside the main thread, signals are
    not handled.

    A notebook for the kernel ``python3`` runs in the current Python, whatever kernel of that name is installed.

    Parameters
    ----------
    notebook
        A path, or one of `RUNBOOKS`. Its parameters are the names that the cell tagged ``parameters`` assigns, in any
        form.
    parameters
        Values typed by hand; the notebook must declare each of them. If `main_path` is one, a merge creates that table
        only if `create_main` says so.
    shared
        Values from a parameter file that other notebooks and commands use too: keys that ctkit knows and this notebook
        does not declare are left out, and a log line names them. `parameters` override them.
    output
        Where to keep the record; ``runs/<notebook>-<UTC time>.ipynb`` if None. It appears when the run has ended.
    cwd
        Working directory of the kernel; the current one if None.

    Returns
    -------
    int
        0 if every cell ran, 1 otherwise: a cell raised, the run was interrupted, or the kernel died.

    Raises
    ------
    ParameterError
        The notebook cannot be read or does not declare a parameter, or a value cannot be written into it or looks like
        a secret, which papermill would write into the record. Nothing was run or written.
    """
    is_runbook = str(notebook) in RUNBOOKS and not Path(notebook).is_file()
    notebook = find_runbook(str(notebook)) if is_runbook else Path(notebook)
    values = _check_parameters(notebook, parameters, shared or {})
    if cwd is not None and not Path(cwd).is_dir():
        raise ParameterError(f"{cwd} is not a folder; name the one to run the notebook in", keys=("cwd",))
    if left_out := [key for key, value in (shared or {}).items() if value is not None and key not in values]:
        logger.info("parameters left out, which the notebook does not declare keys=%s", ",".join(left_out))
    record = _reserve_record(notebook) if output is None else Path(output)
    record.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_of(record)
    status, problem = _execute(notebook, partial, values, cwd)
    try:
        with signals_to(signal.SIG_IGN):
            results = _finish(partial, record, status)
    except (FileNotFoundError, nbformat.reader.NotJSONError):  # stopped before papermill wrote it
        partial.unlink(missing_ok=True)
        logger.error("run %s before it began, nothing is recorded error=%s", status, problem)
        return 1
    for result in results:
        title = result.pop("title", "result")
        logger.info("%s", " ".join([str(title), *(f"{name}={value}" for name, value in result.items())]))
    if status == "complete":
        logger.info("run complete output=%s", record)
        return 0
    logger.error("run %s output=%s error=%s", status, record, problem)
    return 1


def _execute(notebook: Path, partial: Path, values: Mapping[str, object], folder: str | Path | None) -> tuple[str, str]:
    """Run a notebook, writing it to `partial`; return how the run ended, and why if not well."""
    watched = is_watched()
    try:
        papermill.execute_notebook(
            _as_template(notebook),
            _as_template(partial),
            values,
            engine_name="ctkit",
            progress_bar=watched,
            log_output=not watched,
            # papermill's cwd would change that of all threads.
            folder=folder,
        )
    except PapermillExecutionError as error:
        status = "interrupted" if error.ename == "KeyboardInterrupt" else "failed"
        return status, f"In [{error.exec_count}] {error.ename}: {error.evalue}"
    except KeyboardInterrupt:
        return "interrupted", "stopped by a signal"
    except RuntimeError as error:  # nbclient: the kernel died or does not answer
        return "failed", str(error)
    except NoSuchKernel as error:
        partial.unlink()
        raise ParameterError(f"{notebook}: {error}; install that kernel, or correct the notebook's") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return "complete", ""


def prepare_notebook(notebook: str | Path, parameters: Mapping[str, object], output: str | Path) -> None:
    """Write a copy of a notebook with its parameters filled in, to be opened and run by hand.

    Parameters that the notebook does not declare are left out.

    Raises
    ------
    ParameterError
        As for `run_notebook`.
    """
    values = _check_parameters(Path(notebook), {}, parameters)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        _as_template(Path(notebook)), _as_template(Path(output)), values, prepare_only=True, progress_bar=False
    )


def _check_parameters(notebook: Path, own: Mapping[str, object], shared: Mapping[str, object]) -> dict[str, object]:
    """Return the values to inject; refuse what the notebook does not declare, what cannot be injected, and secrets."""
    declared = _declared_in(notebook)
    given = {**shared, **own}
    if not declared and given:
        message = f"no cell tagged parameters assigns any of {', '.join(given)}; tag the cell that does"
        raise ParameterError(f"notebook {notebook}: {message}", keys=tuple(given))
    for key in given:
        # Of a shared file, this notebook may not need every key.
        if key not in declared and (key in own or key not in Parameters.model_fields):
            hint = did_you_mean(key, declared) or f"it declares {', '.join(declared)}"
            raise ParameterError(f"notebook {notebook} has no parameter {key}; {hint}", keys=(key,))
    values = {key: _as_literal(key, value) for key, value in given.items() if key in declared}
    if own.get("main_path") is not None and "create_main" in declared and values.get("create_main") is None:
        # As in `ctkit merge`: a path typed by hand may be mistyped.
        values["create_main"] = False
    for key, value in values.items():
        if _SECRET_KEY.search(key) or _SECRET_VALUE.search(str(value)):
            raise ParameterError(
                f"parameter {key} looks like a secret, which papermill would write into the output notebook; "
                "give it in the environment",
                keys=(key,),
            )
    return values


def _declared_in(notebook: Path) -> list[str]:
    """Return the names that the parameters cell assigns; papermill's own inspection reads single lines only."""
    if notebook.suffix not in (".ipynb", ".json"):
        # papermill would only warn.
        hint = did_you_mean(str(notebook), RUNBOOKS) or f"name one that does, or a runbook: {', '.join(RUNBOOKS)}"
        hint += "; a parameter file is given with -f" if notebook.suffix in (".yaml", ".yml") else ""
        raise ParameterError(f"{notebook} is not a notebook: its name does not end in .ipynb; {hint}")
    try:
        book = load_notebook_node(str(notebook.absolute()))
        nb_kernel_name(book)
        language = nb_language(book)
    except (OSError, ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ParameterError(f"notebook {notebook} cannot be read ({error}); name a notebook with a kernel") from error
    at = find_first_tagged_cell_index(book, "parameters")
    if at < 0:
        return []
    if language.lower() not in ("python", "ipython"):
        return list(papermill.inspect_notebook(_as_template(notebook)))
    try:
        code = TransformerManager().transform_cell(book.cells[at].source)  # type: ignore[no-untyped-call]
        names = symtable.symtable(code, "parameters", "exec").get_symbols()
    except (SyntaxError, ValueError) as error:
        message = f"the parameters cell of notebook {notebook} cannot be read ({error}); correct it"
        raise ParameterError(message) from error
    return [
        name.get_name() for name in names if name.is_assigned() and not name.is_imported() and not name.is_namespace()
    ]


def _as_literal(key: str, value: object) -> object:
    """Return a value that papermill can write into a notebook; of others it would write the text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_as_literal(key, element) for element in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _as_literal(key, element) for name, element in value.items()}
    raise ParameterError(
        f"parameter {key} holds {shown(value)}, which a notebook cannot be given; give it as text", keys=(key,)
    )


def _as_template(path: Path) -> str:
    # papermill formats paths with the parameters: escape braces.
    return str(path.absolute()).replace("{", "{{").replace("}", "}}")


def _reserve_record(notebook: Path) -> Path:
    """Return a path in ``runs/`` that no other run uses."""
    Path("runs").mkdir(exist_ok=True)
    base = f"{notebook.stem}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = (Path("runs", f"{base}{suffix}.ipynb") for suffix in ["", *(f"-{n}" for n in range(2, 1000))])
    return next(filter(_reserve, names))


def _reserve(record: Path) -> bool:
    """Create the partial file of a record, which reserves the name; return False if another run has it."""
    partial = _partial_of(record)
    try:
        partial.touch(exist_ok=False)
    except FileExistsError:
        return False
    # A run that had the name and has just ended has moved its partial file to the record.
    if record.exists():
        partial.unlink()
        return False
    return True


def _partial_of(record: Path) -> Path:
    return record.with_name(f".{record.stem}.partial.ipynb")


def _finish(partial: Path, record: Path, status: str) -> list[dict[str, Any]]:
    """Mark the record with the run's status and move it into place; return the facts of each report in it."""
    book = nbformat.read(partial, as_version=4)  # type: ignore[no-untyped-call]
    # papermill's own status says "completed" for cells that were interrupted or never run.
    book.metadata["ctkit"] = {"status": status}
    book.metadata["papermill"]["output_path"] = str(record)
    nbformat.write(book, partial)  # type: ignore[no-untyped-call]
    partial.replace(record)
    return [
        dict(output.data[RESULT_MIME_TYPE])
        for cell in book.cells
        for output in cell.get("outputs", [])
        if RESULT_MIME_TYPE in output.get("data", {})
    ]


class _KernelSpecs(KernelSpecManager):
    """Takes the current Python for ``python3``; an installed kernel of that name may run another one."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        if kernel_name.lower() == NATIVE_KERNEL_NAME:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())
        return super().get_kernel_spec(kernel_name)


class _Kernel(AsyncKernelManager):
    """Starts and ends the kernel."""

    @default("kernel_spec_manager")
    def _own_kernel_specs(self) -> KernelSpecManager:
        return _KernelSpecs(parent=self)

    async def shutdown_kernel(  # type: ignore[override]
        self, now: bool = False, restart: bool = False
    ) -> None:
        # jupyter_client interrupts the kernel first, and a kernel that runs no cell logs an error then.
        await self.request_shutdown()
        await self.finish_shutdown()
        await self.cleanup_resources()


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """Executes the cells, and interrupts the kernel on a signal if a cell is running."""

    interrupted = False
    running = False
    _progress = ""
    _said_at = float("-inf")

    def start_new_kernel(self, **kwargs: Any) -> None:
        if self.km.ipykernel:
            # It warns at each start that it listens on the loopback interface.
            self.extra_arguments = ["--IPKernelApp.log_level=ERROR"]
        super().start_new_kernel(**kwargs)

    def execute_cell(self, *args: Any, **kwargs: Any) -> Any:
        if self.interrupted:
            raise KeyboardInterrupt
        return super().execute_cell(*args, **kwargs)

    def process_message(self, message: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # A kernel ignores SIGINT while no cell runs; "execute_input" says that one does.
        if message["msg_type"] == "execute_input":
            self.running = True
            if self.interrupted:
                self._interrupt_kernel()
        elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            self.running = False
            self._say_progress()
        elif message["msg_type"] in ("display_data", "update_display_data"):
            self._log_progress(message["content"])
        return super().process_message(message, *args, **kwargs)

    def log_output_message(self, output: Any) -> None:
        # Only what cells print and log; papermill would add the text of every table.
        if output.output_type == "stream":
            for line in output.text.removesuffix("\n").split("\n"):
                logger.info("%s", line)

    def _log_progress(self, content: dict[str, Any]) -> None:
        """Log the first progress that a cell shows, one a minute, and the last."""
        text = content["data"].get("text/plain", "")
        if self.log_output and text.startswith(f"{Progress.title} "):
            self._progress = text
            if time.monotonic() - self._said_at >= SECONDS_PER_LINE:
                self._say_progress()

    def _say_progress(self) -> None:
        if self._progress:
            logger.info("%s", self._progress)
            self._progress, self._said_at = "", time.monotonic()

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.interrupted:
            # A closing terminal sends it twice: from the shell and from the kernel.
            if signum == signal.SIGHUP:
                return
            raise KeyboardInterrupt
        self.interrupted = True
        logger.warning("stopping after the running cell, a second signal aborts it signal=%s", signum)
        if self.running:
            self._interrupt_kernel()

    def _interrupt_kernel(self) -> None:
        # The kernel has a session of its own, so Ctrl+C does not reach it.
        os.kill(self.km.provisioner.process.pid, signal.SIGINT)


class _Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's engine, with the signals of this process handled by the client."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        log_output: bool,
        start_timeout: int,
        folder: str | Path | None = None,
        **_: Any,
    ) -> None:
        client = _Client(
            nb_man,
            kernel_name=kernel_name,
            kernel_manager_class=_Kernel,
            startup_timeout=start_timeout,
            timeout=None,
            log=logging.getLogger("papermill"),
            log_output=log_output,
        )
        try:
            with signals_to(client.interrupt):
                client.execute(**({} if folder is None else {"cwd": str(folder)}))
        finally:
            # Jupyter makes a loop for each thread and closes none.
            if not in_main_thread() and not (loop := ensure_event_loop()).is_running():
                loop.close()


papermill_engines.register("ctkit", _Engine)


# papermill's warnings about names that only `_declared_in` finds.
_UNTRUE = ("Passed unknown parameter", "Unable to parse line")
logging.getLogger("papermill").addFilter(lambda record: not record.getMessage().startswith(_UNTRUE))
