"use strict";
// Figures: drawn by Plotly when they come near the window, in the colors of the page.
const data = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)");
const NARROWEST = 300, HEIGHT = 380, PANEL_GAP = 90;
document.documentElement.classList.add("scripted");

const shade = look => dark.matches ? look.dark : look.light;
const escaped = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
const short = value => Number(value.toPrecision(4)).toString();

function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && (lines.at(-1) + word).length > width / 7.2) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return escaped(lines.join("\n")).replace(/\n/g, "<br>");
}

function hover(line, panel, i) {
  const error = line.low[i] === null ? "" : ` ± ${short(line.mean[i] - line.low[i])}`;
  const count = `${line.seeds[i]} seed${line.seeds[i] === 1 ? "" : "s"}` + (line.n ? `, ${line.n[i]} responses` : "");
  return `<b>${escaped(line.name)}</b><br>${escaped(panel.x)}: ${line.x[i]}<br>` +
    `${escaped(panel.title)}: ${short(line.mean[i])}${error}<br>${count}`;
}

// Indices of a line's points, cut where neighbours are more than `step` apart.
function pieces(line, step) {
  const cut = [];
  line.x.forEach((x, i) => {
    if (!i || (step !== null && x - line.x[i - 1] > step)) cut.push([]);
    cut.at(-1).push(i);
  });
  return cut;
}

// Lists as one, with a null between each two: Plotly breaks its lines and polygons there.
const apart = lists => lists.flatMap((list, i) => i ? [null, ...list] : list);

function traces(figure, hidden) {
  return figure.panels.flatMap((panel, number) => panel.lines.flatMap(line => {
    const color = shade(line), end = number ? number + 1 : "";
    const shared = { xaxis: `x${end}`, yaxis: `y${end}`, type: "scatter", showlegend: false, visible: !hidden.has(line.name) };
    const all = pieces(line, panel.step), known = all.map(piece => piece.filter(i => line.low[i] !== null));
    const band = {
      ...shared, mode: "none", hoverinfo: "skip", fill: "toself", fillcolor: `${color}2e`,
      x: apart(known.map(piece => [...piece, ...piece.toReversed()].map(i => line.x[i]))),
      y: apart(known.map(piece => [...piece.map(i => line.high[i]), ...piece.toReversed().map(i => line.low[i])])),
    };
    const of = values => apart(all.map(piece => piece.map(i => values[i])));
    const curve = {
      ...shared, name: escaped(line.name), mode: line.marker ? "lines+markers" : "lines", x: of(line.x), y: of(line.mean),
      line: { color, width: 1.8, dash: line.dash },
      marker: { color, size: line.n ? 5 : 6, symbol: line.marker || "circle", maxdisplayed: line.n ? 0 : 9 },
      text: of(line.x.map((_, i) => hover(line, panel, i))), hoverinfo: "text",
    };
    return known.some(piece => piece.length > 1) ? [band, curve] : [curve];
  }));
}

function layout(figure, width) {
  const style = getComputedStyle(document.documentElement), of = name => style.getPropertyValue(name).trim();
  const count = figure.panels.length, stacked = width < NARROWEST * count;
  const height = HEIGHT * (stacked ? count : 1), gap = PANEL_GAP / (stacked ? height : width);
  const share = (1 - gap * (count - 1)) / count;
  const made = {
    height, width, autosize: false, margin: { l: 58, r: 10, t: 42, b: 46 }, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: of("--text"), size: 12 },
    hoverlabel: { bgcolor: of("--raised"), bordercolor: of("--rule"), font: { color: of("--text") }, align: "left" },
    dragmode: coarse.matches ? false : "zoom", annotations: [], shapes: [],
  };
  figure.panels.forEach((panel, number) => {
    const end = number ? String(number + 1) : "", start = number * (share + gap);
    const axis = { gridcolor: of("--grid"), linecolor: of("--rule"), zeroline: false, automargin: false };
    const domain = stacked ? [0, 1] : [start, Math.min(1, start + share)];
    const xs = panel.lines.flatMap(line => line.x), first = Math.min(...xs), last = Math.max(...xs);
    const side = 0.025 * (last - first || 1), range = [first - side, last + side];
    made[`xaxis${end}`] = { ...axis, domain, range, anchor: `y${end}`, title: { text: escaped(panel.x), standoff: 8 } };
    const ends = panel.lines.flatMap(line => [line.mean, line.low, line.high].flat()).filter(value => value !== null);
    const low = Math.min(...ends, panel.baseline ?? Infinity), high = Math.max(...ends, panel.baseline ?? -Infinity);
    const room = 0.05 * (high - low || 1), [bottom, top] = panel.bounds;
    made[`yaxis${end}`] = {
      ...axis, anchor: `x${end}`, range: [bottom ?? low - room, top ?? high + room],
      domain: stacked ? [1 - start - share, 1 - start].map(value => Math.max(0, value)) : [0, 1],
      title: { text: wrapped(panel.y, 300), standoff: 6 },
    };
    made.annotations.push({
      text: wrapped(panel.title, domain[1] * width - domain[0] * width - 60), showarrow: false, align: "left",
      xref: `x${end} domain`, yref: `y${end} domain`, x: 0, y: 1.01, xanchor: "left", yanchor: "bottom", font: { size: 13 },
    });
    if (panel.baseline !== null) made.shapes.push({
      type: "line", xref: `x${end} domain`, yref: `y${end}`, x0: 0, x1: 1, y0: panel.baseline, y1: panel.baseline,
      line: { color: of("--soft"), width: 1 }, layer: "below",
    });
  });
  return made;
}

function swatch(line) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const stroke = document.createElementNS("http://www.w3.org/2000/svg", "path");
  stroke.setAttribute("d", "M0 6H28");
  stroke.setAttribute("stroke-width", "3");
  stroke.setAttribute("stroke-dasharray", { dash: "7 3", dashdot: "8 3 2 3" }[line.dash] || "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(stroke);
  svg.tint = () => stroke.setAttribute("stroke", shade(line));
  svg.tint();
  return svg;
}

class Drawn {
  constructor(element) {
    this.plot = element.querySelector(".plot");
    this.figure = data[element.id];
    this.hidden = new Set();
    this.near = false;
    this.width = 0;
    this.buttons = this.legend(element.querySelector(".legend"));
  }
  legend(place) {
    const looks = new Map(this.figure.panels.flatMap(panel => panel.lines).map(line => [line.name, line]));
    if (place.dataset.of) place.append(Object.assign(document.createElement("span"), { textContent: place.dataset.of }));
    const buttons = [...looks].map(([name, line]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Show or hide; double-click: this one alone";
      button.append(button.swatch = swatch(line), name);
      button.addEventListener("click", () => {
        if (!this.hidden.delete(name)) this.hidden.add(name);
        this.toggled();
      });
      button.addEventListener("dblclick", () => {
        this.hidden = new Set([...looks.keys()].filter(other => other !== name));
        this.toggled();
      });
      return Object.assign(button, { line: name });
    });
    this.all = Object.assign(document.createElement("button"), { type: "button", className: "all", textContent: "Show all" });
    this.all.addEventListener("click", () => { this.hidden.clear(); this.toggled(); });
    place.append(...buttons, this.all);
    return buttons;
  }
  toggled() {
    this.marks();
    this.draw();
  }
  marks() {
    for (const button of this.buttons) {
      button.setAttribute("aria-pressed", String(!this.hidden.has(button.line)));
      button.swatch.tint();
    }
    this.all.hidden = !this.hidden.size;
  }
  draw() {
    if (!this.near) return;
    this.width = this.plot.clientWidth;
    const lines = traces(this.figure, this.hidden);
    Plotly.react(this.plot, lines, layout(this.figure, this.width), { displayModeBar: false });
  }
}

const drawn = new Map([...document.querySelectorAll("figure")].map(element => [element, new Drawn(element)]));
const arrivals = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) {
    arrivals.unobserve(entry.target);
    drawn.get(entry.target).near = true;
    drawn.get(entry.target).draw();
  }
}, { rootMargin: "600px" });
const widths = new ResizeObserver(entries => {
  for (const { target } of entries) {
    const figure = drawn.get(target.closest("figure"));
    if (target.clientWidth && target.clientWidth !== figure.width) figure.draw();
  }
});
for (const [element, figure] of drawn) {
  figure.marks();
  arrivals.observe(element);
  widths.observe(figure.plot);
}
dark.addEventListener("change", () => drawn.forEach(figure => figure.toggled()));

// Tables: a click on a head sorts, a second one turns the order around; what has no value stays last.
function compare(a, b) {
  const x = Number(a), y = Number(b);
  return a !== "" && b !== "" && !isNaN(x) && !isNaN(y) ? x - y : a.localeCompare(b);
}
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
    const value = row => row.cells[column].dataset.sort;
    const rows = [...body.rows], known = rows.filter(row => value(row) !== undefined);
    known.sort((a, b) => turn * compare(value(a), value(b)));
    body.append(...known, ...rows.filter(row => value(row) === undefined));
  }));
}
