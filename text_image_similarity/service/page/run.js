// One run: the pairs of a form are sent to the service, and the form's panel shows progress, scores and failures.

import { Problem, score } from "./service.js";
import { el, failure, fold, plain, reference, Scores } from "./show.js";

const grouped = (number) => number.toLocaleString("en");
const pairsOf = (number) => `${grouped(number)} pair${number === 1 ? "" : "s"}`;

export class Run {
  /**
   * `prepare()` returns the pairs, or throws an Error that says what is missing (with `field`, the input to fill in);
   * `begin()` returns {asked, limits}, as `score` takes them; `refused(error)` is called when an error ends a run;
   * `save(results)`, if given, returns the text to download.
   */
  constructor(form, { prepare, begin, refused, save }) {
    Object.assign(this, { prepare, begin, refused, save, pairs: [], results: new Map(), images: [] });
    form.after(document.querySelector("#panel").content.cloneNode(true));
    this.part = (name) => form.parentElement.querySelector(name);
    this.scores = new Scores(this.part(".scored"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.go(true);
    });
    this.part(".cancel").addEventListener("click", () => this.stopper?.abort());
    this.part(".again").addEventListener("click", () => this.go());
    this.part(".download").addEventListener("click", () => this.download());
  }

  /** Score all pairs of the form with `restart`, and otherwise those that have no result yet. */
  async go(restart = false) {
    if (this.stopper) return; // Score was pressed twice
    const { signal } = (this.stopper = new AbortController());
    if (restart) this.clear();
    this.part(".alert").textContent = "";
    this.part(".again").hidden = true;
    this.part(".running").hidden = false;
    try {
      if (restart) this.pairs = await this.prepare();
      if (restart) Object.assign(this, await this.begin());
      this.count();
      const open = this.pairs.filter((pair) => !this.results.has(pair));
      for await (const part of score(open, this.asked, this.limits, { signal, say: (text) => this.say(text) })) {
        for (const result of part) this.add(result);
        this.count();
      }
    } catch (error) {
      if (!signal.aborted) this.fail(error);
    }
    if (this.pairs.length) this.finish();
    this.stopper = null;
    this.part(".running").hidden = true;
  }

  clear() {
    for (const address of this.images.splice(0)) URL.revokeObjectURL(address);
    this.pairs = [];
    this.results.clear();
    this.failures = new Map();
    this.scores.clear();
    this.part(".failed").replaceChildren();
    this.part(".results").hidden = this.part(".failures").hidden = true;
    this.part(".alert").textContent = "";
    this.say("");
  }

  say(text) {
    this.part(".status").textContent = plain(text.slice(0, 500));
  }

  fail(error) {
    const text = error instanceof Problem ? `${error.detail} (${error.code})` : error.message;
    this.part(".alert").textContent = plain(text.slice(0, 500));
    error.field?.focus();
    this.refused(error);
  }

  count() {
    const [done, all] = [this.results.size, this.pairs.length];
    const bar = this.part("progress");
    [bar.max, bar.value] = [all, done];
    this.say(`${grouped(done)} of ${pairsOf(all)} finished.`);
  }

  finish() {
    const [done, all, good] = [this.results.size, this.pairs.length, this.scores.sorted.length];
    const stopped = done < all ? `Stopped after ${grouped(done)} of ${pairsOf(all)}: ` : "";
    this.say(`${stopped}${grouped(good)} scored, ${grouped(done - good)} failed.`);
    this.part(".again").hidden = done === all;
    this.part(".again").textContent = `Score the remaining ${grouped(all - done)}`;
    this.part(".download").hidden = !this.save || !done;
  }

  add({ pair, similarity, error }) {
    this.results.set(pair, { similarity, error });
    this.part(".results .note").textContent = `${this.asked.model}, ${this.asked.score}. Bars start at 0.`;
    this.part(".results").hidden = false;
    const origin = pair.row ? [el("p", { class: "origin" }, `row ${pair.row} `, reference(pair.url))] : [];
    if (!error) {
      const digits = this.asked.score === "clip_score" ? 2 : 4;
      const image = pair.row ? [this.image(pair)] : [];
      this.scores.add(similarity, digits, ...image, el("div", { class: "caption" }, fold(pair.caption)), ...origin);
      return;
    }
    const words = JSON.stringify(error);
    if (!this.failures.has(words)) {
      const pairs = el("ul");
      this.failures.set(words, pairs);
      this.part(".failed").append(el("li", {}, failure(error), pairs));
      this.part(".failures").hidden = false;
    }
    this.failures.get(words).append(el("li", {}, ...origin, fold(pair.caption)));
  }

  /** Return a pair's image, or “not shown” if this page does not have it; images are never loaded from their hosts. */
  image(pair) {
    const none = el("span", { class: "none" }, "not shown");
    const inside = /^data:image\//i.test(pair.url);
    if (!pair.file && !inside) return none;
    const image = el("img", { alt: "", loading: "lazy", decoding: "async" });
    image.addEventListener("error", () => image.replaceWith(none));
    image.src = pair.file ? URL.createObjectURL(pair.file) : pair.url;
    if (pair.file) this.images.push(image.src);
    return image;
  }

  download() {
    const link = el("a", { download: "scored.csv" });
    link.href = URL.createObjectURL(new Blob([this.save(this.results)], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}
