"""Samples as self-contained HTML pages: one a benchmark, to read what a model wrote and how it was graded.

A page holds its samples as JSON and shows them as text nodes, so that no response can become markup; its content
security policy names the digests of its own script and style and allows nothing else, no connection included.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from bai_pipeline.errors import DataError
from bai_pipeline.evals.case_studies import cut_middle

SAMPLES = 2_000
"""Samples of a page, at most."""
SHOWN = 50_000
"""Characters of a prompt or response that a page holds, at most: 2,000 such samples make 100 MB, and are rare."""
_COLUMNS = (
    "id",
    "group",
    "repeat",
    "prompt",
    "response",
    "extracted",
    "answer",
    "score",
    "weight",
    "tokens",
    "finish_reason",
    "detail",
)


def write_pages(samples: Mapping[str, pd.DataFrame], out: Path, title: str, limit: int = SAMPLES) -> list[Path]:
    """Write `<benchmark>.html` for each benchmark.

    Args:
        samples: benchmark → samples table.
        out: existing directory.
        title: whose responses these are.
        limit: samples of a page, at most.

    Raises:
        DataError: as `samples_page`, or a benchmark whose name makes no file name; nothing is written.
    """
    unfit = [name for name in samples if not re.fullmatch(r"\w[\w.+-]*", name)]
    if unfit:
        raise DataError(f"expected benchmarks that can name a file, got {', '.join(map(repr, unfit))}; no page written")
    pages = {name: samples_page(table, f"{title}: {name}", limit) for name, table in samples.items()}
    for name, page in pages.items():
        (out / f"{name}.html").write_text(page, encoding="utf-8")
    return [out / f"{name}.html" for name in pages]


def samples_page(samples: pd.DataFrame, title: str, limit: int = SAMPLES) -> str:
    """One page: a table of samples with their verdicts, filters by verdict and text, and each sample on a click.

    Beyond `limit` samples, `limit` evenly spaced ones are on the page, and it says how many are not.

    Raises:
        DataError: a column is absent.
    """
    absent = [c for c in _COLUMNS if c not in samples.columns]
    if absent:
        raise DataError(
            f"expected samples with columns {', '.join(_COLUMNS)}, {', '.join(absent)} absent; no page made"
        )
    total = len(samples)
    chosen = samples.iloc[[i * total // limit for i in range(limit)]] if total > limit else samples
    records = [_record({str(k): v for k, v in line.items()}) for line in chosen[list(_COLUMNS)].to_dict("records")]
    left_out = f"; {total - len(chosen):,} of {total:,} are left out, those here are evenly spaced" * (total > limit)
    return _PAGE.format(
        policy=f"default-src 'none'; script-src {_digest(_SCRIPT)}; style-src {_digest(_STYLE)}",
        title=html.escape(title),
        count=f"{len(chosen):,} sample{'s' * (len(chosen) != 1)}{left_out}",
        style=_STYLE,
        script=_SCRIPT,
        data=_json(records),
    )


def _record(line: dict[str, Any]) -> dict[str, Any]:
    """A sample as the page's script reads it."""
    texts = {
        name: "" if pd.isna(line[name]) else str(line[name]) for name in ("id", "group", "finish_reason", "detail")
    }
    found = not pd.isna(line["extracted"])
    return texts | {
        "repeat": int(line["repeat"]),
        "prompt": cut_middle(str(line["prompt"]), SHOWN),
        "response": cut_middle(str(line["response"]), SHOWN),
        "extracted": cut_middle(str(line["extracted"]), SHOWN) if found else None,
        "answer": "" if pd.isna(line["answer"]) else cut_middle(str(line["answer"]), SHOWN),
        "score": None if isnan(line["score"]) else round(float(line["score"]), 4),
        "weight": round(float(line["weight"]), 4),
        "tokens": int(line["tokens"]),
        "verdict": _verdict(float(line["score"]), found),
    }


def _verdict(score: float, found: bool) -> str:
    if isnan(score):
        return "not graded"
    if score >= 1:
        return "right"
    if score > 0:
        return "partly right"
    return "wrong" if found else "no answer"


def _json(records: list[dict[str, Any]]) -> str:
    """JSON in which no text can end the script element, or begin a comment in it (HTML standard, 4.12.1.3)."""
    return json.dumps(records, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1a1a }
form { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0 }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid #ddd; vertical-align: top }
td { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
td.open { white-space: normal }
button { font: inherit; border: 0; background: none; padding: 0; color: #0645ad; cursor: pointer; text-align: left }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f5f5; padding: .6rem; margin: .2rem 0 1rem }
h3 { font-size: 1em; margin: 0 }
.right { color: #19692c } .wrong { color: #a11 } .partly { color: #8a5a00 } .no, .not { color: #666 }
"""

_SCRIPT = """
"use strict";
const samples = JSON.parse(document.getElementById("samples").textContent);
const body = document.querySelector("tbody"), verdict = document.getElementById("verdict");
const search = document.getElementById("search"), shown = document.getElementById("shown");
const SEARCHED = ["id", "group", "prompt", "response", "extracted", "answer", "detail"];
function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}
function details(s) {
  const row = element("tr"), cell = element("td", undefined, "open");
  cell.colSpan = 6;
  const parts = { "Question": s.prompt, "Response": s.response,
    "Extracted answer": s.extracted === null ? "(none was found)" : s.extracted, "Reference answer": s.answer,
    "Detail": s.detail };
  for (const [name, text] of Object.entries(parts))
    if (text) cell.append(element("h3", name), element("pre", text));
  cell.append(element("p", `Weight ${s.weight}, ended by: ${s.finish_reason}`));
  row.append(cell);
  return row;
}
const rows = samples.map(s => {
  const row = element("tr"), first = element("td"), button = element("button", s.id);
  let opened = null;
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    if (opened) { opened.remove(); opened = null; } else row.after(opened = details(s));
    button.setAttribute("aria-expanded", String(opened !== null));
  });
  first.append(button);
  row.append(first, element("td", s.group), element("td", String(s.repeat)),
    element("td", s.verdict, s.verdict.split(" ")[0]), element("td", s.score === null ? "" : String(s.score)),
    element("td", String(s.tokens)));
  row.close = () => { if (opened) button.click(); };
  return row;
});
function filter() {
  const words = search.value.toLowerCase();
  const kept = samples.map(s => (!verdict.value || s.verdict === verdict.value)
    && (!words || SEARCHED.some(name => (s[name] || "").toLowerCase().includes(words))));
  rows.forEach(row => row.close());
  body.replaceChildren(...rows.filter((row, i) => kept[i]));
  shown.textContent = `${body.children.length} shown`;
}
verdict.addEventListener("change", filter);
search.addEventListener("input", filter);
document.querySelector("form").addEventListener("submit", event => event.preventDefault());
filter();
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{count}. Click an id to open it.</p>
<noscript><p>This page needs JavaScript: its samples are in it as data.</p></noscript>
<form>
<label>Verdict <select id="verdict"><option value="">all</option><option>right</option><option>partly right</option>
<option>wrong</option><option>no answer</option><option>not graded</option></select></label>
<label>Text <input id="search" type="search"></label>
<output id="shown"></output>
</form>
<table>
<thead><tr><th>Id</th><th>Group</th><th>Repeat</th><th>Verdict</th><th>Score</th><th>Tokens</th></tr></thead>
<tbody></tbody>
</table>
<script type="application/json" id="samples">{data}</script>
<script>{script}</script>
</body>
</html>
"""
