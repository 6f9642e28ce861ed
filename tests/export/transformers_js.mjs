// Run exports as a browser does: transformers.js for the web, on ONNX Runtime's WebAssembly. Models come from files instead of
// a server. Usage: node transformers_js.mjs LIBRARY < jobs > results, both lists of objects, see below.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

Object.defineProperty(process, "release", { value: { name: "browser" } }); // else it asks for what it has under Node alone
const modules = `${pathToFileURL(process.argv[2])}/node_modules`;
const library = await import(`${modules}/@huggingface/transformers/dist/transformers.web.js`);
const runtime = await import(`${modules}/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs`);
const { env, AutoProcessor, AutoTokenizer, RawImage } = library;
env.allowRemoteModels = env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = undefined; // its own place instead of a CDN
env.backends.onnx.wasm.numThreads = 1;
env.fetch = async (path) => {
  try {
    const content = readFileSync(path);
    return new Response(content, { headers: { "content-length": content.length } });
  } catch {
    return new Response(null, { status: 404 });
  }
};

async function encoded({ model, classes, padding, captions, pixels, size }) {
  const tokenizer = await AutoTokenizer.from_pretrained(model);
  const ids = captions.map((caption) => tokenizer(caption, { truncation: true }).input_ids.tolist()[0].map(Number));
  if (!classes) return { ids };
  const processor = await AutoProcessor.from_pretrained(model);
  const [images, texts] = await Promise.all(classes.map((name) => library[name].from_pretrained(model)));
  const pictures = bytes(pixels).map((one) => new RawImage(one, size[1], size[0], 3));
  const [image] = Object.values(await images(await processor(pictures)));
  const [text] = Object.values(await texts(tokenizer(captions, { padding, truncation: true })));
  return { ids, image: [...image.data], text: [...text.data] };
}

async function encodedByGraph({ graph, pixels, size }) {
  const session = await runtime.InferenceSession.create(readFileSync(graph));
  const batch = new runtime.Tensor("uint8", Buffer.concat(bytes(pixels)), [pixels.length, ...size, 3]);
  const { image_embeds } = await session.run({ pixels: batch });
  return { image: [...image_embeds.data] };
}

const bytes = (pixels) => pixels.map((one) => Uint8Array.from(Buffer.from(one, "base64")));
const found = [];
for (const job of JSON.parse(readFileSync(0, "utf-8"))) found.push(await (job.graph ? encodedByGraph : encoded)(job));
process.stdout.write(JSON.stringify(found));
