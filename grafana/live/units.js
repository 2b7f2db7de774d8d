// Numbers as people read them, in the units that panels name.

const short = (value, base = 1000, names = ["", " K", " M", " G", " T"]) => {
  let step = 0;
  while (Math.abs(value) >= base && step < names.length - 1) {
    value /= base;
    step += 1;
  }
  const size = Math.abs(value);
  const places = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2;
  return Number(value.toFixed(places)) + names[step];
};

const TIMES = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "µs"]];
const SUFFIX = { ops: "/s", reqps: "/s", cpm: "/min" };

export function shown(value, unit) {
  if (unit === "percentunit") return `${Number((100 * value).toPrecision(3))} %`;
  if (unit === "bytes") return short(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
  if (unit === "s") {
    const found = TIMES.find(([size]) => Math.abs(value) >= size);
    return found ? `${Number((value / found[0]).toPrecision(3))} ${found[1]}` : "0 s";
  }
  return short(value) + (SUFFIX[unit] ?? "");
}

// At most five round numbers between low and high, as people count in that unit.
export function ticks(low, high, unit) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 3));
  let sizes = [1, 2, 5, 10, 20].map((times) => times * power);
  if (unit === "bytes" && high > 1024) sizes = Array.from({ length: 40 }, (_, n) => 2 ** (n + 10));
  if (unit === "s" && high > 60) sizes = [15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400];
  const size = sizes.find((each) => (high - low) / each <= 4.5) ?? sizes.at(-1);
  const found = [];
  for (let tick = Math.ceil(low / size - 1e-6) * size; tick <= high * (1 + 1e-9); tick += size) found.push(tick);
  return found;
}
