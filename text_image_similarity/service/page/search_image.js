// The image to search with: chosen, photographed, dropped or pasted.

import { base64, megabytes } from "./service.js";
import { plain } from "./show.js";

const LARGE_BYTES = 2e6;
const LARGE_SIDE = 1024; // pixels; models see a few hundred
const IMAGE_NAME = /\.(avif|bmp|gif|hei[cf]|jfif|jpe?g|png|tiff?|webp)$/i;
const byId = (id) => document.getElementById(id);

export class QueryImage {
  /** `changed()` is called when the image changes or is removed, `failed(text)` when a file cannot be used. */
  constructor(changed, failed) {
    Object.assign(this, { changed, failed, file: null, kept: [] });
    for (const input of [byId("image"), byId("camera")]) {
      input.addEventListener("change", () => {
        if (input.files.length) this.take([...input.files]);
        input.value = ""; // so that the same file can be chosen again
      });
    }
    byId("drop-image").addEventListener("click", () => {
      this.set(null);
      byId("image").focus();
      changed();
    });
    byId("preview").addEventListener("error", () => (byId("preview").hidden = true)); // for example HEIC
    this.listen();
  }

  listen() {
    const intoField = (event) => event.target.matches?.("input, textarea") && !event.dataTransfer.files.length;
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      document.body.classList.add("over");
    });
    for (const end of ["dragleave", "drop"]) document.addEventListener(end, () => document.body.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      if (intoField(event)) return;
      event.preventDefault(); // otherwise, the browser would open the file
      this.take([...event.dataTransfer.files]);
    });
    document.addEventListener("paste", (event) => {
      if (!event.clipboardData.files.length) return;
      event.preventDefault();
      this.take([...event.clipboardData.files]);
    });
  }

  take(files) {
    const [file, another] = files;
    if (!file) return;
    if (another) return this.failed("Choose one image at a time.");
    if (!file.type.startsWith("image/") && !IMAGE_NAME.test(file.name)) return this.failed(`${file.name} is not an image.`);
    this.set(file);
    this.changed();
  }

  set(file) {
    if (file === this.file) return;
    this.file = file;
    if (file && !this.kept.includes(file)) this.kept.push(file);
    const preview = byId("preview");
    URL.revokeObjectURL(preview.src);
    preview.hidden = byId("chosen").hidden = !file;
    document.body.classList.toggle("with-image", Boolean(file));
    if (file) preview.src = URL.createObjectURL(file);
    byId("image-name").textContent = file ? plain(`${file.name.slice(0, 80)}, ${megabytes(file.size)}`) : "";
  }

  /** The number of the image in this visit, which the browser's history stores instead of the image. */
  get number() {
    return this.kept.indexOf(this.file);
  }

  restore(number) {
    this.set(this.kept[number] ?? null);
  }

  /** Return the image in base64, or null without one. */
  async read() {
    return this.file && base64(await small(this.file));
  }
}

/** Shrink a large image, because a 10 MB photograph tells a model nothing more. */
async function small(file) {
  if (file.size <= LARGE_BYTES) return file;
  try {
    const whole = await createImageBitmap(file);
    const scale = Math.min(1, LARGE_SIDE / Math.max(whole.width, whole.height));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [whole.width, whole.height].map((side) => Math.max(1, Math.round(side * scale)));
    canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
    whole.close();
    return (await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92))) ?? file;
  } catch {
    return file; // the browser cannot decode the image, but the service may
  }
}
