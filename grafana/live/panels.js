// One panel with its data, as HTML. Pure.

import { shown, ticks } from "./units.js";

const COLOURS = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#fade2a", "#56a64b", "#ffb357"];
const NAMED = { green: "#73bf69", orange: "#ff9830", red: "#f2495c", blue: "#5794f2", purple: "#b877d9" };
const TITLE = 24;

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
const colourAt = (index) => COLOURS[index % COLOURS.length];

export function drawing(panel, data, marks, time, width, height) {
  if (!data.length) return nothing(panel);
  const box = { width: width - 2, height: height - TITLE - 34 };
  const kinds = { timeseries: lines, stat, "state-timeline": states, table };
  return kinds[panel.type](panel, data, marks, time, box);
}

function nothing(panel) {
  const why = /Empty by design: ([^\n]*)/.exec(panel.description ?? "");
  return `<div class="none">${escaped(panel.fieldConfig.defaults.noValue ?? (why ? `nothing: ${why[1]}` : "no data"))}</div>`;
}

function lines(panel, data, marks, time, box) {
  const { unit, custom = {}, thresholds, min, max } = panel.fieldConfig.defaults;
  const drawn = custom.stacking ? stacked(data) : data;
  const values = drawn.flatMap(({ points }) => points.map(([, v]) => v));
  const low = Math.min(...values, min ?? Infinity);
  const top = Math.max(...values);
  const high = top > low ? Math.max(top, Math.min(top + (top - low) * 0.1, max ?? Infinity)) : low + 1;
  const frame = { left: 58, right: box.width - 10, top: 4, bottom: box.height - 16 };
  const x = (t) => frame.left + ((t - time.start) / (time.end - time.start)) * (frame.right - frame.left);
  const y = (v) => frame.bottom - ((v - low) / (high - low)) * (frame.bottom - frame.top);
  const parts = ticks(low, high, unit).map((tick) =>
    `<line x1="${frame.left}" x2="${frame.right}" y1="${y(tick)}" y2="${y(tick)}" stroke="#2a2d33"/>` +
    `<text x="${frame.left - 5}" y="${y(tick) + 3}" text-anchor="end">${shown(tick, unit)}</text>`);
  parts.push(clock(time, x, box.height - 2));
  if (custom.thresholdsStyle) {
    for (const { value, color } of thresholds.steps) {
      if (value === null || value < low || value > high || color === "green") continue;
      parts.push(`<line x1="${frame.left}" x2="${frame.right}" y1="${y(value)}" y2="${y(value)}" stroke="${NAMED[color]}" stroke-dasharray="6 4"/>`);
    }
  }
  for (const [t, color] of marks) {
    parts.push(`<line x1="${x(t)}" x2="${x(t)}" y1="${frame.top}" y2="${frame.bottom}" stroke="${NAMED[color]}" stroke-dasharray="2 3"/>`);
  }
  const at = ([t, v]) => `${x(t).toFixed(1)},${y(v).toFixed(1)}`;
  for (const [index, { points, below }] of [...drawn.entries()].reverse()) {
    for (const part of unbroken(points, time.step)) {
      const line = part.map(at).join(" ");
      if (below) {
        const base = part.map(([t]) => at([t, below.get(t) ?? low])).reverse().join(" ");
        parts.push(`<polygon points="${line} ${base}" fill="${colourAt(index)}" fill-opacity=".5"/>`);
      }
      parts.push(`<polyline points="${line}" fill="none" stroke="${colourAt(index)}" stroke-width="1.2"/>`);
    }
  }
  return svg(parts, box.width, box.height) + legend(data.map(({ name }, index) => [name, colourAt(index)]));
}

function stat(panel, data) {
  const { defaults } = panel.fieldConfig;
  const alone = data.length === 1;
  const cell = ({ name, points }) => {
    const value = points.at(-1)[1];
    const size = alone ? 34 : 19;
    const text = `<span style="font-size:${size}px;color:${judged(defaults, value)}">${shown(value, defaults.unit)}</span>`;
    return alone ? text : `${text}<small>${escaped(name)}</small>`;
  };
  return `<div class="stat">${data.slice(0, 6).map(cell).join("")}</div>`;
}

function states(panel, data, _marks, time, box) {
  const { defaults } = panel.fieldConfig;
  const left = box.width > 300 ? 150 : 80;
  const high = Math.min(26, (box.height - 14) / data.length);
  const x = (t) => left + ((t - time.start) / (time.end - time.start)) * (box.width - left - 10);
  const wide = x(time.start + time.step) - left + 0.6;
  const seen = new Map();
  const parts = data.map(({ name, points }, row) => {
    const cells = points.map(([t, value]) => {
      seen.set(value, judged(defaults, value));
      return `<rect x="${x(t).toFixed(1)}" y="${(4 + row * high).toFixed(1)}" width="${wide.toFixed(1)}" height="${(high - 3).toFixed(1)}" fill="${seen.get(value)}"/>`;
    });
    return `<text x="${left - 6}" y="${4 + row * high + high / 2 + 2}" text-anchor="end">${escaped(name)}</text>${cells.join("")}`;
  });
  parts.push(clock(time, x, box.height - 2));
  const texts = defaults.mappings?.[0]?.options ?? {};
  const names = [...seen].sort(([a], [b]) => a - b).map(([value, colour]) => [texts[value]?.text ?? String(value), colour]);
  return svg(parts, box.width, box.height) + legend(names);
}

function table(panel, rows) {
  const hidden = panel.transformations?.[0]?.options?.excludeByName ?? {};
  const heads = [...new Set(rows.flatMap(Object.keys))].filter((name) => !hidden[name]).sort();
  const row = (labels) => `<tr>${heads.map((head) => `<td>${escaped(labels[head] ?? "")}</td>`).join("")}</tr>`;
  return `<table><tr>${heads.map((head) => `<th>${head}</th>`).join("")}</tr>${rows.map(row).join("")}</table>`;
}

/** The colour that thresholds and mappings give to a value. */
function judged(defaults, value) {
  const step = defaults.thresholds.steps.findLast((each) => each.value === null || value >= each.value);
  const mapped = (defaults.mappings ?? []).map(({ options }) => options[value]?.color).find(Boolean);
  const colour = mapped ?? step?.color ?? "green";
  return NAMED[colour] ?? colour;
}

function stacked(data) {
  const base = new Map();
  return data.map(({ name, points }) => {
    const below = new Map(points.map(([t]) => [t, base.get(t) ?? 0]));
    const raised = points.map(([t, v]) => [t, v + below.get(t)]);
    raised.forEach(([t, v]) => base.set(t, v));
    return { name, points: raised, below };
  });
}

function unbroken(points, step) {
  const parts = [];
  points.forEach((point, i) => {
    if (i === 0 || point[0] - points[i - 1][0] > 1.5 * step) parts.push([]);
    parts.at(-1).push(point);
  });
  return parts;
}

function clock(time, x, y) {
  const at = (i) => time.start + ((time.end - time.start) * i) / 4;
  const text = (i) => new Date(at(i) * 1000).toTimeString().slice(0, 5);
  const anchor = ["start", "middle", "middle", "middle", "end"];
  return anchor.map((each, i) => `<text x="${x(at(i))}" y="${y}" text-anchor="${each}">${text(i)}</text>`).join("");
}

const svg = (parts, width, height) => `<svg width="${width}" height="${height}">${parts.join("")}</svg>`;

const legend = (names) =>
  `<div class="legend">${names.map(([name, colour]) => `<span><i style="background:${colour}"></i>${escaped(name)}</span>`).join("")}</div>`;
