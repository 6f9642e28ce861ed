// The search page's requests, sent as in service.js, and repeated once if the service is busy.

import { ask, askImage, pause } from "./service.js";

const BUSY = new Set([429, 503]);
const LONGEST_WAIT_S = 30;
const MOST_FIELDS = 32; // in a request for facets
const under = (catalog, rest) => `v1/catalogs/${encodeURIComponent(catalog)}/${rest}`;

/** Send a request, and send it once more if the service is busy; `say(text)` is called before the wait. */
async function askTwice(path, { body, signal, say = () => {} } = {}) {
  try {
    return await ask(path, { body, signal });
  } catch (problem) {
    if (!BUSY.has(problem.status)) throw problem;
    const waitS = Math.min(Math.max(Math.ceil(problem.waitS), 1), LONGEST_WAIT_S);
    say(`The service is busy. Trying again in ${waitS} s.`);
    await pause(waitS * 1000, signal);
    return ask(path, { body, signal });
  }
}

export async function catalogs(options) {
  return (await askTwice("v1/catalogs", options)).data;
}

/** Send one query, and return its results; an error of the query is thrown like that of a failed request. */
export async function match(catalog, query, options) {
  const { results } = await askTwice(under(catalog, "match"), { ...options, body: JSON.stringify({ queries: [query] }) });
  if (results[0].error) throw Object.assign(new Error(results[0].error.detail), results[0].error);
  return results[0];
}

/** Return {total, facets} of the products that pass a filter, with a maximum number of values per field. */
export async function facets(catalog, fields, where, most, options) {
  const asked = new URLSearchParams(fields.slice(0, MOST_FIELDS).map((field) => ["field", field]));
  asked.append("most", most);
  if (where) asked.append("where", JSON.stringify(where));
  return askTwice(under(catalog, `facets?${asked}`), options);
}

export async function product(catalog, id) {
  return ask(under(catalog, `products/${encodeURIComponent(id)}`));
}

/** Report that a visitor has looked at a product. It does not matter if the log no longer has the match. */
export function tellClick(matchId, id) {
  const body = JSON.stringify({ kind: "click", product: id });
  ask(`v1/matches/${encodeURIComponent(matchId)}/events`, { body }).catch(() => {});
}

/** The images of products, which are fetched once, with the key, and given out as blob: addresses. */
export class Images {
  constructor() {
    this.known = new Map();
  }

  /** Return an image's address; `path` is a path of the service, from its root. */
  get(path) {
    if (!this.known.has(path)) {
      const found = askImage(path.replace(/^\/+/, "")).then((blob) => URL.createObjectURL(blob));
      found.catch(() => {}); // reported where it is awaited
      this.known.set(path, found);
    }
    return this.known.get(path);
  }

  /** Forget all images except these. */
  keep(paths) {
    const wanted = new Set(paths);
    for (const [path, found] of this.known) {
      if (wanted.has(path)) continue;
      this.known.delete(path);
      found.then(URL.revokeObjectURL, () => {});
    }
  }
}
