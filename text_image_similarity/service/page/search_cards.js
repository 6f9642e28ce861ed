// Products in a grid, and one product enlarged. The shop's texts are put on the page as text, never as markup.

import { el, fold, plain } from "./show.js";
import { shownValue, titleOf } from "./search_facets.js";

const CATEGORY = /categ|kategor|department/i;
const PRICE = /price|preis|prix|precio|prezzo|cost/i;
const signed = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;

/** Return the names of the fields that a card shows below a product's name: its category and its price. */
export function headline(fields) {
  const pick = (kind, pattern) => {
    const some = fields.filter((field) => field.kind === kind).map(({ name }) => name);
    return some.find((name) => pattern.test(name)) ?? some[0];
  };
  return { category: pick("text", CATEGORY), price: pick("number", PRICE) };
}

function shownField(name, value) {
  if (typeof value !== "number") return [value].flat().map(shownValue).join(", ");
  return value.toLocaleString("en", PRICE.test(name) ? { minimumFractionDigits: 2, maximumFractionDigits: 2 } : {});
}

export class Cards {
  /**
   * `images` is an Images; `look(match, shown)` is called when a visitor looks at a product, `lead(id, name, away)` when
   * products like it, or unlike it, are wanted.
   */
  constructor(images, dialog, { look, lead }) {
    Object.assign(this, { images, dialog, look, lead });
    this.paths = new WeakMap();
    this.watcher = new IntersectionObserver((seen) => this.load(seen), { rootMargin: "400px" });
  }

  /** Stop waiting for images. */
  clear() {
    this.watcher.disconnect();
  }

  /** Return a card; `shown` is {fields, category, price, labels, best, matchId}, where `labels` name the terms. */
  card(match, shown) {
    const name = el("button", { type: "button", class: "name" }, el("bdi", {}, plain(match.product.name || match.product.id)));
    const shot = this.shot(match.thumbnail);
    for (const part of [name, shot]) part.addEventListener("click", () => this.open(match, shown));
    return el(
      "li",
      { class: "product" },
      shot,
      el("h3", {}, name),
      this.facts(match.product, shown),
      ...(match.score === null ? [] : [score(match, shown)]),
      this.leads(match),
      ...(match.score === null ? [] : [el("details", { class: "because" }, el("summary", {}, "Why"), ...reasons(match, shown))]),
    );
  }

  facts({ fields }, { category, price }) {
    const parts = [];
    if (fields[category] != null) parts.push(el("bdi", {}, shownField(category, fields[category])));
    if (fields[price] != null) parts.push(el("span", { class: "price" }, el("span", { class: "spoken" }, `${titleOf(price)} `), shownField(price, fields[price])));
    return el("p", { class: "facts" }, ...parts);
  }

  leads({ score: found, product: { id, name } }) {
    const button = (text, away) => {
      const made = el("button", { type: "button", class: "quiet" }, text, el("span", { class: "spoken" }, `: ${plain(name || id)}`));
      made.addEventListener("click", () => this.lead(id, name || id, away));
      return made;
    };
    // Without a query, "Not like this" would have no meaning.
    return el("p", { class: "leads" }, button("More like this", false), ...(found === null ? [] : [button("Not like this", true)]));
  }

  shot(path) {
    if (!path) return el("div", { class: "shot" }, el("span", {}, "no image"));
    const image = el("img", { alt: "", decoding: "async" });
    const shot = el("div", { class: "shot" }, image);
    this.paths.set(shot, path);
    this.watcher.observe(shot);
    return shot;
  }

  load(seen) {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      this.watcher.unobserve(target);
      this.fill(target, this.paths.get(target));
    }
  }

  fill(shot, path) {
    const image = shot.firstChild;
    const none = () => shot.replaceChildren(el("span", {}, "no image"));
    image.addEventListener("error", none);
    this.images.get(path).then((address) => (image.src = address), none);
  }

  /** Show an enlarged product. */
  open(match, shown) {
    const { product, thumbnail } = match;
    const shot = el("div", { class: "shot large" }, el("img", { alt: "" }));
    if (thumbnail) this.fill(shot, thumbnail.replace("size=256", "size=512"));
    else shot.replaceChildren(el("span", {}, "no image"));
    const known = shown.fields.filter(({ name }) => Object.hasOwn(product.fields, name) && product.fields[name] !== null);
    const fields = known.map(({ name }) => el("div", {}, el("dt", {}, titleOf(name)), el("dd", {}, el("bdi", {}, shownField(name, product.fields[name])))));
    const leads = this.leads(match);
    leads.addEventListener("click", ({ target }) => target.closest("button") && this.dialog.close(), true); // before the search
    this.dialog.querySelector("#product-body").replaceChildren(
      shot,
      el(
        "div",
        {},
        el("h2", { id: "product-name" }, el("bdi", {}, plain(product.name || product.id))),
        el("div", { class: "note" }, fold(product.description)),
        el("dl", {}, ...fields, el("div", {}, el("dt", {}, "Id"), el("dd", {}, el("bdi", {}, plain(product.id))))),
        ...(match.score === null ? [] : [score(match, shown), ...reasons(match, shown)]),
        leads,
      ),
    );
    this.dialog.showModal();
    this.look(match, shown);
  }
}

function score(match, { best }) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span"));
  bar.style.setProperty("--score", Math.max(0, match.score) / Math.max(best, 1e-6));
  const number = el("data", { value: String(match.score) }, match.score.toFixed(2).replace("-", "−"));
  return el("p", { class: "score" }, el("span", { class: "spoken" }, "Score "), number, bar);
}

/** Return elements that show the contributions of the terms, which add up to the score, and the probability. */
function reasons({ why, score: sum, probability }, { labels }) {
  const lines = why.map(({ term, contribution }, i) =>
    el("li", { class: contribution < 0 ? "away" : "" }, el("bdi", {}, plain((labels[i] ?? term).slice(0, 120))), " ", el("b", {}, signed(contribution))),
  );
  const likely = probability === null ? [] : [el("p", { class: "note" }, `Probability of a match: ${percent(probability)}.`)];
  const whole = why.length > 1 ? [el("li", { class: "sum" }, el("span", {}, "together"), " ", el("b", {}, signed(sum)))] : [];
  return [el("ul", { class: "reasons" }, ...lines, ...whole), ...likely];
}

function percent(probability) {
  if (probability > 0.99) return "over 99 %";
  return probability < 0.01 ? "under 1 %" : `${Math.round(100 * probability)} %`;
}
