// The data of the page, and what every other part of the script is made of. Text of records is only ever `textContent`.
const data = JSON.parse(document.getElementById("data").textContent);
const numberOf = new Map(data.checks.map((id, at) => [id, at]));
const SVG = "http://www.w3.org/2000/svg";
const PASSED = data.states.findIndex((state) => state.name === "passed");

for (const feature of data.features) {
  const bytes = Uint8Array.from(atob(feature.checks), (letter) => letter.charCodeAt(0));
  feature.has = (check) => (bytes[check >> 3] >> (check & 7)) & 1;
}

function make(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function outcome(version, check) {
  const [state, word, note, path, reason] = data.outcomes[data.versions[version].outcome[check]];
  return { state, word, note, path, reason };
}

function cssOf(state) {
  const name = data.states[state].name;
  const of = { known: "finding", expected: "gap", "not run": "not_run", passed: "pass" };
  return "s-" + (of[name] || name);
}

function sign(version, check) {
  const { state, word } = outcome(version, check);
  const { name, sign } = data.states[state];
  const said = `${data.versions[version].name}: ${name}` + (name === "passed" ? "" : `, ${word}`);
  return make("span", { class: `sign ${cssOf(state)}`, title: said, role: "img", "aria-label": said }, sign);
}

function select(label, name, options, chosen) {
  const box = make("select", { name });
  for (const [value, words] of options) {
    const option = make("option", { value }, words);
    option.selected = String(value) === String(chosen);
    box.append(option);
  }
  return make("label", {}, label, box);
}

function caseLink(check) {
  return make("a", { href: "#case=" + encodeURIComponent(data.checks[check]) }, make("code", {}, data.checks[check]));
}
