// All checks: filtered by what the address says, failures first.
const STEP = 100;
let shown = STEP;

// The worst in the newest versions, then the worst in any.
function gravity(check) {
  const states = data.versions.map((_, version) => outcome(version, check).state);
  const now = Math.min(...data.newest.map((version) => states[version]));
  return now * data.states.length + Math.min(...states);
}
const inOrder = data.checks.map((_, at) => at);
const gravities = inOrder.map(gravity);
inOrder.sort((a, b) => gravities[a] - gravities[b] || a - b);

function pathOf(version, check) {
  return outcome(version, check).path || data.noAnswer;
}

// Of `page size=16`: has a check that level, in some of the versions? The path alone is not the check's own.
function sideOf(words, versions) {
  const cut = words.indexOf("=");
  const name = words.slice(0, cut), wanted = words.slice(cut + 1);
  if (name === data.path) return (check) => versions.some((version) => pathOf(version, check) === wanted);
  const side = data.sides.find((one) => one.name === name);
  const level = side ? side.levels.indexOf(wanted) : -1;
  return (check) => level >= 0 && side.of[check] === level;
}

// The checks that a query like `q=p16 bf16&version=2&state=failing&feature=softcap&side=page size=16` asks for.
function matching(query) {
  const words = (query.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  const versions = query.get("version") ? [Number(query.get("version"))] : data.versions.map((_, at) => at);
  const feature = data.features.find(({ name }) => name === query.get("feature"));
  const state = query.get("state") || "";
  const sides = query.getAll("side").map((words) => sideOf(words, versions));
  const fits = (version, check) => {
    const own = data.states[outcome(version, check).state];
    return state === "failing" ? own.fails : own.name === state;
  };
  return inOrder.filter((check) =>
    words.every((word) => data.checks[check].toLowerCase().includes(word)) &&
    (!feature || feature.has(check)) &&
    sides.every((has) => has(check)) &&
    (!state || versions.some((version) => fits(version, check))));
}

function showChecks(query) {
  const some = matching(query);
  const list = document.getElementById("list");
  const versions = query.get("version") ? [Number(query.get("version"))] : data.versions.map((_, at) => at);
  list.replaceChildren(...some.slice(0, shown).map((check) =>
    make("li", {}, make("span", {}, ...versions.map((version) => sign(version, check))), caseLink(check))));
  document.getElementById("found").textContent =
    `${some.length} of ${data.checks.length} checks` + (versions.length > 1 ? `; signs: ${data.versions.map((v) => v.name).join(", ")}` : "");
  document.getElementById("more").hidden = some.length <= shown;
}

function showFilters(query) {
  const form = document.getElementById("filters");
  const search = make("input", { type: "search", name: "q", placeholder: "words of an id: noncausal p16 h32:8" });
  search.value = query.get("q") || "";
  const sides = query.getAll("side").map((words) => {
    const button = make("button", { type: "button", "aria-label": `no longer only ${words}` }, `${words} \u00d7`);
    button.addEventListener("click", () => {
      const left = new URLSearchParams(query);
      left.delete("side");
      query.getAll("side").filter((other) => other !== words).forEach((other) => left.append("side", other));
      location.hash = "checks?" + left;
    });
    return button;
  });
  form.replaceChildren(
    make("label", {}, "search", search),
    select("version", "version", [["", "any"], ...data.versions.map(({ name }, at) => [at, name])], query.get("version") || ""),
    select("came to", "state", [["", "anything"], ["failing", "failing"], ...data.states.map(({ name }) => [name, name])], query.get("state") || ""),
    select("feature", "feature", [["", "any"], ...data.features.map(({ name }) => [name, name])], query.get("feature") || ""),
    ...sides);
}

function asked() {
  const form = document.getElementById("filters");
  const query = new URLSearchParams();
  for (const { name, value } of form.elements) if (name && value) query.append(name, value);
  currentQuery().getAll("side").forEach((side) => query.append("side", side));
  return query;
}

function currentQuery() {
  const [place, query] = location.hash.slice(1).split(/\?(.*)/s);
  return new URLSearchParams(place === "checks" ? query || "" : "");
}
