"""What every widget of ctkit shares: a front end of ours, and a record that stays true.

A notebook saves what a cell printed, not what its widget shows later. So a widget is two outputs: its view, and below
it its *record*, a report as HTML that is rewritten at every change. Where the view is alive, it hides the record; in a
notebook that is reopened without a kernel, not trusted, or converted, the record is what there is.
"""

from pathlib import Path
from typing import Any, Literal

import anywidget
import traitlets
from IPython.display import DisplayHandle, display

from ctkit.errors import CtkitError
from ctkit.report import IGNORED_BY_MATHJAX, Report, to_html
from ctkit.visible import get_logger, visible

logger = get_logger(__name__)

State = Literal["loading", "empty", "ready", "stale", "running", "stopped", "failed"]
"""What a widget can be in. `disconnected` is a state too, which only the front end can know."""

FRONT = Path(__file__).parent / "front"

# A view that is alive hides the record below it; a view that is not (the kernel is gone, and JupyterLab says "model not
# found") is hidden by the record. Both stand in both outputs, as either may be the one whose style is kept.
_ONE_OF_TWO = (
    ".jp-OutputArea-child:has(.ctkit-live) + .jp-OutputArea-child:has(.ctkit-record) {display: none}"
    ".jp-OutputArea-child:not(:has(.ctkit-live)):has(.jupyter-widgets)"
    ":has(+ .jp-OutputArea-child .ctkit-record) {display: none}"
)


class LiveWidget(anywidget.AnyWidget):
    """Base of the widgets: ``front/NAME.js`` and ``front/NAME.css``, with what all front ends share in front of them.

    Subclasses set `front`, and the names of its other `modules` if there are any, return their `report`, and call
    `record` whenever what it says has changed.

    Attributes
    ----------
    state : str
        One of `State`.
    note : str
        What the analyst should know about the state: what failed, and what to do next. May be empty.
    """

    front: str
    """Name of the front end's files, without their endings."""
    modules: tuple[str, ...] = ()
    """Names of further files of JavaScript, which come before that one."""

    state = traitlets.Enum(State.__args__, "ready").tag(sync=True)  # type: ignore[attr-defined]
    note = traitlets.Unicode("").tag(sync=True)

    _record: DisplayHandle | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "front" not in cls.__dict__:
            return  # a class that traitlets makes of a widget's, to add traits to it
        cls._esm = _read(*(f"{name}.js" for name in ("common", *cls.modules, cls.front)))
        cls._css = _read("common.css", f"{cls.front}.css") + _ONE_OF_TWO

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.on_msg(lambda _, content, __: self._received(content))

    @property
    def report(self) -> Any:
        """What the widget says now: a `ctkit.report.Report`, or anything else with ``_repr_html_`` and ``__str__``."""
        raise NotImplementedError

    def on_message(self, content: dict[str, Any]) -> None:
        """Do what the front end asks for; what this raises is shown as the state ``failed``."""

    def check(self) -> None:
        """Find out whether what is shown is still so; if not, the state becomes ``stale``."""

    def record(self) -> None:
        """Rewrite the record: what the saved notebook says."""
        if self._record is not None:
            self._record.update(_Record(self))  # type: ignore[no-untyped-call]

    def fail(self, error: Exception) -> None:
        """Show an error: a front end does not show what its messages raise."""
        self.note = told(error)
        self.state = "failed"
        self.record()
        if not isinstance(error, CtkitError):
            logger.error("%s failed", type(self).__name__, exc_info=error)

    def _received(self, content: dict[str, Any]) -> None:
        try:
            if content == {"do": "check"}:
                self.check()
            else:
                self.on_message(content)
        except Exception as error:
            self.fail(error)
        finally:
            if content == {"do": "check"}:
                # The front end asks for no other check before.
                self.send({"what": "checked"})

    def _ipython_display_(self, **_: Any) -> None:
        view, metadata = super()._repr_mimebundle_() or ({}, {})
        # Where there can be no view, there is the record, and no text in its place.
        view.pop("text/plain", None)
        display(view, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]
        # All cells that show the widget have one record: each update reaches all of them.
        display_id = True if self._record is None else self._record.display_id
        self._record = display(_Record(self), display_id=display_id)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return str(self.report)


def told(error: Exception) -> str:
    """Return what a widget says of an error; of one that nobody has foreseen, also its kind."""
    return visible(str(error) if isinstance(error, CtkitError) else f"{type(error).__name__}: {error}")


def _read(*names: str) -> str:
    return "\n".join((FRONT / name).read_text(encoding="utf-8") for name in names)


class _Record:
    """The record of a widget, as the display machinery wants it."""

    def __init__(self, widget: LiveWidget) -> None:
        self._widget = widget

    def __repr__(self) -> str:
        note = self._widget.note
        return f"{self._widget.report}\n{note}" if note else str(self._widget.report)

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        report = self._widget.report
        # The facts, for the program that runs the notebook.
        return report._repr_mimebundle_() if isinstance(report, Report) else {}

    def _repr_html_(self) -> str:
        note = f"<p>{to_html(self._widget.note)}</p>" if self._widget.note else ""
        style = f"<style>{_ONE_OF_TWO}</style>"
        html = self._widget.report._repr_html_()
        return f"<div class='ctkit-record {IGNORED_BY_MATHJAX}'>{style}{html}{note}</div>"
