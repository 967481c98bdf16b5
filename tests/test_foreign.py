"""Forty kinds of hostile text, through everything that people read: none acts, links, reverses or breaks a layout."""

import io
import json
import logging
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from rich.cells import cell_len
from rows import make_rows, make_table

import ctkit
from ctkit.cli import main
from ctkit.desk.record_copy import make_static, write_html
from ctkit.desk.records import Run, append_run
from ctkit.desk.tables import draw_table
from ctkit.errors import LogError, ParameterError, TableError
from ctkit.jobs.backfill_report import BackfillReport
from ctkit.report import IGNORED_BY_MATHJAX, Report, to_html
from ctkit.visible import LONGEST, get_logger, visible

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "script that closes": "</script></style></textarea></title><script>alert(1)</script>",
    "handler": "<img src=x onerror=alert(1)>",
    "handler in an attribute": '" onmouseover="alert(1)" x=\'',
    "svg": "<svg onload=alert(1)><animate onbegin=alert(1)></svg>",
    "frame": "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "style": "<style>*{display:none}</style>",
    "base": "<base href=https://evil.example/>",
    "refresh": "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "comment": "<!-- --!> <b>",
    "entities": "&lt;script&gt; &amp;amp; &#x202e; &#60;b&#62;",
    "inline formula": "costs $5 and $x_1$",
    "display formula": r"$$\frac{1}{0}$$",
    "formula in brackets": r"\(x\) \[y\] \begin{align}z\end{align}",
    "link in a formula": r"$\href{javascript:alert(1)}{good}$",
    "markdown": "[good](javascript:alert(1)) **b** `c` ![i](https://evil.example/x.png)\n# head",
    "table of markdown": "a | b |\n|---|",
    "javascript link": "javascript:alert(1)",
    "data link": "data:text/html,<script>alert(1)</script>",
    "link": "https://evil.example/?\u202ecod.exe",
    "override": "\u202egpj.exe",
    "bidi": "".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C])),
    "right to left": "\u05d0\u05d1\u05d2 abc \u0627\u0644 12",
    "zero width": "go\u200bog\u200cle\u200d.\u2060com\ufeff",
    "no width but letters": "a\u3164b\u115fc\u1160d\u17b4e\u2800f\uffa0",
    "tags": "a\U000e0041\U000e0042\U000e007f",
    "selectors": "a\ufe0f\U000e0100",
    "pile": "Z" + "\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a" * 40,
    "colours": "\x1b[31mred\x1b[2J\x1b[H\x1b]0;title\x07",
    "terminal link": "\x1b]8;;https://evil.example\x1b\\good\x1b]8;;\x1b\\",
    "c1": "\x9b31m\x90q\x9c\x85",
    "carriage return": "bad\rgood\b\b\b\x7f",
    "line ends": "a\nb\r\nc\vd\fe\x1cf\u2028g\u2029h",
    "forged log line": "x\n2026-01-01T00:00:00Z INFO merge complete total_inserted=1",
    "nul": "a\0b",
    "surrogates": "\ud800a\udc80",
    "no character": "\ufdd0\uffff\U0010ffff\ue000",
    "spaces": "a\u00a0b\u2003c\u3000d\te",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467\ufe0f \U0001f3f4\U000e0067",
    "homoglyphs": "g\u043e\u043egle.c\u043em",
    "markup of rich": "[bold red]x[/] [link=https://evil.example]y[/link] :smile: [",
    "format": "%s %d %(x)s {0} {x} {{ {% raw %} }} ${x}",
    "formula of a sheet": "=cmd|' /C calc'!A0",
    "yaml": "!!python/object/apply:os.system ['id'] # : - & * \n---\n...",
    "json": '"}], "x": NaN //',
    "path": "../../etc/passwd%2e%2e%00\\..\\con",
    "shell": "$(id) `id` ; rm -rf ~ | & 'x",
    "long": "a" * 65_536,
    "long and wide": "\u202e\u0301" * 32_768,
    "empty": "",
    "blank": "   ",
}
ELEMENTS = {"div", "h4", "h5", "table", "thead", "tbody", "tr", "th", "td", "style", "bdi", "details", "summary"}
each_kind = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def is_harmless(text):
    """Return whether text is one line that every letter can be seen of, and piles up nothing."""
    marks = re.findall(
        r"x{5,}", "".join("x" if unicodedata.category(letter) in ("Mn", "Me") else "." for letter in text)
    )
    bidi = {unicodedata.bidirectional(letter) for letter in text} & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI"}
    return text.isprintable() and not marks and not bidi and len(text.splitlines()) <= 1


def as_pandas(text):
    """Return text that pandas can hold."""
    return text.encode("utf-8", "replace").decode()


class Page(HTMLParser):
    """What is on a page: elements, their attributes, and the text between them."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.attributes, self.text = set(), [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        """Note an element."""
        self.elements.add(tag)
        self.attributes += attributes

    def handle_data(self, data):
        """Note a text."""
        self.text += data


def check_page(html):
    """Check that a report as HTML has our elements only, in which MathJax leaves everything alone."""
    page = Page(html)
    assert page.elements <= ELEMENTS
    assert {name for name, _ in page.attributes} <= {"class", "style"}
    assert {value for name, value in page.attributes if name == "class"} <= {
        f"ctkit-report {IGNORED_BY_MATHJAX}",
        "dataframe",
        "number",
    }
    assert html.startswith(f"<div class='ctkit-report {IGNORED_BY_MATHJAX}'>")
    assert all(map(is_harmless, html.split("\n")))
    assert len(html) < 200_000
    return page


class Found(Report):
    """A report of one text in each place that there is."""

    def __init__(self, text):
        self.said = text

    @property
    def title(self):
        """The text."""
        return self.said

    def facts(self):
        """Return the text as a name and as a value."""
        return {self.said: self.said, "list": [self.said]}

    def tables(self):
        """Return the text as a heading, a column and a cell."""
        text = as_pandas(self.said)
        return {self.said: pd.DataFrame({text: [text], "list": [[text]], "n": [1]})}


def test_there_are_forty_kinds():
    """As many as were promised, and no two alike."""
    assert len(set(HOSTILE.values())) == len(HOSTILE) >= 40


@each_kind
def test_visible(text):
    """It is one line that can be seen, of bounded length, and stays so."""
    shown = visible(text)

    assert is_harmless(shown)
    assert len(shown) <= LONGEST
    assert visible(shown) == shown
    if len(text) > LONGEST:
        assert re.search(r" \.\.\. and [\d,]+ more letters$", shown)
    elif text.isascii() and text.isprintable():
        assert shown == text


@each_kind
def test_html(text):
    """Between tags and within quotes it is text, the same that is seen elsewhere."""
    page = Page(f"<i title='{to_html(text)}' class=\"{to_html(text)}\">{to_html(text)}</i>")

    assert (page.elements, dict(page.attributes)) == ({"i"}, {"title": visible(text), "class": visible(text)})
    assert page.text == visible(text)


@each_kind
def test_report(text):
    """As title, name, value, heading, column and cell; as one line, too. What is long can be opened."""
    report = Found(text)
    page = check_page(report._repr_html_())

    assert is_harmless(str(report))
    assert visible(as_pandas(text)) in page.text
    if len(text) > LONGEST:
        assert "details" in page.elements


@each_kind
def test_errors_and_log_lines(text):
    """Each is one line, and a program still has what was there."""
    for error in (LogError(text, text), TableError(text, text), ParameterError(text)):
        assert is_harmless(str(error))
    assert TableError(text, "x").uri == text

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = get_logger("ctkit.tests.foreign")
    logger.addHandler(handler)
    try:
        logger.warning("told name=%s error=%s count=%d", text, LogError(text, text), 5)
    finally:
        logger.removeHandler(handler)
    (line,) = stream.getvalue().splitlines()
    assert is_harmless(line)
    assert line.startswith("told name=")
    assert line.endswith(" count=5")


@each_kind
@pytest.mark.parametrize("width", [20, 80])
def test_terminal_table(text, width):
    """Whatever stands in it, its lines fit, and nothing is taken for markup; a long text says how long it is."""
    text = as_pandas(text)
    drawn = draw_table(pd.DataFrame({"log": [text], text or "name": [text], "n": [12_000]}), width)

    lines = drawn.plain.split("\n")
    assert all(map(is_harmless, lines))
    assert max(map(cell_len, lines)) <= width
    assert not any(span.style for span in drawn.spans if span.style not in ("bold", "green", "red"))
    assert "12,000" in drawn.plain
    if len(text) > LONGEST:
        assert " characters)" in " ".join(drawn.plain.split())


@each_kind
def test_record_and_its_copy(text, tmp_path):
    """As a parameter, in what cells print, in a report and as the file's name: nothing that a browser acts on."""
    text = as_pandas(text)
    cell = nbformat.v4.new_code_cell(f"log_filter = {json.dumps(text, ensure_ascii=False)}")
    cell.metadata["tags"] = ["injected-parameters"]
    cell.outputs = [
        nbformat.v4.new_output("stream", text=text),
        nbformat.v4.new_output("error", ename="E", evalue=text, traceback=[text]),
        nbformat.v4.new_output(
            "display_data", {"text/html": Found(text)._repr_html_(), "text/plain": str(Found(text))}
        ),
    ]
    book = nbformat.v4.new_notebook(cells=[cell])
    make_static(book)
    name = re.sub(r"[/\0]", "_", text)[:40]
    html = Path(write_html(book, tmp_path / f"_{name}.ipynb")).read_text()
    page = Page(html)

    assert not page.elements & {"script", "iframe", "img", "svg", "base", "object", "animate", "textarea"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(re.match(r"#|https?://", value) for name, value in page.attributes if name in ("href", "src"))
    assert [value for name, value in page.attributes if name == "http-equiv"] == ["Content-Security-Policy"]
    body = html[html.index("<body") :].replace("In\xa0[\xa0]:", "")
    assert [part for part in re.split(r"[\n\r\t]", body) if not is_harmless(part)] == []


@each_kind
def test_commands(text, tmp_path, monkeypatch, capsys):
    """As the name of a log, in a record, in a filter: what is printed is harmless, and --json is whole."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    url = "https://a.example/log"
    make_table("main", make_rows([0, 2], url=url))
    name = text.replace("\0", "").encode("utf-8", "replace").decode().strip() or "n"
    said = {
        "main_path": "main",
        "logs": [{"url": url, "protocol": "rfc6962", "name": name}],
        "to_index": 5,
        "state_file": "state.json",
        "internal_only": False,
        "user_agent": "a@b.c",
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(said))
    (tmp_path / "state.json").write_text(json.dumps({"logs": {url: {"current_index": 5}}}))
    append_run(Path("runs"), Run(name, "2026-11-27T03:15:00Z", None, "failed", error=name))

    for words in (["gaps"], ["status"], ["runs"], ["gaps", "--logs", name + "\u202e"]):
        main([*words, "-f", "p.yaml"])
        out, err = capsys.readouterr()
        assert all(map(is_harmless, f"{out}\n{err}".split("\n")))
        # The last line is the report in one, for programs.
        lines = out.splitlines()[:-1] if words[0] in ("status", "runs") else out.splitlines()
        assert max(map(cell_len, lines), default=0) <= 80
    assert main(["runs", "-f", "p.yaml", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out)["by_run"][0]["runbook"] == name


@each_kind
def test_picture(text):
    """A name in it is text, whatever it looks like."""
    url = f"https://a.example/{as_pandas(text).replace(chr(0), '')}"
    gaps = pa.table({"source_url": [url], "start": [0], "end": [5]})
    picture = ctkit.plot_gaps(gaps, {url: (0, 9)})

    assert picture._repr_png_()[0].startswith(b"\x89PNG")


def test_a_report_of_ours_with_hostile_logs():
    """All at once, as URLs of logs: the line, the tables, the page."""
    urls = [f"https://a.example/{as_pandas(text)}" for text in HOSTILE.values()]
    report = BackfillReport.of_nothing("main", 1, "heads")
    report = type(report)(**{**vars(report), "wanted": dict.fromkeys(urls, 5), "written": dict.fromkeys(urls, 5)})

    check_page(report._repr_html_())
    assert is_harmless(str(report))
