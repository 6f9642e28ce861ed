// The results of a search: products in two grids, their number, and advice if there are none.

import { facets } from "./search_api.js";
import { filtered, whereOf } from "./search_state.js";
import { el, plain } from "./show.js";

// A match is weak if its probability, which needs a calibration (the catalogue's or the model's), is below one half, or if its
// score is not positive or less than this share of the best one. Models differ too much for a fixed limit on the similarity.
const LIKELY = 0.5;
const SHARE_OF_BEST = 0.6;
const byId = (id) => document.getElementById(id);
const grouped = (number) => number.toLocaleString("en");
const productsOf = (number) => `${grouped(number)} product${number === 1 ? "" : "s"}`;

export class Results {
  /** `more()` requests the next page and adds it. */
  constructor(cards, more) {
    this.cards = cards;
    byId("more").addEventListener("click", () => this.onward(more));
    byId("show-weaker").addEventListener("click", () => {
      this.weakShown = true;
      this.arrange();
      this.focus(byId("weak").firstChild);
    });
    this.clear();
  }

  clear() {
    Object.assign(this, { asked: null, next: null, total: null, best: 0, weakShown: false, thumbnails: [] });
    this.cards.clear();
    for (const list of [byId("strong"), byId("weak")]) list.replaceChildren();
    byId("none").hidden = true;
    this.arrange();
    this.say("");
  }

  say(text) {
    byId("count").textContent = text;
  }

  /** Show the first page of results. */
  start(asked, found) {
    this.clear();
    Object.assign(this, { asked, total: found.total, best: found.matches[0]?.score ?? 0 });
    this.add(found);
    this.cards.images.keep(this.thumbnails);
  }

  add({ matches, next, match_id }) {
    const shown = { ...this.asked, best: this.best, matchId: match_id };
    for (const match of matches) {
      const card = this.cards.card(match, shown);
      byId(this.isWeak(match) ? "weak" : "strong").append(card);
      if (match.thumbnail) this.thumbnails.push(match.thumbnail);
    }
    this.next = next;
    this.arrange();
  }

  isWeak({ score, probability }) {
    if (score === null) return false; // the query is empty
    return (probability !== null && probability < LIKELY) || score < SHARE_OF_BEST * this.best || score <= 0;
  }

  arrange() {
    const [strong, weak] = [byId("strong").children.length, byId("weak").children.length];
    const folded = weak > 0 && !this.weakShown;
    byId("weaker").hidden = !weak || folded;
    byId("fold").hidden = !folded;
    byId("on").hidden = folded || !this.next;
    if (this.total) this.say(this.summary(strong, weak, folded));
  }

  summary(strong, weak, folded) {
    if (!strong && folded) return `No good match among ${productsOf(this.total)}.`;
    if (folded) return `${grouped(strong)} of ${productsOf(this.total)} match${strong === 1 ? "es" : ""} well.`;
    if (!this.next) return `${productsOf(this.total)}.`;
    return `${grouped(strong + weak)} of ${productsOf(this.total)} shown.`;
  }

  /** Show the next page, and move the focus to it. */
  async onward(more) {
    const seen = new Set(document.querySelectorAll(".product"));
    await more();
    this.focus([...document.querySelectorAll(".product")].find((card) => !seen.has(card)));
  }

  focus(card) {
    card?.querySelector(".name").focus();
  }

  /** Explain why there are no results, and offer filters to loosen: {text, total, act}. */
  explain(offers, products) {
    const useful = offers.filter(({ total }) => total > 0);
    const buttons = useful.map(({ text, total, act }) => {
      const button = el("button", { type: "button", class: "quiet" }, el("bdi", {}, `Without “${plain(text)}”`), `: ${productsOf(total)}`);
      button.addEventListener("click", act);
      return el("li", {}, button);
    });
    let advice = "No single filter is the cause. Clear several of them.";
    if (!products) advice = "The catalogue is empty.";
    else if (!offers.length) advice = "No other product in the catalogue fits this search.";
    else if (useful.length) advice = "Loosen a filter:";
    byId("none").replaceChildren(el("h2", {}, "No products found"), el("p", {}, advice), el("ul", {}, ...buttons));
    byId("none").hidden = false;
    this.say(offers.length ? "No product passes all these filters." : "No products.");
  }
}

/** Return how many products would be found without each of the filters: [{field, total}], largest total first. */
export async function loosened(state, catalog, options) {
  const counts = filtered(state).map(async (field) => {
    const { total } = await facets(catalog.name, [field], whereOf(state, catalog.fields, field), 1, options);
    return { field, total };
  });
  return (await Promise.all(counts)).sort((one, other) => other.total - one.total);
}
