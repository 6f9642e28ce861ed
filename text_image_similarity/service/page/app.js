// The page's two forms: an image with captions, and a table. Their common code is in run.js.

import { repr, spell, table, TableProblem } from "./csv.js";
import { Run } from "./run.js";
import { plain } from "./show.js";
import { ask, badAnswer, megabytes, Problem } from "./service.js";
import { lock, whenUnlocked } from "./unlock.js";

const MOST_ROWS = 1000;
const MOST_TABLE_BYTES = 16e6;
const LONG_TEXT = 200_000; // characters
const IMAGE_NAME = /\.(avif|bmp|gif|hei[cf]|jfif|jpe?g|png|tiff?|webp)$/i;
const byId = (id) => document.getElementById(id);
const state = { image: null, table: null, images: new Map(), parsed: null, info: null };

// The service

async function connect() {
  try {
    const [models, info] = await Promise.all([ask("v1/models"), ask("v1/info")]);
    state.info = info;
    const chosen = byId("model").value || models.data.find((model) => model.default)?.id;
    byId("model").replaceChildren(...models.data.map(({ id }) => new Option(id, id, false, id === chosen)));
    byId("unlock").hidden = true;
    describe();
    offerSearch();
  } catch (error) {
    const problem = error instanceof Problem ? error : badAnswer();
    byId("about").textContent = plain(problem.detail);
    refused(problem);
    throw problem;
  }
}

/** Show the link to the search page if there is anything to search. */
function offerSearch() {
  ask("v1/catalogs").then(
    ({ data }) => (byId("searching").hidden = !data?.length),
    () => {}, // if this fails, the page has no link
  );
}

function describe() {
  const found = state.info?.models?.[byId("model").value];
  const facts = found ? [found.model, found.revision?.slice(0, 8), found.device, found.precision] : [];
  byId("about").textContent = facts.filter(Boolean).join(" · ");
}

function refused(problem) {
  if (problem.status === 404) state.info = null; // the models have changed: request them again for the next run
  if (problem.status === 401) lock();
}

async function begin() {
  if (!state.info) await connect();
  const limits = state.info.limits ?? {};
  return {
    asked: { model: byId("model").value, score: byId("score").value },
    limits: { pairs: limits.max_pairs ?? 64, bytes: limits.max_body_bytes ?? 32 * 2 ** 20 },
  };
}

whenUnlocked(connect, () => byId("model").focus());
byId("model").addEventListener("change", describe);
byId("settings").addEventListener("submit", (event) => event.preventDefault());

// One image

class Missing extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

const single = new Run(document.querySelector("#image-mode form"), {
  begin,
  refused,
  prepare() {
    const url = byId("url").value.trim();
    if (!state.image && !url) throw new Missing("Choose an image or give its URL.", byId("image"));
    const captions = byId("captions").value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (!captions.length) throw new Missing("Type a caption.", byId("captions"));
    if (captions.length > MOST_ROWS) throw new Missing(`This page accepts at most ${MOST_ROWS} captions.`, byId("captions"));
    return captions.map((caption) => ({ caption, url, file: state.image }));
  },
});

function takeImage(file) {
  state.image = file;
  const preview = byId("preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = !file;
  if (file) {
    preview.src = URL.createObjectURL(file);
    byId("url").value = "";
    if (!single.stopper) single.clear();
    single.say(`${file.name}, ${megabytes(file.size)}.`);
  }
  byId("image-name").textContent = file ? plain(file.name) : "";
}

byId("preview").addEventListener("error", () => (byId("preview").hidden = true));
byId("url").addEventListener("input", () => takeImage(null));

// A table

const many = new Run(document.querySelector("#table-mode form"), {
  begin,
  refused,
  async prepare() {
    const text = state.table ? await decoded(state.table) : byId("csv").value;
    if (!text.trim()) throw new Missing("Choose a CSV file or paste its text.", byId("files"));
    state.parsed = table(text, MOST_ROWS);
    const { rows, url, caption } = state.parsed;
    return rows.map((fields, i) => ({ row: i + 1, url: fields[url], caption: fields[caption], file: handed(fields[url]) }));
  },
  save(results) {
    const { header, rows } = state.parsed;
    const keep = header.flatMap((name, i) => (["similarity", "error"].includes(name) ? [] : [i]));
    const found = new Map([...results].map(([pair, result]) => [pair.row, result]));
    const scored = rows.map((fields, i) => {
      const { similarity, error } = found.get(i + 1) ?? {};
      const cells = error ? ["", `${error.code}: ${error.detail}`] : [similarity == null ? "" : repr(similarity), ""];
      return [...keep.map((place) => fields[place]), ...cells];
    });
    return spell([[...keep.map((place) => header[place]), "similarity", "error"], ...scored]);
  },
});

/** Return the chosen image file that a reference names, unless the reference is a URL. */
function handed(url) {
  return /^[a-z][a-z0-9+.-]+:/i.test(url) ? undefined : state.images.get(url.split(/[\\/]/).at(-1));
}

async function decoded(file) {
  if (file.size > MOST_TABLE_BYTES) throw new TableProblem(`${file.name} has ${megabytes(file.size)}; this page accepts tables of at most ${megabytes(MOST_TABLE_BYTES)}.`);
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new TableProblem(`The browser cannot read ${file.name}. Choose it again.`);
  }
  const encoding = { 0xfeff: "utf-16be", 0xfffe: "utf-16le" }[(bytes[0] << 8) | bytes[1]] ?? "utf-8";
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    throw new TableProblem(`${file.name} is not a CSV file in UTF-8 or UTF-16. Save the table as CSV in UTF-8.`);
  }
}

function takeFiles(files) {
  for (const file of files) {
    if (file.type.startsWith("image/") || IMAGE_NAME.test(file.name)) state.images.set(file.name, file);
    else state.table = file;
  }
  if (state.table) byId("csv").value = "";
  if (!many.stopper) many.clear();
  many.say(`${nameFiles()}.`);
}

function nameFiles() {
  const count = state.images.size;
  const names = [state.table?.name, count && `${count} image${count === 1 ? "" : "s"}`];
  return (byId("file-names").textContent = plain(names.filter(Boolean).join(" and ")));
}

byId("csv").addEventListener("input", () => {
  state.table = null;
  nameFiles();
});

// Choosing, dropping, pasting

function choose(mode) {
  const radio = document.querySelector(`[name=mode][value=${mode}]`);
  radio.checked = true;
  byId("image-mode").hidden = mode !== "image";
  byId("table-mode").hidden = mode !== "table";
}

function take(files) {
  const tables = files.some((file) => /\.(csv|tsv)$/i.test(file.name) || /^text\/(csv|tab)/.test(file.type));
  if (tables) choose("table");
  if (!byId("table-mode").hidden) takeFiles(files);
  else if (files.length === 1) takeImage(files[0]);
  else single.fail(new Error("Choose one image at a time. For several images, choose “A table”."));
}

document.querySelectorAll("[name=mode]").forEach((radio) => radio.addEventListener("change", () => choose(radio.value)));
for (const input of [byId("image"), byId("files")]) {
  input.addEventListener("change", () => {
    if (input.files.length) take([...input.files]);
    input.value = ""; // so that the same file can be chosen again
  });
}
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files") && event.target.matches("input, textarea")) return;
  event.preventDefault();
  document.body.classList.add("over");
});
for (const end of ["dragleave", "drop"]) document.addEventListener(end, () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  if (event.target.matches("input, textarea") && !event.dataTransfer.files.length) return; // text dropped into a field
  event.preventDefault(); // otherwise, the browser would open the file
  receive(event.dataTransfer, event.dataTransfer.getData("text/uri-list") || event.dataTransfer.getData("text/plain"));
});
document.addEventListener("paste", (event) => {
  const text = event.clipboardData.getData("text/plain");
  if (text.length > LONG_TEXT) {
    event.preventDefault(); // a text field would take minutes to display it
    if (!byId("table-mode").hidden) takeFiles([new File([text], "the pasted table")]);
    else if (!receive(event.clipboardData, text)) single.fail(new Error("This text is too long for captions. If it is a table, choose “A table”."));
    return;
  }
  if (event.target.matches("input, textarea") && text) return;
  if (receive(event.clipboardData, text)) event.preventDefault();
});

function receive(data, text) {
  if (data.files.length) take([...data.files]);
  else if (!byId("table-mode").hidden && text) {
    byId("csv").value = text;
    byId("csv").dispatchEvent(new Event("input"));
  } else if (/^(https?:|data:image\/)/i.test(text)) {
    byId("url").value = text.split(/[\r\n]/)[0];
    takeImage(null);
  } else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form?.requestSubmit();
});

choose(document.querySelector("[name=mode]:checked").value); // a reload keeps the choice
connect().catch(() => {}); // the page already shows the error
