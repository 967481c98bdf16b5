"""The runbooks that come with ctkit."""

import shutil
from pathlib import Path

from ctkit.errors import ParameterError

RUNBOOKS = ("audit", "backfill", "explore", "merge", "preview", "runs", "update", "watch")
"""Names of the notebooks."""


def find_runbook(name: str) -> Path:
    """Return the path of one of the `RUNBOOKS`."""
    # A wheel has them inside the package, a checkout beside it. Folders beside an installed package are not ours.
    package = Path(__file__).parents[1]
    inside = package / "notebooks"
    return (inside if inside.is_dir() else package.parent / "notebooks") / f"{name}.ipynb"


def copy_runbooks(folder: str | Path) -> list[Path]:
    """Copy the runbooks to a folder, to be edited; return the copies.

    Raises
    ------
    ParameterError
        The folder has one of them, and nothing was copied; or it cannot be written.
    """
    copies = [Path(folder) / f"{name}.ipynb" for name in RUNBOOKS]
    if there := [str(copy) for copy in copies if copy.exists()]:
        raise ParameterError(f"{', '.join(there)}: there already; name another folder, or remove what is there")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for copy in copies:
            shutil.copyfile(find_runbook(copy.stem), copy)
    except OSError as error:
        raise ParameterError(f"runbooks cannot be copied ({error}); name another folder") from error
    return copies
