// Puts untrusted text on the page, never as markup.

const SHORT = 140;
const LONGEST = 2000;
// Characters that hide, reorder or break text, as in report/markup.py.
const HIDDEN =
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]|(?<![\u0600-\u0dff\u1000-\u109f\u1780-\u18af\u2190-\u2bff\ufe0f\u{1f000}-\u{1faff}])[\u200c\u200d]|[\u200c\u200d](?![\u0600-\u0dff\u1000-\u109f\u1780-\u18af\u2190-\u2bff\ufe0f\u{1f000}-\u{1faff}])|(?<![\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\u{1f000}-\u{1faff}])\ufe0f(?!\u20e3)/gu;
const LINKABLE = /^https?:\/\/([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?([/?#][!-~]*)?$/i;

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Return a text with hidden characters spelled out. */
export function plain(text) {
  return text.replace(HIDDEN, (found) => `[U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

/** Return at most this many characters from a text's start, without cutting one in half. */
function start(text, most) {
  return text.slice(0, most).replace(/[\ud800-\udbff]$/, "");
}

/** Return an element that shows a short text whole, and a long one as its start, which opens to more of the text. */
export function fold(text) {
  if (text.length <= SHORT) return el("bdi", {}, plain(text));
  const rest = el("bdi", { class: "full", tabindex: "0" }, plain(start(text, LONGEST)), text.length > LONGEST ? " …" : "");
  return el("details", {}, el("summary", {}, el("bdi", {}, plain(start(text, SHORT))), " …"), rest);
}

/** Return an element that shows a reference: a link if the reference is a plain http(s) address, otherwise text. */
export function reference(url) {
  if (url.length > LONGEST || !LINKABLE.test(url)) return fold(url);
  const shown = url.length > SHORT ? `${url.slice(0, SHORT)} …` : url;
  return el("a", { href: url, rel: "noopener noreferrer nofollow", target: "_blank" }, shown);
}

/** Return an element that shows a failure's code and detail. */
export function failure({ code, detail }) {
  return el("div", { class: "why" }, el("code", {}, plain(code)), " ", fold(detail));
}

/** The list of scores, kept sorted while results come in. */
export class Scores {
  constructor(list) {
    this.list = list;
    this.clear();
  }

  clear() {
    this.sorted = [];
    this.list.replaceChildren();
    this.scale();
  }

  add(similarity, digits, ...children) {
    const number = el("data", { value: String(similarity) }, similarity.toFixed(digits).replace("-", "−"));
    const bar = el("span", { class: similarity < 0 ? "bar below" : "bar", "aria-hidden": "true" }, el("span"));
    const item = el("li", {}, number, bar, ...children);
    item.style.setProperty("--score", similarity);
    const found = this.sorted.findIndex((other) => other < similarity);
    const place = found < 0 ? this.sorted.length : found;
    this.list.insertBefore(item, this.list.children[place] ?? null);
    this.sorted.splice(place, 0, similarity);
    this.scale();
  }

  scale() {
    const [low, high] = [Math.min(0, this.sorted.at(-1) ?? 0), Math.max(0, this.sorted[0] ?? 0)];
    this.list.style.setProperty("--low", low);
    this.list.style.setProperty("--span", high - low || 1);
  }
}
