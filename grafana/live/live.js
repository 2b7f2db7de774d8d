// Draws Grafana's dashboards from the same files and the same queries, for who
// has no Grafana at hand: `roomgate dev --prometheus` serves this page. It shows
// all nodes and shards at once and resembles Grafana; it is not it.
//
// ?board=overview&minutes=15 chooses; &still draws once, for pictures.

import { drawing } from "./panels.js";

const BOARDS = ["overview", "node", "shards", "bus", "rooms"];
const MINUTES = [5, 15, 30, 60, 180];
const REFRESH_MS = 5000;
/** Points over the width of a graph. */
const POINTS = 240;
const CELL = 30;

const asked = new URLSearchParams(location.search);
const board = BOARDS.includes(asked.get("board")) ? asked.get("board") : "overview";
const minutes = Number(asked.get("minutes")) || 15;

async function get(path, parameters) {
  const answer = await fetch(`/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const body = await answer.json();
  if (body.status !== "success") throw new Error(body.error);
  return body.data.result;
}

/** All nodes and shards, over the time that is shown. */
function filledIn(expression, span, step) {
  return expression
    .replaceAll("$__rate_interval", `${Math.max(16, Math.ceil(4 * step))}s`)
    .replaceAll("$__range", `${span}s`)
    .replaceAll(/\$(node|shard)\b/g, ".*");
}

const named = (format, labels) => (format ?? "").replaceAll(/\{\{(\w+)\}\}/g, (_, label) => labels[label] ?? "");

/** Series of all targets, by name, each [[time, value]] without gaps' NaN. */
async function series(panel, time) {
  const { start, end, step } = time;
  const ask = async (target) => {
    const query = filledIn(target.expr, end - start, step);
    const found = await get("query_range", { query, start, end, step });
    return found.map(({ metric, values }) => ({
      name: named(target.legendFormat, metric),
      points: values.map(([t, v]) => [t, Number(v)]).filter(([, v]) => Number.isFinite(v)),
    }));
  };
  const all = (await Promise.all(panel.targets.map(ask))).flat();
  return all.filter(({ points }) => points.length).sort((a, b) => a.name.localeCompare(b.name));
}

const rows = async (panel, time) =>
  (await get("query", { query: filledIn(panel.targets[0].expr, 3600, time.step), time: time.end })).map(({ metric }) => metric);

/** When what the annotations tell of began. */
async function marks(dashboard, time) {
  const told = dashboard.annotations.list.filter(({ expr }) => expr);
  const found = await Promise.all(told.map(async ({ expr, iconColor }) => {
    const query = filledIn(expr, 3600, time.step);
    const result = await get("query_range", { query, start: time.start, end: time.end, step: time.step });
    return result.flatMap(({ values }) =>
      values.map(([t]) => t).filter((t, i, all) => t > time.start + 2 * time.step && t - (all[i - 1] ?? 0) > 1.5 * time.step)
        .map((t) => [t, iconColor]));
  }));
  return found.flat();
}

function place(element, { x, y, w, h }) {
  const width = document.body.clientWidth / 24;
  element.style.cssText = `left:${x * width + 4}px;top:${y * CELL}px;width:${w * width - 8}px;height:${h * CELL - 8}px`;
}

async function draw(dashboard, elements) {
  const end = Math.floor(Date.now() / 1000);
  const span = minutes * 60;
  const time = { start: end - span, end, step: Math.max(2, Math.ceil(span / POINTS)) };
  const seen = await marks(dashboard, time);
  await Promise.all(elements.map(async ([panel, element]) => {
    const data = panel.type === "table" ? await rows(panel, time) : await series(panel, time);
    element.querySelector("div").innerHTML = drawing(panel, data, seen, time, element.clientWidth, element.clientHeight);
  }));
}

function header() {
  const link = (name) => `<a ${name === board ? 'class="here"' : ""} href="?board=${name}&minutes=${minutes}">${name}</a>`;
  document.querySelector("nav").innerHTML = BOARDS.map(link).join(" &ensp; ");
  const select = document.querySelector("select");
  select.innerHTML = MINUTES.map((each) => `<option ${each === minutes ? "selected" : ""} value="${each}">last ${each} min</option>`).join("");
  select.onchange = () => { location.search = `?board=${board}&minutes=${select.value}`; };
}

function layout(dashboard) {
  const main = document.querySelector("main");
  const elements = [];
  for (const panel of dashboard.panels) {
    const element = document.createElement("div");
    element.className = panel.type === "row" ? "row" : "panel";
    place(element, panel.gridPos);
    const title = document.createElement(panel.type === "row" ? "span" : "b");
    title.textContent = panel.title;
    element.append(title, document.createElement("div"));
    element.title = panel.description ?? "";
    main.append(element);
    if (panel.type !== "row") elements.push([panel, element]);
  }
  main.style.height = `${Math.max(...dashboard.panels.map(({ gridPos: { y, h } }) => y + h)) * CELL}px`;
  return elements;
}

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function live() {
  header();
  const dashboard = await (await fetch(`../dashboards/${board}.json`)).json();
  document.title = `${dashboard.title}: roomgate`;
  const elements = layout(dashboard);
  const down = document.querySelector(".down");
  for (;;) {
    try {
      await draw(dashboard, elements);
      down.hidden = true;
    } catch (error) {
      down.textContent = `Prometheus: ${error.message}`;
      down.hidden = false;
    }
    document.body.dataset.drawn = "yes";
    if (asked.has("still")) return;
    await wait(REFRESH_MS);
  }
}

live();
