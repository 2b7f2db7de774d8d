/** What a run says in the end: tables for the terminal, HTML for people, JSON for programs. */

/** k6's own figures that say something here. */
const SHOWN_OF_K6 = new Set(['http_req_failed', 'http_reqs', 'data_received', 'data_sent']);
const K6 = /^(http_req|iteration|vus|ws_|data_|dropped_|checks)/;
const TREND = ['count', 'med', 'p(95)', 'p(99)', 'p(99.9)', 'max'];

/** @returns k6's `handleSummary` of a script; files go to the folder OUT, if it is set */
export const summary = (script, run) => (data) => {
  const report = reportOf(script, run, data);
  const out = __ENV.OUT;
  return {
    stdout: text(report),
    ...(out && {
      [`${out}/${script}.json`]: `${JSON.stringify(report, null, 2)}\n`,
      [`${out}/${script}.html`]: html(report),
    }),
  };
};

/** What the JSON has: the figures of each metric, and what became of each threshold. */
function reportOf(script, run, { metrics, state }) {
  const thresholds = Object.entries(metrics).sort().flatMap(([metric, { thresholds: bounds = {} }]) =>
    Object.entries(bounds).map(([bound, { ok }]) => ({ metric, bound, ok })));
  const shown = Object.entries(metrics).sort().filter(([name]) => SHOWN_OF_K6.has(name) || !K6.test(name));
  return {
    script,
    passed: thresholds.every(({ ok }) => ok),
    at: new Date().toISOString(),
    duration_ms: Math.round(state.testRunDurationMs),
    settings: run,
    thresholds,
    figures: Object.fromEntries(shown.map(([name, { type, values }]) => [name, { type, ...values }])),
  };
}

/** The same three tables for the terminal and the page. */
function tables({ thresholds, figures }) {
  const of = (type) => Object.entries(figures).filter(([, figure]) => figure.type === type);
  return [
    { title: 'ms', head: ['', ...TREND], rows: of('trend').map(([name, figure]) => [name, ...TREND.map((key) => short(figure[key]))]) },
    {
      title: 'counts',
      head: ['', 'count', 'a second'],
      rows: [
        ...of('counter').map(([name, { count, rate }]) => [name, String(count), short(rate)]),
        ...of('rate').map(([name, { rate, passes, fails }]) => [name, `${passes} of ${passes + fails}`, `${short(rate * 100)} %`]),
      ],
    },
    { title: 'thresholds', head: ['', 'bound', ''], rows: thresholds.map(({ metric, bound, ok }) => [metric, bound, ok ? 'held' : 'CROSSED']) },
  ];
}

const verdict = ({ script, passed, duration_ms: ms }) => `${script}: ${passed ? 'passed' : 'FAILED'} in ${(ms / 1000).toFixed(1)} s`;

/** Above this k6 is what was measured. */
const LATE_MS = 50;

function caveat({ figures }) {
  const lateMs = figures.k6_late_ms?.['p(95)'] ?? 0;
  return lateMs > LATE_MS ? `k6 itself handled messages late (p95 ${short(lateMs)} ms): fewer people, or another machine for k6\n` : '';
}

function text(report) {
  const blocks = tables(report).map(({ title, head, rows }) => {
    const all = [[title, ...head.slice(1)], ...rows];
    const widths = head.map((_, i) => Math.max(...all.map((row) => row[i].length)));
    return all.map((row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i] + 2))).join('')).join('\n');
  });
  return `\n${blocks.join('\n\n')}\n\n${verdict(report)}\n${caveat(report)}`;
}

function html(report) {
  const row = (cells, tag) => `<tr${cells.includes('CROSSED') ? ' class="crossed"' : ''}>${cells.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join('')}</tr>`;
  const blocks = tables(report).map(({ title, head, rows }) =>
    `<h2>${escaped(title)}</h2><table>${row(head, 'th')}${rows.map((cells) => row(cells, 'td')).join('')}</table>`);
  const settings = Object.entries(report.settings).map(([key, value]) => `${key} ${value}`).join(' · ');
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escaped(verdict(report))}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1d2330 }
table { border-collapse: collapse; width: 100% } td, th { padding: .15rem .5rem; text-align: right; border-bottom: 1px solid #e4e7ee }
td:first-child { text-align: left; font-family: ui-monospace, monospace } .crossed td { color: #b3261e; font-weight: 600 }
small { color: #667 }
</style>
<h1>${escaped(verdict(report))}</h1><small>${escaped(report.at)} · ${escaped(settings)}</small><p>${escaped(caveat(report))}</p>${blocks.join('')}</html>\n`;
}

function short(value) {
  if (value === undefined || value === null) return '';
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}

const escaped = (value) => String(value).replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]);
