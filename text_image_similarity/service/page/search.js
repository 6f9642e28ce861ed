// The search page: the query is kept in the address, and every change starts a new search.

import { Cards, headline } from "./search_cards.js";
import { Filters, shownValue, titleOf } from "./search_facets.js";
import { catalogs, match, Images, product, tellClick } from "./search_api.js";
import { clearFilter, filtered, keepKnown, nothing, readAddress, termsOf, whereOf, writeAddress } from "./search_state.js";
import { loosened, Results } from "./search_results.js";
import { QueryImage } from "./search_image.js";
import { el, plain } from "./show.js";
import { lock, whenUnlocked } from "./unlock.js";

const PAGE = 24;
const byId = (id) => document.getElementById(id);
const names = new Map(); // of products, by id
let state = readAddress(location.search);
let served = []; // the catalogues that can be searched
let running = null; // the AbortController of the search in progress

const catalog = () => served.find(({ name }) => name === state.catalog);
const nameOf = (id) => names.get(id) ?? id;

const results = new Results(
  new Cards(new Images(), byId("product"), {
    look: ({ product: { id } }, { matchId }) => catalog().logged && tellClick(matchId, id),
    lead(id, name, away) {
      names.set(id, name);
      state.products = [...state.products.filter((other) => other.id !== id), { id, away }];
      go();
      byId("results").focus();
    },
  }),
  more,
);
const filters = new Filters(byId("facets"), (change) => {
  change(state);
  go();
});
const image = new QueryImage(go, (text) => (byId("alert").textContent = plain(text.slice(0, 200))));

// Searching

/** Run the current query, and keep it in the address. */
function go() {
  if (!catalog()) return;
  takeWords();
  note("pushState");
  show();
  guarded(search);
}

async function search(options) {
  const asked = await queryOf();
  const found = await match(state.catalog, asked.query, options);
  results.start(asked, found);
  await filters.update(state, found.facets, options);
  if (!found.total) await explainNothing(options);
}

async function more() {
  const { asked, next } = results;
  await guarded(async (options) => {
    results.add(await match(state.catalog, { ...asked.query, after: next }, options));
  }, false);
}

/** Run requests, cancelling earlier ones; report failures as text, and clear earlier results unless they are still valid. */
async function guarded(act, clears = true) {
  running?.abort();
  const { signal } = (running = new AbortController());
  byId("alert").textContent = "";
  byId("results").setAttribute("aria-busy", "true");
  try {
    await act({ signal, say: (text) => results.say(text) });
  } catch (problem) {
    if (signal.aborted) return;
    if (clears) results.clear();
    else results.arrange();
    fail(problem);
  }
  if (!signal.aborted) byId("results").removeAttribute("aria-busy");
}

function fail(problem) {
  if (problem.status === 401) lock();
  byId("alert").textContent = plain(sentence(String(problem.message).slice(0, 500)));
}

function takeWords() {
  state.text = byId("text").value.trim();
  state.without = byId("without").value.trim();
}

function note(how) {
  const address = writeAddress(state, { catalogShown: served.length > 1 });
  const kept = { image: image.number };
  const same = address === (location.search || location.pathname) && history.state?.image === kept.image;
  history[same ? "replaceState" : how](kept, "", address);
}

async function queryOf() {
  const terms = termsOf(state, await image.read(), nameOf);
  if (terms.length && !terms.some(({ term }) => term.weight > 0)) {
    throw new Error("Also say what to look for: “without” and “not like” only steer the results away from something.");
  }
  const { fields } = catalog();
  const where = whereOf(state, fields);
  const query = { terms: terms.map(({ term }) => term), top_k: PAGE, facets: filters.counted, ...(where && { where }) };
  return { query, labels: terms.map(({ label }) => label), fields, ...headline(fields) };
}

/** Suggest filters to loosen, each with the number of products that would be found without it. */
async function explainNothing(options) {
  const found = await loosened(state, catalog(), options);
  results.explain(
    found.map(({ field, total }) => ({ text: `${titleOf(field)}: ${filterText(field)}`, total, act: () => drop(() => clearFilter(state, field)) })),
    catalog().products,
  );
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/\.?$/, ".");

// Showing the query

function show() {
  byId("text").value = state.text;
  byId("without").value = state.without;
  byId("weight").value = state.balance;
  byId("weight").setAttribute("aria-valuetext", `${100 - state.balance} % words, ${state.balance} % image`);
  byId("balance").hidden = !(state.text && image.file);
  document.title = state.text ? `${plain(state.text.slice(0, 80))} – Search` : "Search";
  const chips = [
    ...state.products.map((term) => {
      const text = `${term.away ? "not like" : "like"} ${plain(nameOf(term.id).slice(0, 80))}`;
      return chip(text, () => (state.products = state.products.filter((other) => other !== term)));
    }),
    ...filtered(state).map((field) => chip(`${titleOf(field)}: ${filterText(field)}`, () => clearFilter(state, field))),
  ];
  byId("chips").replaceChildren(...chips);
  byId("chips").hidden = !chips.length;
  byId("clear").hidden = !filtered(state).length;
  byId("filter-count").textContent = filtered(state).length ? `(${filtered(state).length})` : "";
}

function chip(text, remove) {
  const cross = el("span", { "aria-hidden": "true" }, " ×");
  const button = el("button", { type: "button" }, el("span", { class: "spoken" }, "Remove: "), el("bdi", {}, text), cross);
  button.addEventListener("click", () => drop(remove));
  return el("li", {}, button);
}

/** Remove a part of the query; the focus moves to its neighbour. */
function drop(remove) {
  const place = [...byId("chips").children].findIndex((each) => each.contains(document.activeElement));
  remove();
  go();
  const left = byId("chips").children;
  (left[Math.min(Math.max(place, 0), left.length - 1)]?.firstChild ?? byId("text")).focus();
}

function filterText(field) {
  const values = state.values.get(field)?.map((value) => shownValue(value).slice(0, 80)).join(" or ");
  const [low, high] = [state.least.get(field), state.most.get(field)];
  return values ?? (high === undefined ? `${low} or more` : low === undefined ? `${high} or less` : `${low} to ${high}`);
}

/** Find the names of products that the address refers to by id. */
async function nameProducts() {
  const unknown = state.products.filter(({ id }) => !names.has(id));
  await Promise.all(unknown.map(({ id }) => product(state.catalog, id).then((found) => names.set(id, found.name || id), () => {})));
}

// Catalogues

async function begin(options) {
  served = await catalogs(options);
  byId("which").hidden = served.length < 2;
  byId("catalog").replaceChildren(...served.map(({ name }) => new Option(name, name)));
  byId("search").hidden = !served.length;
  if (!served.length) throw new Error("This service has no catalogue to search. Start the service with the option --catalog to serve one.");
  await enter(options);
}

/** Show the selected catalogue, and search in it. */
async function enter(options) {
  if (!catalog()) state.catalog = served.find((each) => each.default)?.name ?? served[0].name;
  byId("catalog").value = state.catalog;
  const { fields } = catalog();
  keepKnown(state, fields);
  note("replaceState");
  show();
  if (filters.catalog !== state.catalog) byId("filters").hidden = !(await filters.setUp(state.catalog, fields, options));
  await nameProducts();
  show();
  await search(options);
}

byId("catalog").addEventListener("change", () => {
  takeWords();
  state = { ...nothing(byId("catalog").value), text: state.text, without: state.without, balance: state.balance };
  names.clear();
  note("pushState");
  guarded(enter);
});

// Events

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  go();
});
byId("weight").addEventListener("change", () => {
  state.balance = byId("weight").valueAsNumber;
  go();
});
byId("clear").addEventListener("click", () => drop(() => filtered(state).forEach((field) => clearFilter(state, field))));
window.addEventListener("popstate", (event) => {
  state = readAddress(location.search);
  image.restore(event.state?.image ?? -1);
  if (served.length) guarded(enter);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the page's address is for the query
  byId("results").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  event.preventDefault();
  byId("text").focus();
  byId("text").select();
});

// On a phone, the filters are collapsed; otherwise, they are next to the products.
const narrow = matchMedia("(max-width: 48rem)");
const arrange = () => (byId("filters").open = !narrow.matches);
narrow.addEventListener("change", arrange);
arrange();

whenUnlocked(begin, () => byId("text").focus());
guarded(begin);
