"""An audit as one self-contained page: tables, examples and plots, no script and nothing from the network.

matplotlib draws the plots, without pyplot; its ink and paper become the page's own colours, so that the plots
follow the reader's light or dark scheme.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import stepgame
from stepgame.audit_report import HEADINGS, short_names, shown_kinds, verdict
from stepgame.audit_tally import BASELINES, FINDINGS, INFORMATION, Tally
from stepgame.errors import require
from stepgame.relations import NAMES
from stepgame.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stepgame.audit import AuditReport

__all__ = ["to_html"]

# Colours that the page replaces by its own; none of them is used for anything else.
_INK, _FAULT = "#010203", "#010204"
_SERIES = ("#010205", "#010206", "#010207", "#010208", "#010209")
_VARIABLES = {_INK: "--ink", _FAULT: "--fault", **{colour: f"--series-{i}" for i, colour in enumerate(_SERIES)}}
_MARKERS = "os^Dv"
_CHANCE = 1 / len(NAMES)
_MOST_TICKS = 15

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    "legend.frameon": False,
}

# Okabe and Ito's colours, in shades that stand out on white and on near-black.
_CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1f; --soft: #5a5a62; --line: #d4d4da; --fault: #b3261e;
  --series-0: #0072b2; --series-1: #c04f00; --series-2: #00795a; --series-3: #a8487f; --series-4: #6b5b00; }
@media (prefers-color-scheme: dark) { :root { --paper: #16161a; --ink: #ececf1; --soft: #a9a9b4; --line: #3b3b44;
  --fault: #ff8a80; --series-0: #56b4e9; --series-1: #f0a050; --series-2: #3ecf9f; --series-3: #e39cc4;
  --series-4: #e6d55c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem;
  margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .8rem 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; } tbody th { font-weight: 400; }
tr.all { border-top: 2px solid var(--ink); } td.fault, .verdict.fault { color: var(--fault); font-weight: 600; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption, .soft { color: var(--soft); font-size: .9rem; }
li { margin-bottom: .5rem; } li q { quotes: none; } dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
"""


def _text(value: object) -> str:
    return html.escape(printable(str(value)))


def _heading(kind: str) -> str:
    return HEADINGS[kind].replace("-\n", "").replace("\n", " ")


def _svg(figure: Figure, name: str, description: str) -> str:
    """Render a figure for embedding: page colours, no ids that could clash, no fixed size."""
    import matplotlib as mpl

    sink = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(sink, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    label = f'<svg role="img" aria-label="{_text(description)}" '
    return f"<figure>{text.replace('<svg ', label, 1)}<figcaption>{_text(description)}</figcaption></figure>"


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _mark_k(axes: Axes, ks: Sequence[int]) -> None:
    """Put a tick at every k, or at some of many."""
    step = -(-len(ks) // _MOST_TICKS)
    axes.set_xticks(range(0, len(ks), step), [str(k) for k in ks[::step]])
    axes.set_xlabel("k")
    axes.set_ylim(bottom=0)


def _plot_findings(report: AuditReport) -> str:
    kinds = [kind for kind in shown_kinds(report) if report.all.counts[kind] and kind != "unreadable_sentences"]
    if not kinds:
        return ""
    columns = min(3, len(kinds))
    lines = -(-len(kinds) // columns)
    figure, panels = _figure(lines, columns, 3.1 * columns, 2.3 * lines)
    ks = list(report.by_k)
    for panel, kind in zip(panels, kinds, strict=False):
        shares = [100 * tally.counts[kind] / tally.stories for tally in report.by_k.values()]
        panel.bar(range(len(ks)), shares, color=_FAULT)
        panel.set_title(kind.replace("_", " "))
        panel.set_ylabel("% of stories")
        _mark_k(panel, ks)
    for panel in panels[len(kinds) :]:
        panel.set_visible(False)
    return _svg(figure, "findings", "Findings by k, in per cent of the stories of each k.")


def _plot_baselines(report: AuditReport) -> str:
    figure, (panel,) = _figure(1, 1, 7.2, 3.4)
    ks = list(report.by_k)
    for name, colour, marker in zip(BASELINES, _SERIES, _MARKERS, strict=True):
        accuracy = [100 * tally.baselines[name] for tally in report.by_k.values()]
        panel.plot(range(len(ks)), accuracy, color=colour, marker=marker, label=name.replace("_", " "))
    panel.axhline(100 * _CHANCE, color=_INK, linestyle=":", linewidth=1, label="one in nine")
    panel.set_ylabel("accuracy, %")
    _mark_k(panel, ks)
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return _svg(figure, "baselines", "Accuracy by k of baselines that do not reason.")


def _plot_balance(report: AuditReport) -> str:
    figure, (labels, hops) = _figure(1, 2, 9.2, 2.9)
    labels.bar(range(len(NAMES)), [100 * count / report.all.stories for count in report.all.labels], color=_SERIES[0])
    labels.axhline(100 * _CHANCE, color=_INK, linestyle=":", linewidth=1)
    labels.set_xticks(range(len(NAMES)), NAMES, rotation=45, ha="right")
    labels.set_ylabel("% of stories")
    labels.set_title("labels (dotted: balanced)")
    ks = list(report.by_k)
    means = [tally.mean_hops for tally in report.by_k.values()]
    hops.plot(range(len(ks)), [float("nan") if mean is None else mean for mean in means], color=_SERIES[0], marker="o")
    hops.plot(range(len(ks)), ks, color=_INK, linestyle=":", linewidth=1)
    hops.set_ylabel("mean links needed")
    hops.set_title("hops (dotted: k)")
    _mark_k(hops, ks)
    return _svg(
        figure, "balance", "Share of each label, and mean links of the shortest chain between the asked agents."
    )


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], last_is_total: bool) -> str:
    head = "".join(f'<th scope="col">{_text(heading)}</th>' for heading in headings)
    lines = list(rows)
    body = []
    for number, (name, *cells) in enumerate(lines):
        style = ' class="all"' if last_is_total and number == len(lines) - 1 else ""
        body.append(f'<tr{style}><th scope="row">{_text(name)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(caption)}"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(value: str, fault: bool = False) -> str:
    return f'<td class="fault">{_text(value)}</td>' if fault else f"<td>{_text(value)}</td>"


def _findings_table(report: AuditReport, caption: str, first: str, rows: list[tuple[str, Tally]]) -> str:
    kinds = shown_kinds(report)
    headings = [first, "stories", *(_heading(kind) for kind in kinds)]
    if len(rows) > 1:
        rows = [*rows, ("all", report.all)]
    lines = [
        [name, _cell(f"{tally.stories:,}")]
        + [_cell(f"{tally.counts[kind]:,}", tally.counts[kind] > 0) for kind in kinds]
        for name, tally in rows
    ]
    return _table(caption, headings, lines, len(rows) > 1)


def _information_table(report: AuditReport) -> str:
    headings = ["k", "mean hops", "label entropy", *(f"{name.replace('_', ' ')}, %" for name in BASELINES)]
    headings += [_heading(kind) for kind in INFORMATION]
    lines = []
    for name, tally in [*((str(k), tally) for k, tally in report.by_k.items()), ("all", report.all)]:
        cells = ["-" if tally.mean_hops is None else f"{tally.mean_hops:.2f}", f"{tally.label_entropy:.3f}"]
        cells += [f"{100 * accuracy:.1f}" for accuracy in tally.baselines.values()]
        cells += [f"{tally.counts[kind]:,}" for kind in INFORMATION]
        lines.append([name, *map(_cell, cells)])
    return _table("Balance, baselines and repeats by k (no findings)", headings, lines, True)


def _examples(report: AuditReport, names: list[str]) -> str:
    parts = []
    for kind, meaning in FINDINGS.items():
        items = []
        for name, file in zip(names, report.files, strict=True):
            for example in file.examples.get(kind, ()):
                place = "" if example.sentence is None else f", sentence {example.sentence}"
                where = f"{name}, row {example.row} (k = {example.k_hop}){place}"
                items.append(
                    f'<li><span class="soft">{_text(where)}</span><br/><q>{_text(example.text)}</q><br/>'
                    f"{_text(example.what)}</li>"
                )
        if items:
            title = _text(kind.replace("_", " "))
            parts.append(f"<details><summary>{title}: {_text(meaning)}</summary><ul>{''.join(items)}</ul></details>")
    return f"<h2>Examples</h2><p class='soft'>Rows and sentences count from 0.</p>{''.join(parts)}" if parts else ""


def _glossary() -> str:
    terms = {**FINDINGS, **INFORMATION, **BASELINES}
    entries = "".join(f"<dt>{_text(name.replace('_', ' '))}</dt><dd>{_text(what)}</dd>" for name, what in terms.items())
    return (
        f"<h2>What the words mean</h2><dl>{entries}<dt>label entropy</dt><dd>entropy of the labels over that of nine "
        "equally frequent ones; 1 is balanced</dd><dt>mean hops</dt><dd>mean links of the shortest chain of sentences "
        "between the two agents of the question</dd></dl>"
    )


def to_html(report: AuditReport) -> str:
    """Return the report as one page.

    Args:
        report: what `stepgame.audit.audit` found.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    mpl = require("matplotlib", "report", "a report with plots")
    names = short_names([file.file for file in report.files])
    files = [(name, file.all) for name, file in zip(names, report.files, strict=True)]
    by_k = [(str(k), tally) for k, tally in report.by_k.items()]
    against = f"<p>Audited against: {_text(', '.join(report.against))}</p>" if report.against else ""
    with mpl.rc_context(_STYLE):
        plots = [_plot_findings(report), _plot_baselines(report), _plot_balance(report)]
    sections = [
        f'<h1>Audit</h1><p class="verdict{"" if report.clean else " fault"}">{_text(verdict(report))}</p>{against}',
        "<h2>Findings</h2>",
        plots[0],
        _findings_table(report, "Findings by k", "k", by_k),
        _findings_table(report, "Findings by file", "file", files),
        "<h2>Balance and baselines</h2>",
        *plots[1:],
        _information_table(report),
        _examples(report, names),
        _glossary(),
        f'<p class="soft">stepgame {stepgame.__version__}</p>',
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit: {_text(verdict(report))}</title><style>{_CSS}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )
