// A visitor's query, as it is in the page's address, which does not contain the image, and in requests to the service.

export const AWAY = -0.75; // the service's weight for "without"
const PREFIXES = { is: "values", from: "least", to: "most" };

/**
 * Return an empty query. `products` are {id, away}; `values` are the ticked values of each field, as text; `least` and
 * `most` are the limits of number fields; `balance` is the image's weight in percent if there are also words.
 */
export function nothing(catalog = "") {
  return { catalog, text: "", without: "", products: [], values: new Map(), least: new Map(), most: new Map(), balance: 50 };
}

export function readAddress(search) {
  const state = nothing();
  for (const [name, value] of new URLSearchParams(search)) {
    const [, prefix, field] = /^(is|from|to)\.(.*)$/s.exec(name) ?? [];
    if (["text", "without", "catalog"].includes(name)) state[name] = value;
    else if (name === "like" || name === "unlike") state.products.push({ id: value, away: name === "unlike" });
    else if (name === "balance") state.balance = Math.min(90, Math.max(10, Number(value) || 50));
    else if (prefix === "is") state.values.set(field, [...(state.values.get(field) ?? []), value]);
    else if (prefix && value !== "" && Number.isFinite(Number(value))) state[PREFIXES[prefix]].set(field, Number(value));
  }
  return state;
}

export function writeAddress(state, { catalogShown }) {
  const said = new URLSearchParams();
  if (catalogShown) said.append("catalog", state.catalog);
  if (state.text) said.append("text", state.text);
  if (state.without) said.append("without", state.without);
  for (const { id, away } of state.products) said.append(away ? "unlike" : "like", id);
  for (const [field, values] of state.values) for (const value of values) said.append(`is.${field}`, value);
  for (const [field, number] of state.least) said.append(`from.${field}`, number);
  for (const [field, number] of state.most) said.append(`to.${field}`, number);
  if (state.balance !== 50) said.append("balance", state.balance);
  return said.size ? `?${said}` : location.pathname;
}

/** Remove the filters for fields that the catalogue does not have. */
export function keepKnown(state, fields) {
  const known = new Set(fields.map((field) => field.name));
  for (const part of [state.values, state.least, state.most]) {
    for (const name of [...part.keys()]) if (!known.has(name)) part.delete(name);
  }
}

/** Return the filter, or undefined if there is none; conditions on the field `but` are left out. */
export function whereOf(state, fields, but) {
  const kinds = new Map(fields.map(({ name, kind }) => [name, kind]));
  const typed = (field, value) => (kinds.get(field) === "bool" ? value === "true" : value);
  const parts = [...state.values].map(([field, values]) => ({ field, op: "in", value: values.map((value) => typed(field, value)) }));
  for (const [field, value] of state.least) parts.push({ field, op: "gte", value });
  for (const [field, value] of state.most) parts.push({ field, op: "lte", value });
  const kept = parts.filter(({ field }) => field !== but);
  return kept.length ? { and: kept } : undefined;
}

/** Return the fields that have filters. */
export function filtered(state) {
  return [...new Set([...state.values.keys(), ...state.least.keys(), ...state.most.keys()])];
}

export function clearFilter(state, field) {
  for (const part of [state.values, state.least, state.most]) part.delete(field);
}

/** Return the terms of the query, each with a readable name; `image` is in base64, or null. */
export function termsOf(state, image, nameOf) {
  const share = state.text ? state.balance / 50 : 1;
  const terms = [];
  const add = (label, term) => terms.push({ label, term });
  if (state.text) add(`“${state.text}”`, { text: state.text, weight: image ? 2 - share : 1 });
  if (image) add("your image", { image_base64: image, weight: share });
  for (const { id, away } of state.products) {
    add(`${away ? "not like" : "like"} “${nameOf(id)}”`, { product: id, weight: away ? AWAY : 1 });
  }
  if (state.without) add(`without “${state.without}”`, { text: state.without, weight: AWAY });
  return terms;
}
