// One check in full: what it is, what it came to in each version, how it failed, and the commands.
function copyable(words) {
  const code = make("code", { class: "command" }, words);
  const button = make("button", { type: "button", class: "copy" }, "copy");
  button.addEventListener("click", () => {
    const told = () => { button.textContent = "copied"; };
    getSelection().selectAllChildren(code);
    if (navigator.clipboard) navigator.clipboard.writeText(words).then(told, () => document.execCommand("copy") && told());
    else if (document.execCommand("copy")) told();
  });
  return make("div", {}, code, button);
}

function described(check) {
  const id = data.checks[check];
  const [, queries, keys] = id.match(/-q([0-9x+]+)-.*-kv([0-9x+]+)-/) || [];
  const pairs = data.sides.map(({ name, levels, of }) => [name, levels[of[check]]]);
  if (queries) pairs.push(["queries of each sequence", queries], ["keys of each sequence", keys]);
  const heads = id.match(/-h(\d+):(\d+)-/);
  if (heads) pairs.push(["query heads", heads[1]]);
  pairs.push(...(data.more[check] || []).map((at) => data.moreOf[at]));
  const relation = id.includes("/") && data.relations[id.split("/")[0]];
  if (relation) pairs.push(["compared with", relation]);
  const list = make("dl", { class: "described" });
  for (const [name, value] of pairs) list.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  return list;
}

function inVersions(check) {
  const head = ["version", "came to", ...data.figures, "kernel path", "why"];
  const rows = data.versions.map((version, at) => {
    const { state, word, note, path, reason } = outcome(at, check);
    const figures = version.figures.map((some) => make("td", { class: "number" }, some[check] ? String(some[check]) : ""));
    const why = make("td", {}, note ? make("a", { href: `#note-${note}` }, `[${note}] `) : "", note ? data.notes[note - 1] : reason);
    const what = state === PASSED ? "passed" : `${data.states[state].name}: ${word}`;
    return make("tr", {}, make("th", { scope: "row" }, version.name), make("td", {}, sign(at, check), ` ${what}`), ...figures, make("td", {}, path), why);
  });
  const heading = make("tr", {}, ...head.map((words) => make("th", { scope: "col" }, words)));
  return make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "By version" },
    make("table", {}, make("thead", {}, heading), make("tbody", {}, ...rows)));
}

function showCase(check) {
  const id = data.checks[check];
  const back = make("a", { href: "#checks?" + lastQuery }, "Back to all checks");
  const features = data.features.filter((feature) => feature.has(check));
  const names = make("p", {}, "Features: ");
  features.forEach(({ name, meaning }, at) => names.append(at ? ", " : "", make("a", { title: meaning, href: "#checks?" + new URLSearchParams({ feature: name }) }, name)));
  const parts = [make("p", {}, back), make("h2", { tabindex: "-1" }, id), described(check), names, make("h3", {}, "By version"), inVersions(check)];
  if (check in data.failures) {
    const texts = document.querySelector(`#f${data.failures[check]} .texts`).cloneNode(true);
    parts.push(make("h3", {}, "How it fails"), texts);
  }
  parts.push(make("h3", {}, "Show it"), copyable(`python -m conformance show ${id}`), make("h3", {}, "Run it"));
  for (const { name, run } of data.versions) parts.push(make("p", {}, name), copyable(`${run} ${id}`));
  const section = document.getElementById("case");
  section.replaceChildren(...parts);
  document.getElementById("whole").hidden = true;
  section.hidden = false;
  section.scrollIntoView();
  section.querySelector("h2").focus({ preventScroll: true });
}

function leaveCase() {
  document.getElementById("case").hidden = true;
  document.getElementById("whole").hidden = false;
}
