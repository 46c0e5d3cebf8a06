// A heat map over any two sides of the checks, as conformance/report/charts.py draws those that need no script.
const CELL = 54, LINE = 26, LETTER = 7, DIGIT = 8, HEAD = 44;
const WORST = "worst status", ERROR = "largest error/bound";

// The kernels that a version's answers came from, as conformance/report/sides.py has them.
function pathSide(version) {
  const paths = data.checks.map((_, check) => pathOf(version, check));
  const levels = [...new Set(paths)].sort((a, b) => (a < b ? -1 : Number(a > b)));
  return { name: data.path, levels, of: paths.map((path) => levels.indexOf(path)) };
}

function words(x, y, said, kind) {
  return make("svg:text", { x, y, class: kind }, said);
}

function spots(version, down, across) {
  const found = new Map();
  const errors = data.versions[version].figures[0];
  data.checks.forEach((_, check) => {
    const place = `${down.of[check]},${across.of[check]}`;
    const spot = found.get(place) || { counts: data.states.map(() => 0), error: 0 };
    spot.counts[outcome(version, check).state] += 1;
    spot.error = Math.max(spot.error, errors[check]);
    found.set(place, spot);
  });
  return found;
}

function said(spot, measure) {
  const state = spot.counts.findIndex((count) => count > 0);
  const total = spot.counts.reduce((a, b) => a + b);
  const failing = spot.counts.reduce((sum, count, at) => sum + (data.states[at].fails ? count : 0), 0);
  const counts = spot.counts.map((count, at) => count && `${count} ${data.states[at].name}`).filter(Boolean).join(", ");
  const ratio = spot.error ? Number(spot.error.toPrecision(2)).toString() : "no figure";
  const own = data.states[state].sign, share = failing / total;
  if (measure !== ERROR) return { state, text: `${own} ${failing ? `${failing}/${total}` : spot.counts[state]}`, counts, share };
  const short = !spot.error ? own : `${own} ${spot.error < 1e4 ? ratio : spot.error.toExponential(0)}`;
  return { state, text: short, counts: `${counts}; ${ERROR} ${ratio}`, share };
}

function heatMap(version, down, across, measure) {
  const longest = (side) => Math.max(...side.levels.map((level) => level.length));
  const left = LETTER * Math.max(down.name.length, longest(down)) + 16;
  const found = [...spots(version, down, across)].map(([place, spot]) => [place, spot, said(spot, measure)]);
  const cell = Math.max(CELL, LETTER * longest(across) + 8, DIGIT * Math.max(...found.map(([, , { text }]) => text.length)) + 6);
  const width = left + cell * across.levels.length + 2, height = HEAD + LINE * down.levels.length + 2;
  const chart = make("svg:svg", { class: "heat", role: "group", "aria-label": `${down.name} by ${across.name}`, width, height, viewBox: `0 0 ${width} ${height}` });
  chart.append(words(left - 8, HEAD - 8, down.name, "end name"), words(left, 14, across.name, "name"));
  across.levels.forEach((level, at) => chart.append(words(left + cell * at + cell / 2, HEAD - 8, level, "mid")));
  down.levels.forEach((level, at) => chart.append(words(left - 8, HEAD + LINE * at + 18, level, "end")));
  for (const [place, spot, { state, text, counts, share }] of found) {
    const [row, column] = place.split(",").map(Number);
    const query = new URLSearchParams({ version });
    query.append("side", `${down.name}=${down.levels[row]}`);
    query.append("side", `${across.name}=${across.levels[column]}`);
    const where = `${down.name} ${down.levels[row]}, ${across.name} ${across.levels[column]}: ${counts}`;
    const x = left + cell * column, y = HEAD + LINE * row;
    const css = measure === ERROR ? shade(spot.error, state) : cssOf(state);
    chart.append(make("svg:a", { href: "#checks?" + query, "aria-label": where }, make("svg:title", {}, where),
      make("svg:rect", { class: css, x: x + 1, y: y + 1, width: cell - 2, height: LINE - 2, rx: 3 }),
      words(x + cell / 2, y + 17, text, "mid on"),
      make("svg:rect", { class: "share", x: x + 4, y: y + LINE - 6, width: Math.round((cell - 8) * share), height: 3 })));
  }
  return chart;
}

// By how near the limit of 1 an error is; what has no figure keeps the look of its state.
function shade(error, state) {
  if (!error) return cssOf(state);
  if (error > 1) return "s-unexplained";
  return error > 0.8 ? "s-finding" : error > 0.5 ? "s-gap" : "s-pass";
}

function showAxes() {
  const form = document.getElementById("axes");
  const several = data.sides.filter(({ levels }) => levels.length > 1);
  if (several.length < 2) return;
  const names = [...several.map(({ name }) => [name, name]), [data.path, data.path]];
  const chosen = (name, other) => (several.some((side) => side.name === name) ? name : several[other].name);
  form.replaceChildren(
    select("version", "version", data.versions.map(({ name }, at) => [at, name]), data.newest[0]),
    select("down", "down", names, chosen("queries", 0)), select("across", "across", names, chosen("page size", 1)),
    select("show", "measure", [[WORST, WORST], [ERROR, ERROR]], WORST));
  const draw = () => {
    const { version, down, across, measure } = form.elements;
    const side = (box) => several.find(({ name }) => name === box.value) || pathSide(Number(version.value));
    document.getElementById("chosen").replaceChildren(heatMap(Number(version.value), side(down), side(across), measure.value));
  };
  form.addEventListener("change", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  draw();
}
