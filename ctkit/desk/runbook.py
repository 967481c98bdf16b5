"""Run a notebook with papermill as a scheduler needs it: parameters checked, stopped cleanly, never half recorded."""

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import nbformat
import papermill
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from ctkit.desk.notebook_values import as_template, values_for
from ctkit.desk.progress_lines import SECONDS_PER_LINE
from ctkit.desk.record_copy import make_static, write_html
from ctkit.desk.records import Outcome, Run, as_utc, held, partial_of, results_in
from ctkit.desk.secrets import without_logins
from ctkit.desk.shipped import RUNBOOKS, find_runbook
from ctkit.desk.terminal import in_main_thread, is_watched, signals_to
from ctkit.errors import ParameterError
from ctkit.jobs.progress import Progress
from ctkit.visible import get_logger

logger = get_logger(__name__)


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, object],
    *,
    shared: Mapping[str, object] | None = None,
    output: str | Path | None = None,
    cwd: str | Path | None = None,
    runs: str | Path = "runs",
    on_end: Callable[[Run], None] | None = None,
) -> int:
    """Run a notebook from top to bottom and keep it, with all outputs, as a record, and a copy of that as HTML.

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
        Where to keep the record; ``<notebook>-<UTC time>.ipynb`` in `runs` if None. It appears when the run has ended.
    cwd
        Working directory of the kernel; the current one if None.
    runs
        Folder of the records; given to the notebook as `runs_path`, if it declares that.
    on_end
        Called with what the record says of the run.

    Returns
    -------
    int
        0 if every cell ran, or the `exit_code` of its reports; 1 otherwise: a cell raised, the run was stopped, or
        the kernel died.

    Raises
    ------
    ParameterError
        The notebook cannot be read or does not declare a parameter, or a value cannot be written into it or looks like
        a secret, which papermill would write into the record. Nothing was run or written.
    """
    is_runbook = str(notebook) in RUNBOOKS and not Path(notebook).is_file()
    notebook = find_runbook(str(notebook)) if is_runbook else Path(notebook)
    values = values_for(notebook, parameters, shared or {}, runs=Path(runs).absolute())
    if cwd is not None and not Path(cwd).is_dir():
        raise ParameterError(f"{cwd} is not a folder; name the one to run the notebook in", keys=("cwd",))
    # Where the records lie matters to this run, whatever the notebook declares.
    given = (key for key, value in (shared or {}).items() if value is not None and key != "runs_path")
    if left_out := [key for key in given if key not in values]:
        logger.info("parameters left out, which the notebook does not declare keys=%s", ",".join(left_out))
    began = datetime.now(UTC)
    with ExitStack() as stack:
        record = _reserve_record(notebook, Path(runs), began, stack) if output is None else Path(output)
        record.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(record)
        if output is not None:
            stack.enter_context(held(partial))
        outcome, problem = _execute(notebook, partial, values, cwd)
        run = Run(
            runbook=notebook.stem,
            started=as_utc(began),
            ended=as_utc(datetime.now(UTC)),
            outcome=outcome,
            exit_code=0 if outcome == "complete" else 1,
            record=str(record),
            error=without_logins(problem),
            parameters=values,
        )
        try:
            with signals_to(signal.SIG_IGN):
                run = _finish(partial, record, run)
        except (FileNotFoundError, nbformat.reader.NotJSONError):  # stopped before papermill wrote it
            partial.unlink(missing_ok=True)
            logger.error("run %s before it began, nothing is recorded error=%s", outcome, problem)
            run = replace(run, record=None)
    for result in run.results:
        facts = [f"{name}={value}" for name, value in result.items() if name != "title"]
        logger.info("%s", " ".join([str(result.get("title", "result")), *facts]))
    if outcome == "complete":
        logger.info("run complete output=%s", record)
    elif run.record:
        logger.error("run %s output=%s error=%s", outcome, record, problem)
    if on_end:
        on_end(run)
    return run.exit_code or 0


def _execute(
    notebook: Path, partial: Path, values: Mapping[str, object], folder: str | Path | None
) -> tuple[Outcome, str]:
    """Run a notebook, writing it to `partial`; return how the run ended, and why if not well."""
    watched = is_watched()
    try:
        papermill.execute_notebook(
            as_template(notebook),
            as_template(partial),
            values,
            engine_name="ctkit",
            progress_bar=watched,
            log_output=not watched,
            # papermill's cwd would change that of all threads.
            folder=folder,
        )
    except PapermillExecutionError as error:
        outcome: Outcome = "stopped" if error.ename == "KeyboardInterrupt" else "failed"
        return outcome, f"In [{error.exec_count}] {error.ename}: {error.evalue}"
    except KeyboardInterrupt:
        return "stopped", "stopped by a signal"
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
    values = values_for(Path(notebook), {}, parameters)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    book = papermill.execute_notebook(
        as_template(Path(notebook)), as_template(Path(output)), values, prepare_only=True, progress_bar=False
    )
    _fold_parameters(book)
    nbformat.write(book, output)  # type: ignore[no-untyped-call]


def _fold_parameters(book: nbformat.NotebookNode) -> None:
    """Fold the cell of parameters that papermill has added where the one that declares them is folded."""
    cells = {tag: cell for cell in book.cells for tag in cell.metadata.get("tags", ())}
    declared, injected = cells.get("parameters"), cells.get("injected-parameters")
    if declared and injected and "jupyter" in declared.metadata:
        injected.metadata["jupyter"] = declared.metadata["jupyter"]


def _reserve_record(notebook: Path, folder: Path, began: datetime, stack: ExitStack) -> Path:
    """Return a path in the folder of records that no other run uses; hold it for as long as the stack lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    base = f"{notebook.stem}-{began:%Y%m%dT%H%M%SZ}"
    names = (folder / f"{base}{suffix}.ipynb" for suffix in ["", *(f"-{n}" for n in range(2, 1000))])
    record = next(filter(_reserve, names))
    stack.enter_context(held(partial_of(record)))
    return record


def _reserve(record: Path) -> bool:
    """Create the partial file of a record, which reserves the name; return False if another run has it."""
    partial = partial_of(record)
    try:
        partial.touch(exist_ok=False)
    except FileExistsError:
        return False
    # A run that had the name and has just ended has moved its partial file to the record.
    if record.exists():
        partial.unlink()
        return False
    return True


def _finish(partial: Path, record: Path, run: Run) -> Run:
    """Write how the run ended into its record, move that into place, with an HTML copy; return what is recorded."""
    book = nbformat.read(partial, as_version=4)  # type: ignore[no-untyped-call]
    make_static(book)
    _fold_parameters(book)
    run = replace(run, results=results_in(book))
    if run.outcome == "complete":
        run = replace(run, exit_code=max((result.get("exit_code", 0) for result in run.results), default=0))
    # What papermill calls completed may be cells that were interrupted or never run.
    book.metadata["papermill"]["output_path"] = str(record)
    run = replace(run, html=write_html(book, record))
    book.metadata["ctkit"] = run.to_json()
    nbformat.write(book, partial)  # type: ignore[no-untyped-call]
    partial.replace(record)
    return run


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
