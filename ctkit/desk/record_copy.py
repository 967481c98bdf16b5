"""What an executed notebook becomes as a record: true without its kernel, and readable without JupyterLab."""

import logging
import os
import re
import warnings
from pathlib import Path

from nbformat import NotebookNode

from ctkit.visible import escaped, get_logger, visible

logger = get_logger(__name__)

WIDGET = "application/vnd.jupyter.widget-view+json"
"""MIME type of an output that only the kernel that made it can show."""

# A copy is a document: it runs nothing, loads nothing, and sends nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:"
_TEMPLATE = f"""{{% extends 'lab/index.html.j2' %}}
{{% block html_head_js %}}<meta http-equiv="Content-Security-Policy" content="{_POLICY}">{{% endblock %}}
{{% block jupyter_widgets %}}{{% endblock %}}
{{% block html_head_js_mathjax %}}{{% endblock %}}
{{% block html_head_js_mermaidjs %}}{{% endblock %}}
"""

# Colours of a traceback, and what ends a line or redraws it, stay in the text that cells print.
_KEPT = re.compile(r"(\x1b\[[\d;]*m|[\n\r\t])")


def make_static(book: NotebookNode) -> None:
    """Drop what only a kernel could show of the widgets in an executed notebook, and make its texts visible.

    What a widget shows besides stays: text, HTML, pictures.
    """
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            # In Python, the escapes mean the same.
            cell.source = _visible_lines(cell.source)
        if "outputs" not in cell:
            continue
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET, None)
            if "text" in output:
                output.text = _visible_lines(output.text)
            if "traceback" in output:
                output.evalue = _visible_lines(output.evalue)
                output.traceback = [_visible_lines(line) for line in output.traceback]
        # A widget of ours shows nothing besides its view: its record is an output of its own.
        cell.outputs = [output for output in cell.outputs if "data" not in output or any(output.data.values())]


def write_html(book: NotebookNode, record: Path) -> str | None:
    """Write a record as HTML beside it; return the path, or None if that failed, which a log line tells.

    The page loads nothing from elsewhere, and runs no script.
    """
    copy = record.with_suffix(".html")
    partial = record.with_name(f".{record.stem}.partial.html")
    try:
        partial.write_text(_as_html(book, record.stem), encoding="utf-8", errors="backslashreplace")
        os.replace(partial, copy)
    except Exception as error:
        # A copy is no reason to lose the record.
        partial.unlink(missing_ok=True)
        logger.warning("the record is not copied as HTML output=%s error=%s", copy, error)
        return None
    return str(copy)


def _as_html(book: NotebookNode, name: str) -> str:
    # Not with this module: it takes a second to import.
    from nbconvert import HTMLExporter

    # It remarks on pictures without a text, and on outputs that HTML cannot show.
    silent = logging.Logger("nbconvert", logging.CRITICAL)
    exporter = HTMLExporter(raw_template=_TEMPLATE, log=silent)  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        html, _ = exporter.from_notebook_node(book, resources={"metadata": {"name": visible(name)}})
    return str(html)


def _visible_lines(text: str) -> str:
    return "".join(part if number % 2 else escaped(part) for number, part in enumerate(_KEPT.split(text)))
