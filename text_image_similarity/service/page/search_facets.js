// The filters next to the products: checkboxes with counts, and the limits of number fields.

import { el, plain } from "./show.js";
import { facets } from "./search_api.js";
import { whereOf } from "./search_state.js";

const MOST_VALUES = 30; // fields with more values get no checkboxes
const AT_ONCE = 8; // values; the others are shown on request
const grouped = (number) => number.toLocaleString("en");

/** Return a field's name as a title: `in_stock` as "In stock". */
export function titleOf(name) {
  const spaced = plain(name.replaceAll("_", " ").trim() || name);
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}

export function shownValue(value) {
  const words = { true: "Yes", false: "No" };
  return Object.hasOwn(words, value) ? words[value] : plain(String(value));
}

export class Filters {
  /** `changed(change)` is called with a function that applies the visitor's change to the state. */
  constructor(root, changed) {
    Object.assign(this, { root, changed, fields: [], boxes: new Map(), ends: new Map() });
    root.addEventListener("submit", (event) => event.preventDefault());
  }

  /** Show the fields of a catalogue that can be filtered on. */
  async setUp(catalog, fields, options) {
    const asked = fields.filter(({ kind }) => kind !== "date").map(({ name }) => name);
    const found = asked.length ? (await facets(catalog, asked, undefined, MOST_VALUES + 1, options)).facets : {};
    Object.assign(this, { catalog, fields, boxes: new Map(), ends: new Map() });
    const parts = fields.flatMap(({ name, kind }) => {
      if (!Object.hasOwn(found, name)) return [];
      if (kind === "number") return found[name].min === found[name].max ? [] : [this.range(name, found[name])];
      const values = found[name].values;
      return values.length > 1 && values.length <= MOST_VALUES ? [this.ticks(name, values)] : [];
    });
    this.root.replaceChildren(...parts);
    return parts.length > 0;
  }

  ticks(name, values) {
    const boxes = new Map();
    const lines = values.map(({ value }) => {
      const box = el("input", { type: "checkbox" });
      const count = el("span", { class: "count" });
      box.addEventListener("change", () => this.changed((state) => tick(state, name, String(value), box.checked)));
      boxes.set(String(value), { box, count });
      return el("label", {}, box, el("bdi", {}, shownValue(value)), count);
    });
    this.boxes.set(name, boxes);
    const rest = lines.length > AT_ONCE + 1 ? lines.splice(AT_ONCE) : [];
    if (rest.length) lines.push(el("details", {}, el("summary", {}, `${rest.length} more`), ...rest));
    return el("fieldset", {}, el("legend", {}, titleOf(name)), el("div", { class: "ticks" }, ...lines));
  }

  range(name, { min, max }) {
    const [low, high] = [min, max].map((bound, i) => {
      const side = i ? "most" : "least";
      const attributes = { type: "number", step: "any", inputmode: "decimal", placeholder: String(bound), min: String(min), max: String(max) };
      const input = el("input", { ...attributes, "aria-label": `${titleOf(name)}, at ${side}` });
      input.addEventListener("change", () => this.changed((state) => end(state[side], name, input)));
      return input;
    });
    this.ends.set(name, { least: low, most: high });
    return el("fieldset", {}, el("legend", {}, titleOf(name)), el("div", { class: "ends" }, low, el("span", { "aria-hidden": "true" }, "to"), high));
  }

  /** Fields whose values a response should count. */
  get counted() {
    return [...this.boxes.keys()];
  }

  /** Show what is ticked; a field's counts ignore its own ticks, so each shows how many products its value would find. */
  async update(state, counts, options) {
    for (const [name, { least, most }] of this.ends) {
      least.value = state.least.get(name) ?? "";
      most.value = state.most.get(name) ?? "";
    }
    for (const [name, boxes] of this.boxes) {
      for (const [value, { box }] of boxes) box.checked = state.values.get(name)?.includes(value) ?? false;
    }
    const ticked = this.counted.filter((name) => state.values.has(name));
    this.count(this.counted.filter((name) => !ticked.includes(name)), counts);
    const others = await Promise.all(
      ticked.map((name) => facets(this.catalog, [name], whereOf(state, this.fields, name), MOST_VALUES, options)),
    );
    ticked.forEach((name, i) => this.count([name], { [name]: others[i].facets[name].values }));
  }

  count(names, counts) {
    for (const name of names) {
      const found = new Map((Object.hasOwn(counts, name) ? counts[name] : []).map(({ value, count }) => [String(value), count]));
      for (const [value, { box, count }] of this.boxes.get(name)) {
        const number = found.get(value) ?? 0;
        count.textContent = grouped(number);
        box.parentElement.classList.toggle("zero", !number);
      }
    }
  }
}

function tick(state, name, value, on) {
  const rest = (state.values.get(name) ?? []).filter((other) => other !== value);
  const values = on ? [...rest, value] : rest;
  if (values.length) state.values.set(name, values);
  else state.values.delete(name);
}

function end(ends, name, input) {
  if (input.value === "" || !Number.isFinite(input.valueAsNumber)) ends.delete(name);
  else ends.set(name, input.valueAsNumber);
}
