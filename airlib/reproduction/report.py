"""report.html: what all notebooks found, in one file that can be mailed.

Built from the `results.json` files alone and from nothing that is typed by hand. Figures are
embedded with their alt texts, tables are real tables, the page reads well in light and dark and
without JavaScript, and everything that comes from a file is escaped.
"""

import base64
import json
import re
from collections.abc import Collection, Iterable
from html import escape
from pathlib import Path
from typing import Any

from airlib.documents import read_bytes
from airlib.errors import AirlibError
from airlib.files import write_text
from airlib.results import FILE_NAME, load_results

PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
LARGEST_FIGURE = 2**26  # bytes
RUN_COLUMNS = ("notebook", "profile", "seed", "seconds", "peak_gigabytes", "device")
METRIC_COLUMNS = ("metric", "pair", "method", "value", "95 % interval", "n", "seed", "protocol")

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.skip { position: absolute; left: -100rem; } .skip:focus { position: static; }
.wide { overflow-x: auto; } .wide:focus-visible { outline: 2px solid; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; }
caption { text-align: left; font-weight: bold; padding: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem; }
tr { border-bottom: 1px solid var(--line); } thead th { background: var(--soft); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; background: white; }
figcaption { font-size: .9rem; max-width: 50rem; }
@media print { nav, .skip { display: none; } figure, tr { break-inside: avoid; } }
"""


def write_report(out: Path, without: Collection[Path] = ()) -> Path:
    """Read every `<out>/<profile>/<notebook>/results.json` and write `<out>/report.html`.

    Returns the path of the report: one page with all figures embedded. without: folders of
    notebooks whose results are left out, because they are about to be replaced. Raises AirlibError
    if there are no results, and if a results file or one of its figures is damaged or missing; an
    existing report is left as it is then.
    """
    paths = sorted(out.glob(f"*/*/{FILE_NAME}"))
    paths = [path for path in paths if path.parent not in without]
    if not paths:
        raise AirlibError(f"no results in {out}; run the notebooks first")
    runs = [(path.parent, load_results(path)) for path in paths]
    page = _page(runs)
    return write_text(out / "report.html", page)


def _page(runs: list[tuple[Path, dict[str, Any]]]) -> str:
    anchors = _anchors(run for _, run in runs)
    links = "\n".join(
        f'<li><a href="#{anchor}">{_title(run)}</a></li>'
        for anchor, (_, run) in zip(anchors, runs, strict=True)
    )
    sections = "\n".join(_section(anchor, *run) for anchor, run in zip(anchors, runs, strict=True))
    summary = _table(
        "Runs",
        RUN_COLUMNS,
        [[run[key] for key in RUN_COLUMNS] for _, run in runs],
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>airlib report</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the results</a>
<header>
<h1>airlib report</h1>
<p>Zero-shot generative model adaptation: what each notebook measured, with its protocol.</p>
</header>
<nav aria-label="Notebooks">
<ul>
{links}
</ul>
</nav>
<main id="content">
{summary}
{sections}
</main>
</body>
</html>
"""


def _section(anchor: str, directory: Path, run: dict[str, Any]) -> str:
    parts = [f'<section id="{anchor}">', f"<h2>{_title(run)}</h2>"]
    if run["figures"]:
        parts.append("<h3>Figures</h3>")
        parts += [_figure(directory, run["profile"], figure) for figure in run["figures"]]
    if run["tables"] or run["metrics"]:
        parts.append("<h3>Tables</h3>")
    parts += [_table(table["title"], table["columns"], table["rows"]) for table in run["tables"]]
    if run["metrics"]:
        parts.append(
            _table("Metrics", METRIC_COLUMNS, [_metric_row(row) for row in run["metrics"]])
        )
    parts.append("<h3>How it was run</h3>")
    facts = {key: run[key] for key in RUN_COLUMNS[1:]}
    facts |= run["versions"]
    facts |= {f"parameter {key}": value for key, value in run["parameters"].items()}
    rows = [(key, _text(value)) for key, value in facts.items()]
    parts.append(_table("Seed, time, versions and parameters", ("what", "value"), rows))
    parts.append("</section>")
    return "\n".join(parts)


def _figure(directory: Path, profile: str, figure: dict[str, str]) -> str:
    data = read_figure(directory, figure["file"])
    source = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    title = f"<strong>{escape(figure['title'])}</strong> " if figure.get("title") else ""
    return (
        f'<figure>\n<img src="{source}" alt="{escape(figure["alt"])}">\n'
        f"<figcaption>{title}{escape(figure['alt'])} (profile {escape(profile)})</figcaption>\n"
        "</figure>"
    )


def read_figure(directory: Path, file: str) -> bytes:
    """The content of the PNG `directory/file`. Raises AirlibError if it is missing or not whole."""
    advice = "run the notebook again with --fresh"
    data = read_bytes(directory / file, advice, LARGEST_FIGURE)
    if not (data.startswith(PNG_SIGNATURE) and data.endswith(PNG_END)):
        raise AirlibError(f"figure {file} of {directory.name} is not a whole PNG file; {advice}")
    return data


def _metric_row(metric: dict[str, Any]) -> list[Any]:
    low, high = metric["interval"] or (None, None)
    interval = None if low is None else f"{_text(low)} to {_text(high)}"
    return [
        metric["name"], metric.get("pair"), metric.get("method"), metric["value"], interval,
        metric["n"], metric.get("seed"), metric["protocol"],
    ]  # fmt: skip


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table whose first column names the row; it scrolls sideways by keyboard, too."""
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in columns)
    body = "\n".join("<tr>" + "".join(_cells(row)) + "</tr>" for row in rows)
    label = escape(title)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}">\n'
        f"<table>\n<caption>{label}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _cells(row: Iterable[Any]) -> Iterable[str]:
    for index, value in enumerate(row):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if index == 0:
            yield f'<th scope="row">{escape(_text(value))}</th>'
        else:
            opening = '<td class="number">' if number else "<td>"
            yield f"{opening}{escape(_text(value))}</td>"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _title(run: dict[str, Any]) -> str:
    return escape(f"{run['notebook']} · profile {run['profile']}")


def _anchors(runs: Iterable[dict[str, Any]]) -> list[str]:
    """An id for each run, unique and of ASCII letters, digits, "_" and "-"."""
    texts = [f"{run['profile']}-{run['notebook']}" for run in runs]
    names = [re.sub("[^A-Za-z0-9_]+", "-", text) for text in texts]
    return [
        f"{name}--{number}" if (number := names[:index].count(name)) else name
        for index, name in enumerate(names)
    ]
