"use strict";
// Draws what the page's data holds: charts with a common crosshair, sample grids and histograms with a common step.
// Text reaches the page by textContent and attributes alone, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const SMOOTHED_FROM = 50; // points; a curve of fewer is drawn as it is
  const FRAME_MILLISECONDS = 300; // of playing
  const state = { log: false, smoothing: 0.6, axis: "steps", cursor: null, position: 0, hidden: new Set() };

  // A curve is read within the gaps between its rows, not long before it begins or after it has ended.
  for (const { curves } of data.runs) {
    for (const curve of Object.values(curves)) curve.gap = curve.x.reduce((most, step, i) => Math.max(most, i ? step - curve.x[i - 1] : 0), 0);
  }

  const make = (tag, attributes = {}, ...inside) => {
    const svg = ["svg", "path", "line", "text", "circle", "g", "title"].includes(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...inside);
    return element;
  };

  // A name that may be broken after its underscores and slashes.
  const breakable = (name) => name.split(/(?<=[_/])/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));

  const written = (value) => {
    if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? value.toLocaleString("en") : value.toExponential(2);
    const size = Math.abs(value);
    return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };

  const short = (value) => {
    const size = Math.abs(value);
    if (size >= 1e9 || (size && size < 1e-3)) return value.toExponential(0).replace("+", "");
    if (size >= 1e6) return Number((value / 1e6).toPrecision(4)) + "M";
    if (size >= 1e4) return Number((value / 1e3).toPrecision(4)) + "k";
    return String(Number(value.toPrecision(4)));
  };

  // Ticks at 1, 2 or 5 times a power of ten, about as many as asked for.
  const ticks = (low, high, count) => {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((each) => each * power >= raw * 0.999) * power;
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  };

  const logTicks = (low, high) => {
    const decades = Math.log10(high) - Math.log10(low);
    if (decades < 0.7) return ticks(low, high, 4).filter((value) => value > 0);
    const [every, factors] = decades < 2 ? [1, [1, 2, 5]] : [Math.ceil(decades / 5), [1]];
    const found = [];
    for (let i = Math.floor(Math.log10(low)); i <= Math.log10(high); i++) {
      if (i % every === 0) found.push(...factors.map((each) => each * 10 ** i));
    }
    return found.filter((value) => value >= low && value <= high);
  };

  // An exponential mean that starts without bias; of means, where the curve was thinned to its extremes.
  const smoothed = (curve) => {
    const weight = state.smoothing;
    let mean = 0, share = 0;
    return (curve.m || curve.y).map((value) => {
      mean = weight * mean + (1 - weight) * value;
      share = weight * share + (1 - weight);
      return mean / share;
    });
  };

  // The position in rising numbers that is nearest to a value.
  const nearest = (numbers, value) => {
    let low = 0, high = numbers.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (numbers[middle] <= value) low = middle; else high = middle;
    }
    return Math.abs(numbers[high] - value) < Math.abs(numbers[low] - value) ? high : low;
  };

  // The last element whose step is not after this one, else the first.
  const upTo = (items, step, stepOf) => {
    const before = items.filter((item) => stepOf(item) <= step);
    return before.length ? before[before.length - 1] : items[0];
  };

  const factor = (run) => (state.axis === "images" ? data.runs[run].batch_size : 1);
  const longest = () => Math.max(1, ...data.charts.flatMap((chart) => chart.lines.map((line) => {
    const { x } = data.runs[line.run].curves[line.name];
    return x[x.length - 1] * factor(line.run);
  })));

  // A drawing area with axes; both kinds of chart stand in it.
  const frame = (width, { x, y, log = false, ysuffix = "", xticks = null }) => {
    const box = { left: 50, right: 14, top: 8, bottom: 26, height: width < 500 ? 190 : 230 };
    const [right, bottom] = [width - box.right, box.height - box.bottom];
    const along = (value) => box.left + ((value - x[0]) / (x[1] - x[0])) * (right - box.left);
    const scale = log ? Math.log : (value) => value;
    const up = (value) => bottom - ((scale(value) - scale(y[0])) / (scale(y[1]) - scale(y[0]))) * (bottom - box.top);
    const svg = make("svg", { viewBox: `0 0 ${width} ${box.height}`, width, height: box.height });
    for (const value of log ? logTicks(...y) : ticks(...y, 4)) {
      svg.append(make("line", { class: "gridline", x1: box.left, x2: right, y1: up(value), y2: up(value) }));
      svg.append(make("text", { x: box.left - 7, y: up(value) + 4, "text-anchor": "end" }, short(value) + ysuffix));
    }
    svg.append(make("line", { class: "axis", x1: box.left, x2: right, y1: bottom, y2: bottom }));
    for (const [value, label] of xticks || ticks(...x, Math.max(2, Math.floor(width / 110))).map((each) => [each, short(each)])) {
      const anchor = along(value) > right - 12 ? "end" : "middle";
      svg.append(make("text", { x: along(value), y: box.height - 8, "text-anchor": anchor }, label));
    }
    Object.assign(svg.dataset, { x: x.join(" "), y: y.join(" "), area: [box.left, box.top, right, bottom].join(" ") });
    return { svg, along, up, box, right, bottom, value: (at) => x[0] + ((at - box.left) / (right - box.left)) * (x[1] - x[0]) };
  };

  // Eight colours; after them the same ones, dotted.
  const colour = (line) => `c${line.colour % 8}${line.colour >= 8 ? " second" : ""}`;

  // The least and the largest of an axis, with some room around the numbers.
  const around = (values) => {
    const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    return [low >= 0 && low < high / 2 ? 0 : low - room, high + room];
  };

  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");

  class Chart {
    constructor(spec) {
      this.spec = spec;
      this.at = make("output");
      this.legend = make("ul", { class: "legend" });
      this.place = make("div");
      this.values = spec.lines.map((line) => {
        const value = make("b");
        const kind = `swatch line ${line.floor ? "floor dashed" : colour(line)}`;
        const item = make("li", {}, make("span", { class: kind }), `${line.label} `, value);
        this.legend.append(item);
        return { item, value };
      });
      if (spec.level !== null) this.legend.append(make("li", {}, make("span", { class: "swatch line dashed level" }), `alarm from ${written(spec.level)}`));
      if (spec.alarms.length) this.legend.append(make("li", {}, make("span", { class: "alarm-sign" }, "▼ "), "alarm"));
      this.figure = make("figure", { class: "chart" }, make("figcaption", {}, make("span", {}, ...breakable(spec.title)), this.at), this.legend, this.place);
      this.figure.dataset.title = spec.title;
      this.width = 0;
    }

    lines() {
      return this.spec.lines
        .map((line, number) => ({ ...line, number, curve: data.runs[line.run].curves[line.name] }))
        .filter((line) => !state.hidden.has(line.run));
    }

    draw() {
      this.width = this.place.clientWidth;
      if (!this.width) return; // not shown
      const lines = this.lines();
      this.values.forEach(({ item }, number) => { item.hidden = state.hidden.has(this.spec.lines[number].run); });
      const drawable = (value) => !state.log || value > 0;
      const level = this.spec.level;
      const values = [...lines.flatMap(({ curve }) => [...curve.y, ...(curve.low || []), ...(curve.high || [])]), ...(level === null ? [] : [level])].filter(drawable);
      let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [state.log ? 0.1 : 0, 1];
      if (state.log) [low, high] = low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
      else {
        const within = low >= 0 && high <= 1 && this.spec.title.toLowerCase().includes("score");
        [low, high] = within ? [0, 1] : around(values);
      }
      this.frame = frame(this.width, { x: [0, longest()], y: [low, high], log: state.log });
      const { svg, along, up, box, bottom } = this.frame;
      for (const line of lines) {
        const { x, y } = line.curve;
        const places = (ys) => x.map((step, i) => [step * factor(line.run), ys[i]]).filter((point) => drawable(point[1]))
          .map((point) => [along(point[0]), up(point[1])]);
        const kind = `curve ${line.floor ? "floor dashed" : colour(line)}`;
        const smooth = state.smoothing > 0 && x.length > SMOOTHED_FROM && !line.floor;
        if (line.curve.low && !line.floor && x.length > 1) {
          const edge = places(line.curve.low).reverse();
          svg.append(make("path", { class: `band ${colour(line)}`, d: path([...places(line.curve.high), ...edge]) }));
        }
        const raw = make("path", { class: kind + (smooth ? " raw" : ""), d: path(places(y)) });
        Object.assign(raw.dataset, { run: line.run, name: line.name });
        svg.append(raw);
        if (x.length === 1 && drawable(y[0])) svg.append(make("circle", { class: kind.replace("curve", "dot"), r: 3.5, cx: places(y)[0][0], cy: places(y)[0][1] }));
        if (smooth) svg.append(make("path", { class: kind, d: path(places(smoothed(line.curve))) }));
      }
      if (level !== null) svg.append(make("line", { class: "level", x1: box.left, x2: this.frame.right, y1: up(level), y2: up(level) }));
      const alarms = this.spec.alarms.filter(([run]) => !state.hidden.has(run));
      for (const [run, step] of alarms) {
        const at = along(step * factor(run));
        const own = data.runs.length > 1 ? ` c${run % 8}` : "";
        svg.append(make("line", { class: "alarm", x1: at, x2: at, y1: box.top, y2: bottom }));
        const sign = make("path", { class: `alarm-sign${own}`, d: path([[at - 5, box.top], [at + 5, box.top], [at, box.top + 9]]) });
        Object.assign(sign.dataset, { run, step });
        svg.append(sign);
      }
      this.marker = make("line", { class: "marker", y1: box.top, y2: bottom });
      this.cross = make("g");
      svg.append(this.marker, this.cross);
      svg.setAttribute("role", "img");
      svg.setAttribute("tabindex", "0");
      svg.setAttribute("aria-label", `${this.spec.title}. ` + lines.map(({ label, curve: { x, y } }) =>
        `${label}: ${written(y[y.length - 1])} at step ${written(x[x.length - 1])}, from ${written(Math.min(...y))} to ${written(Math.max(...y))}`)
        .concat(alarms.map(([run, step]) => `alarm at step ${written(step)}${data.runs.length > 1 ? ` of ${data.runs[run].name}` : ""}`))
        .concat("Arrow keys read the values.").join(". "));
      const value = (event) => {
        const bounds = svg.getBoundingClientRect();
        return this.frame.value(((event.clientX - bounds.left) / bounds.width) * this.width);
      };
      svg.addEventListener("pointermove", (event) => setCursor(value(event)));
      svg.addEventListener("pointerleave", () => setCursor(null));
      svg.addEventListener("click", (event) => {
        if (state.axis === "steps" && data.steps.length) setPosition(nearest(data.steps, value(event)));
      });
      svg.addEventListener("keydown", (event) => this.key(event));
      svg.addEventListener("blur", () => setCursor(null));
      this.place.replaceChildren(svg);
      this.drawCursor();
      this.drawMarker();
    }

    key(event) {
      const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
      const lines = this.lines();
      if (event.key === "Escape") setCursor(null);
      if (move === undefined || !lines.length) return;
      event.preventDefault();
      const line = lines.reduce((best, each) => (each.curve.x.length > best.curve.x.length ? each : best));
      const x = line.curve.x.map((step) => step * factor(line.run));
      const from = state.cursor === null ? x.length : nearest(x, state.cursor);
      setCursor(x[Math.max(0, Math.min(x.length - 1, from + move))]);
      byId("readout").textContent = `${this.at.textContent}: ` + this.values.filter(({ item }) => !item.hidden).map(({ item }) => item.textContent).join(", ");
    }

    // The crosshair, and in the legend the values there; without it, the last ones.
    drawCursor() {
      if (!this.frame) return;
      const { along, up, box, bottom } = this.frame;
      this.cross.replaceChildren();
      const lines = this.lines();
      const near = longest() / 50;
      let at = null, distance = Infinity;
      for (const line of lines) {
        const { x, y } = line.curve;
        const unit = factor(line.run);
        const i = state.cursor === null ? x.length - 1 : nearest(x, state.cursor / unit);
        const there = state.cursor === null || Math.abs(x[i] * unit - state.cursor) <= Math.max(line.curve.gap * unit, near);
        this.values[line.number].value.textContent = there ? written(y[i]) : "–";
        if (state.cursor === null || !there) continue;
        if (Math.abs(x[i] * unit - state.cursor) < distance) [at, distance] = [x[i] * unit, Math.abs(x[i] * unit - state.cursor)];
        if (!line.floor && (!state.log || y[i] > 0)) {
          this.cross.append(make("circle", { class: `dot ${colour(line)}`, r: 4, cx: along(x[i] * unit), cy: up(y[i]) }));
        }
      }
      if (at !== null) this.cross.prepend(make("line", { class: "cursor", x1: along(at), x2: along(at), y1: box.top, y2: bottom }));
      const unit = state.axis === "images" ? "images" : "step";
      if (at === null && state.cursor !== null) at = Math.round(state.cursor);
      this.at.textContent = at === null ? "last values" : unit === "step" ? `step ${written(at)}` : `${written(at)} images`;
    }

    // Where the slider stands.
    drawMarker() {
      if (!this.frame) return;
      const step = data.steps[state.position];
      const shown = state.axis === "steps" && data.steps.length > 1 && step <= longest();
      this.marker.style.display = shown ? "" : "none";
      if (shown) for (const end of ["x1", "x2"]) this.marker.setAttribute(end, this.frame.along(step));
    }
  }

  class Histogram {
    constructor(figure) {
      this.run = Number(figure.dataset.run);
      this.at = figure.querySelector(".at");
      this.place = make("div");
      this.legend = make("ul", { class: "legend" });
      figure.append(this.legend, this.place);
      this.figure = figure;
    }

    draw() {
      const width = this.place.clientWidth;
      if (!width) return;
      const rows = data.runs[this.run].histograms;
      const row = upTo(rows, data.steps[state.position], (each) => each.step);
      const { edges, counts } = row;
      const shares = Object.fromEntries(Object.entries(counts).map(([name, each]) => {
        const sum = each.reduce((a, b) => a + b, 0);
        return [name, each.map((count) => (sum ? (100 * count) / sum : 0))];
      }));
      const highest = Math.max(1, ...Object.values(shares).flat());
      const { svg, along, up } = frame(width, { x: [edges[0], edges[edges.length - 1]], y: [0, highest * 1.05], ysuffix: "%" });
      this.legend.replaceChildren();
      Object.keys(data.histograms).forEach((name, colour) => {
        const share = shares[name];
        if (!share) return;
        const outline = share.flatMap((value, i) => [[along(edges[i]), up(value)], [along(edges[i + 1]), up(value)]]);
        const points = [[along(edges[0]), up(0)], ...outline, [along(edges[edges.length - 1]), up(0)]];
        const bars = make("path", { class: `bars c${colour} ${name}`, d: path(points) });
        bars.dataset.name = name;
        svg.append(bars);
        this.legend.append(make("li", {}, make("span", { class: `swatch c${colour}` }), data.histograms[name]));
      });
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", `Share of images by score at step ${row.step}`);
      this.at.textContent = `step ${written(row.step)}`;
      this.place.replaceChildren(svg);
    }
  }

  // A measure of a sweep against one parameter: seeds, means and intervals; a colour is what the other parameters are.
  class Plot {
    constructor(spec) {
      this.spec = spec;
      this.place = make("div");
      const named = spec.series.length > 1 ? spec.series : [];
      const legend = make("ul", { class: "legend" }, ...named.map((each) => make("li", {}, make("span", { class: `swatch ${colour(each)}` }), each.label)));
      this.figure = make("figure", { class: "plot" }, make("figcaption", {}, ...breakable(spec.parameter)), legend, this.place);
      this.figure.dataset.parameter = spec.parameter;
    }

    draw() {
      this.width = this.place.clientWidth;
      if (!this.width) return;
      const { series, ticks: xticks, range: [low, high] } = this.spec;
      const { title, cells, floor } = data.measures[byId("measure").value];
      const there = cells.filter((cell) => cell);
      const y = around([...there.flatMap((cell) => [cell.mean, ...cell.values, ...(cell.low === null ? [] : [cell.low, cell.high])]), ...(floor === null ? [] : [floor])]);
      const room = (high - low) * 0.15;
      const { svg, along, up, box, right } = frame(this.width, { x: [low - room, high + room], y, xticks });
      if (floor !== null) svg.append(make("line", { class: "curve dashed floor", x1: box.left, x2: right, y1: up(floor), y2: up(floor) }));
      series.forEach((each, place) => {
        const aside = (place - (series.length - 1) / 2) * 16; // pixels, so that series do not hide each other
        const known = each.points.filter(([, setting]) => cells[setting]).map(([at, setting]) => [along(at) + aside, setting]);
        if (each.joined) svg.append(make("path", { class: `curve joint ${colour(each)}`, d: path(known.map(([at, setting]) => [at, up(cells[setting].mean)])) }));
        for (const [at, setting] of known) {
          const { mean, low: from, high: to, values } = cells[setting];
          const said = `${data.settings[setting]}: ${written(mean)}` + (from === null ? ", 1 seed" : ` (${written(from)} to ${written(to)}, ${values.length} seeds)`);
          const group = make("g", { class: "estimate" }, make("title", {}, said));
          if (from !== null) group.append(make("line", { class: `whisker ${colour(each)}`, x1: at, x2: at, y1: up(from), y2: up(to) }));
          for (const value of values) group.append(make("circle", { class: `seed ${colour(each)}`, r: 3, cx: at - 7, cy: up(value) }));
          const dot = make("circle", { class: `dot ${colour(each)}`, r: 5, cx: at, cy: up(mean) });
          dot.dataset.setting = setting;
          group.append(dot);
          svg.append(group);
        }
      });
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", `${title} against ${this.spec.parameter}; the numbers are in the tables.`);
      this.place.replaceChildren(svg);
    }
  }

  // The means of two parameters: the stronger the colour, the better; of a measure without a better, the larger.
  const drawHeat = () => {
    const { title, better, best, cells } = data.measures[byId("measure").value];
    const { down, across, rows, columns, cells: settings } = data.heat;
    const means = cells.filter((cell) => cell).map((cell) => cell.mean);
    const [low, high] = [Math.min(...means), Math.max(...means)];
    const head = make("tr", {}, make("th", {}, `${down} ↓, ${across} →`), ...columns.map((each) => make("th", { scope: "col" }, each)));
    const body = rows.map((row, i) => make("tr", {}, make("th", { scope: "row" }, row), ...settings[i].map((setting) => {
      const cell = setting === null ? null : cells[setting];
      if (!cell) return make("td", {}, "–");
      const share = high > low ? (cell.mean - low) / (high - low) : 0;
      const half = cell.low === null ? "1 seed" : `± ${written(Number(((cell.high - cell.low) / 2).toPrecision(2)))}`;
      const td = make("td", { class: best.includes(setting) ? "best" : "" }, written(cell.mean), make("small", {}, half));
      td.style.background = `color-mix(in srgb, var(--accent) ${Math.round(5 + 40 * (better === "lower" ? 1 - share : share))}%, transparent)`;
      return td;
    })));
    const lead = make("p", {}, `${title}: the stronger the colour, the ${better || "higher"}${best.length ? "; framed: the best mean" : ""}.`);
    const table = make("table", { id: "heat-table" }, make("thead", {}, head), make("tbody", {}, ...body));
    byId("heat").replaceChildren(lead, make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Heat map" }, table));
  };

  const plots = (data.plots || []).map((spec) => new Plot(spec));
  if (plots.length) {
    byId("plots").append(...plots.map((plot) => plot.figure));
    byId("measure").append(...data.measures.map((measure, i) => make("option", { value: i }, measure.title)));
    const drawMeasure = () => {
      for (const plot of plots) plot.draw();
      if (data.heat) drawHeat();
    };
    byId("measure").addEventListener("change", drawMeasure);
    drawMeasure();
  }

  const drawnCharts = [];
  for (const spec of data.charts) {
    const place = document.querySelector(`.charts[data-section="${spec.section}"]`);
    const chart = new Chart(spec);
    place.append(chart.figure);
    drawnCharts.push(chart);
  }
  const histograms = [...document.querySelectorAll("figure.histogram")].map((figure) => new Histogram(figure));
  document.body.append(make("output", { id: "readout", class: "unseen", "aria-live": "polite" }));

  const drawAll = () => { for (const chart of drawnCharts) chart.draw(); };
  const setCursor = (value) => {
    state.cursor = value;
    for (const chart of drawnCharts) chart.drawCursor();
  };

  // Pictures: each figure's size is that of the grid as it was written, so that nothing jumps.
  const show = (image, picture, times = data.factor) => {
    image.addEventListener("load", () => {
      image.width = image.naturalWidth * times;
      image.height = image.naturalHeight * times;
    }, { once: true });
    image.classList.toggle("enlarged", times > 1);
    image.src = data.pictures[picture];
  };
  for (const figure of document.querySelectorAll("figure.reals")) show(figure.querySelector("img"), figure.dataset.picture);
  for (const figure of document.querySelectorAll("figure.nearest")) show(figure.querySelector("img"), figure.dataset.picture, 1);

  const setPosition = (position) => {
    state.position = position;
    const step = data.steps[position];
    for (const figure of document.querySelectorAll("figure.grid")) {
      const [own, picture] = upTo(data.runs[figure.dataset.run].grids, step, (grid) => grid[0]);
      const image = figure.querySelector("img");
      show(image, picture);
      image.alt = `images generated at step ${own}`;
      figure.querySelector(".at").textContent = `step ${written(own)}`;
    }
    for (const histogram of histograms) histogram.draw();
    for (const chart of drawnCharts) chart.drawMarker();
    if (!byId("position")) return;
    byId("position").value = position;
    byId("position").setAttribute("aria-valuetext", `step ${step}`);
    byId("position-value").textContent = `step ${written(step)}`;
  };

  if (data.steps.length) setPosition(data.steps.length - 1);
  if (byId("position")) {
    const last = data.steps.length - 1;
    let playing = null;
    const stop = () => {
      clearInterval(playing);
      playing = null;
      byId("play").textContent = "▶";
      byId("play").setAttribute("aria-label", "Play");
    };
    byId("position").max = last;
    byId("position").value = last;
    byId("position").addEventListener("input", (event) => { stop(); setPosition(Number(event.target.value)); });
    byId("play").addEventListener("click", () => {
      if (playing !== null) { stop(); return; }
      setPosition(state.position === last ? 0 : state.position + 1);
      byId("play").textContent = "❚❚";
      byId("play").setAttribute("aria-label", "Pause");
      playing = setInterval(() => {
        setPosition(state.position + 1);
        if (state.position === last) stop();
      }, FRAME_MILLISECONDS);
    });
  }

  const sizes = data.runs.filter((run) => Object.keys(run.curves).length).map((run) => run.batch_size);
  if (byId("toolbar")) {
    byId("toolbar").addEventListener("submit", (event) => event.preventDefault());
    byId("log").addEventListener("change", (event) => { state.log = event.target.checked; drawAll(); });
    byId("smoothing").addEventListener("input", (event) => {
      state.smoothing = Number(event.target.value);
      byId("smoothing-value").textContent = state.smoothing.toFixed(2);
      drawAll();
    });
    byId("axis-choice").hidden = new Set(sizes).size < 2 || sizes.includes(null);
    byId("axis").addEventListener("change", (event) => { state.axis = event.target.value; state.cursor = null; drawAll(); });
  }
  for (const box of document.querySelectorAll(".show-run")) {
    box.addEventListener("change", () => {
      const run = Number(box.dataset.run);
      if (box.checked) state.hidden.delete(run); else state.hidden.add(run);
      for (const part of document.querySelectorAll(`figure[data-run="${run}"], .verdict[data-run="${run}"], [data-setting="${run}"].seeds`)) part.hidden = !box.checked;
      drawAll();
    });
  }
  if (byId("all-settings")) {
    byId("all-settings").addEventListener("change", (event) => byId("settings-table").classList.toggle("all", event.target.checked));
  }

  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const drawn = [...drawnCharts, ...histograms, ...plots].find((each) => each.place === target);
      if (drawn.width !== target.clientWidth) drawn.draw();
    }
  });
  for (const each of [...drawnCharts, ...histograms, ...plots]) observer.observe(each.place);
})();
