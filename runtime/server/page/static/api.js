// Requests to the server that the page came from, and errors in words.

const KEY = "trtcoder.key";

/** What the server or the network refused; `message` is for people, `status` 0 without an answer. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Tells when the server asks for a key (`key-needed`) and whether it was reached (`reached`, `lost`). */
export const connection = new EventTarget();

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));
export const setKey = (value) => sessionStorage.setItem(KEY, value);

/** Sends a request; `body` makes it a POST of JSON. Throws ServerError, or AbortError when stopped. */
export async function request(path, { body, signal } = {}) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : JSON.stringify(body),
      headers,
      signal,
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connection.dispatchEvent(new Event("lost"));
    throw new ServerError("The server cannot be reached. It may be stopping or starting again.");
  }
  connection.dispatchEvent(new Event("reached"));
  if (response.ok) return response;
  if (response.status === 401) connection.dispatchEvent(new Event("key-needed"));
  throw new ServerError(await words(response), response.status);
}

/** Yields the JSON of each event of a stream, up to `[DONE]`. */
export async function* events(path, body, signal) {
  const response = await request(path, { body: { ...body, stream: true }, signal });
  try {
    for await (const line of lines(response.body)) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(sentence(event.error.message), 500);
      yield event;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerError) throw error;
    connection.dispatchEvent(new Event("lost"));
  }
  throw new ServerError("The connection ended before the answer did.");
}

async function* lines(stream) {
  const decoder = new TextDecoder();
  let rest = "";
  // Readers rather than `for await` over the stream, which Safari lacks.
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const found = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = found.pop();
    yield* found;
  }
}

async function words(response) {
  let message;
  try {
    message = (await response.json()).error.message;
  } catch {
    message = `the server answered ${response.status}`;
  }
  const wait = response.headers.get("retry-after");
  return sentence(message) + (wait ? ` Try again in ${wait} s.` : "");
}

/** Writes a message of the server as a sentence. */
function sentence(message) {
  const text = String(message).trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
