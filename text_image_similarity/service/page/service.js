// Sends requests to the service: a list of pairs takes as many requests as needed, and a request is repeated if the service is busy or
// unreachable.

const TRIES = 6;
const LONGEST_WAIT_S = 60;
const ANSWER_MS = 180_000;
const PASSING = new Set([0, 429, 502, 503, 504]); // 0: no response at all
const ABOUT_THE_PAIRS = new Set([400, 408, 413, 422, 500]); // the request is split until the pair at fault is alone
const SLOT = "text-image-similarity-key";

/** A request that was refused or got no response. */
export class Problem extends Error {
  constructor(status, code, detail, waitS = 0) {
    super(detail);
    Object.assign(this, { status, code, detail, waitS });
  }
}

let key = kept(() => sessionStorage.getItem(SLOT));

export function setKey(value) {
  key = value;
  kept(() => sessionStorage.setItem(SLOT, value));
}

function kept(act) {
  try {
    return act();
  } catch {
    return null; // the browser stores nothing for this page
  }
}

export async function ask(path, { body, signal } = {}) {
  const headers = body ? { "content-type": "application/json" } : {};
  const sent = { method: body ? "POST" : "GET", body, headers, cache: "no-store" };
  const [answer, text] = await fetched(path, sent, signal, (found) => found.text());
  if (answer.status === 204) return null;
  let content = null;
  try {
    content = JSON.parse(text);
  } catch {} // for example a proxy's page
  if (answer.ok && content) return content;
  const waitS = Number(answer.headers.get("retry-after")) || 0;
  const detail = content?.detail ?? (answer.ok ? "The response is not JSON." : answer.statusText);
  throw new Problem(answer.ok ? 502 : answer.status, content?.code ?? `http_${answer.status}`, String(detail), waitS);
}

/** Return an image as a Blob. An <img> could not send the key. */
export async function askImage(path, signal) {
  const [answer, image] = await fetched(path, { headers: {} }, signal, (found) => found.blob());
  if (!answer.ok) throw new Problem(answer.status, `http_${answer.status}`, answer.statusText);
  return image;
}

async function fetched(path, sent, signal, read) {
  if (key) sent.headers.authorization = `Bearer ${key}`;
  const limit = AbortSignal.any([AbortSignal.timeout(ANSWER_MS), ...(signal ? [signal] : [])]);
  try {
    const answer = await fetch(path, { ...sent, signal: limit });
    return [answer, await read(answer)];
  } catch {
    signal?.throwIfAborted();
    throw new Problem(0, "no_answer", "The service does not respond.");
  }
}

async function patiently(body, { signal, say }) {
  for (let tried = 1; ; tried++) {
    try {
      return await ask("v1/similarity", { body, signal });
    } catch (problem) {
      if (!PASSING.has(problem.status) || tried === TRIES) throw problem;
      const waitS = Math.min(Math.max(problem.waitS, 2 ** (tried - 1)), LONGEST_WAIT_S);
      say(`${problem.detail.replace(/\.?$/, ".")} Trying again in ${waitS} s.`);
      await pause(waitS * 1000, signal);
    }
  }
}

/**
 * Yield arrays of {pair, similarity, error}, in the order of the pairs.
 *
 * A pair is {caption, url} or {caption, file}; `asked` contains the model and the score kind, `limits` the maximum number
 * of pairs and of bytes per request.
 */
export async function* score(pairs, asked, limits, { signal, say }) {
  const waiting = batches(pairs, limits);
  while (waiting.length) {
    const batch = waiting.shift();
    try {
      const body = JSON.stringify({ ...asked, pairs: await spelled(batch, limits) });
      const { results } = await patiently(body, { signal, say });
      if (results?.length !== batch.length || !results.every(sound)) throw badAnswer();
      yield batch.map((pair, i) => ({ pair, ...results[i] }));
    } catch (problem) {
      if (!ABOUT_THE_PAIRS.has(problem.status)) throw problem;
      const half = batch.length >> 1;
      if (half) waiting.unshift(batch.slice(0, half), batch.slice(half));
      else yield [{ pair: batch[0], similarity: null, error: { code: problem.code, detail: problem.detail } }];
    }
  }
}

const sound = (result) => (result?.error ? typeof result.error.code === "string" : Number.isFinite(result?.similarity));

export function badAnswer() {
  return new Problem(-1, "bad_answer", "The response does not come from this service.");
}

function batches(pairs, limits) {
  const found = [];
  let bytes = Infinity;
  for (const pair of pairs) {
    const size = sizeOf(pair);
    if (bytes + size > limits.bytes || found.at(-1).length >= limits.pairs) {
      found.push([]);
      bytes = 100;
    }
    found.at(-1).push(pair);
    bytes += size;
  }
  return found;
}

function sizeOf(pair) {
  const image = pair.file ? 4 * Math.ceil(pair.file.size / 3) : 3 * pair.url.length;
  return image + 3 * pair.caption.length + 100; // as JSON in UTF-8, in the worst case except for control characters
}

async function spelled(batch, limits) {
  const known = new Map();
  const read = (file) => known.get(file) ?? known.set(file, base64(file)).get(file);
  return Promise.all(
    batch.map(async (pair) => {
      if (sizeOf(pair) + 100 > limits.bytes) {
        throw new Problem(413, "too_many_bytes", `a request may have at most ${megabytes(limits.bytes)}, but this pair has ${megabytes(sizeOf(pair))}`);
      }
      if (!pair.file) return { image_url: pair.url, caption: pair.caption };
      return { image_base64: await read(pair.file), caption: pair.caption };
    }),
  );
}

export function base64(file) {
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => {
      if (file.size) done(reader.result.slice(reader.result.indexOf(",") + 1));
      else fail(new Problem(422, "empty_body", "the file is empty"));
    };
    reader.onerror = () => fail(new Problem(422, "file_not_found", "the browser can no longer read the file"));
    reader.readAsDataURL(file);
  });
}

export function pause(ms, signal) {
  return new Promise((done, fail) => {
    const stop = () => {
      clearTimeout(timer);
      fail(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      done();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

export function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
