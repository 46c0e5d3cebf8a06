// What the page does with its address: a case, a filtered list, or a place in the page.
let lastQuery = "";

function route() {
  const place = location.hash.slice(1);
  if (place.startsWith("case=")) {
    const check = numberOf.get(decodeURIComponent(place.slice("case=".length)));
    if (check !== undefined) return showCase(check);
  }
  leaveCase();
  if (place === "checks" || place.startsWith("checks?")) {
    const query = currentQuery();
    lastQuery = String(query);
    shown = STEP;
    showFilters(query);
    showChecks(query);
    document.getElementById("checks").scrollIntoView();
    return undefined;
  }
  const target = place && document.getElementById(place);
  if (target instanceof HTMLDetailsElement) target.open = true;
  if (target) target.scrollIntoView();
  return undefined;
}

function became(old, newer, check) {
  return `${outcome(old, check).word} \u2192 ${outcome(newer, check).word}`;
}

// The figures that grew; what a kernel needs of registers and LDS is not in this page.
function drift(old, newer, check) {
  const figure = (version, at) => data.versions[version].figures[at][check];
  return data.figures.map((name, at) => [name, figure(old, at), figure(newer, at)]).filter(([, was, now]) => now > was)
    .map(([name, was, now]) => `${name} ${was} \u2192 ${now}`).join("; ") || "its kernels need more";
}

function showPair(pair) {
  const { old, new: newer, verdict, changes, counted } = pair;
  const parts = [make("h3", { tabindex: "-1" }, `From ${data.versions[old].name} to ${data.versions[newer].name}`), make("p", {}, verdict)];
  for (const [change, some] of Object.entries(changes)) {
    const items = some.map((check) => make("li", {}, caseLink(check), ` ${change === "DRIFT" ? drift(old, newer, check) : became(old, newer, check)}`));
    const details = make("details", {}, make("summary", {}, `${change}: ${some.length}`), make("ul", { class: "ids" }, ...items));
    details.open = change === "REGRESSED";
    parts.push(details);
  }
  for (const [change, count] of Object.entries(counted)) parts.push(make("p", {}, `${change}: ${count}`));
  const place = document.getElementById("pair");
  place.replaceChildren(...parts);
  place.querySelector("h3").focus();
}

// Rows of the table of features: all, those in which something fails, or those in which versions differ.
function showRows(which) {
  for (const row of document.querySelectorAll(".matrix tbody tr")) {
    const looks = [...row.querySelectorAll("td[class]")].map((cell) => cell.className);
    const fails = looks.some((look) => ["s-unexplained", "s-finding", "s-gap"].includes(look));
    row.hidden = (which === "failing" && !fails) || (which === "differing" && new Set(looks).size < 2);
  }
}

function bringToLife() {
  document.documentElement.classList.add("live");
  for (const node of document.querySelectorAll("[data-checks]")) node.setAttribute("href", "#checks?" + node.dataset.checks);
  for (const node of document.querySelectorAll("[data-case]")) {
    const link = make("a", { href: "#case=" + encodeURIComponent(node.dataset.case) });
    node.replaceWith(link);
    link.append(node);
  }
  for (const node of document.querySelectorAll("[data-pair]")) {
    const [old, newer] = node.dataset.pair.split(",").map(Number);
    const pair = data.pairs.find((one) => one.old === old && one.new === newer);
    const button = make("button", { type: "button", class: "link" }, node.textContent);
    button.addEventListener("click", () => showPair(pair));
    node.replaceWith(button);
  }
  const filters = document.getElementById("filters");
  const refilter = () => {
    const query = asked();
    lastQuery = String(query);
    shown = STEP;
    history.replaceState(null, "", "#checks?" + query);
    showChecks(query);
  };
  filters.addEventListener("input", refilter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("more").addEventListener("click", () => { shown += 5 * STEP; showChecks(currentQuery()); });
  const rows = document.getElementById("rows");
  rows.append(select("rows", "rows", [["", "all"], ["failing", "in which something fails"], ["differing", "in which versions differ"]], ""));
  rows.addEventListener("change", () => showRows(rows.elements.rows.value));
  const query = currentQuery();
  showFilters(query);
  showChecks(query);
  showAxes();
  addEventListener("hashchange", route);
  route();
}

bringToLife();
