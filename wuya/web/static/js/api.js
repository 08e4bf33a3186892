// Talking to the server: JSON requests with one kind of error, and event streams that survive a lost connection.

import { url } from "./dom.js";

/** A refusal of the server, or `code: "network"` when it can't be reached. */
export class ApiError extends Error {
  constructor(status, code, message, { param = null, retryAfter = 0, body = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter, body });
  }
}

async function refusal(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    // not JSON: a proxy's page
  }
  const retryAfter = Number(response.headers.get("retry-after")) || 0;
  const message = body?.detail || response.statusText || `HTTP ${response.status}`;
  return new ApiError(response.status, body?.code || "error", message, { param: body?.param, retryAfter, body });
}

async function call(path, options) {
  try {
    return await fetch(url(path), { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "network", "the server can't be reached");
  }
}

/** Send a request; the parsed body, or null for 204. */
export async function request(method, path, body, { headers = {}, signal, raw = false } = {}) {
  const options = { method, signal, headers: { accept: "application/json", ...headers } };
  if (body !== undefined) {
    options.body = raw ? body : JSON.stringify(body);
    if (!raw) options.headers["content-type"] = "application/json";
  }
  const response = await call(path, options);
  if (!response.ok) throw await refusal(response);
  if (response.status === 204) return null;
  const type = response.headers.get("content-type") || "";
  return type.includes("json") ? response.json() : response.text();
}

export const api = {
  get: (path, options) => request("GET", path, undefined, options),
  post: (path, body = {}, options) => request("POST", path, body, options),
  put: (path, body = {}, options) => request("PUT", path, body, options),
  patch: (path, body = {}, options) => request("PATCH", path, body, options),
  delete: (path, options) => request("DELETE", path, undefined, options),
};

/** Turns the text of an event stream into events, however the text is cut into pieces. */
export class EventDecoder {
  constructor() {
    this.lastId = "";
    this.retry = 0;
    this._rest = "";
    this._data = [];
    this._type = "";
  }

  /** @returns {{type: string, data: string, id: string}[]} */
  push(text) {
    this._rest += text;
    const events = [];
    for (;;) {
      const end = this._rest.search(/[\r\n]/);
      if (end < 0) break;
      if (this._rest[end] === "\r" && end === this._rest.length - 1) break; // perhaps "\n" is still to come
      const line = this._rest.slice(0, end);
      this._rest = this._rest.slice(end + (this._rest.startsWith("\r\n", end) ? 2 : 1));
      const event = this._line(line);
      if (event) events.push(event);
    }
    return events;
  }

  _line(line) {
    if (line === "") {
      const event = this._data.length ? { type: this._type || "message", data: this._data.join("\n"), id: this.lastId } : null;
      this._data = [];
      this._type = "";
      return event;
    }
    if (line.startsWith(":")) return null;
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this._data.push(value);
    else if (field === "event") this._type = value;
    else if (field === "id" && !value.includes("\0")) this.lastId = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    return null;
  }
}

/**
 * Follow an event stream. Ends when `onEvent` returns true or the signal aborts; reconnects with the last id after
 * `event: bye`, an end of the stream or a lost connection, waiting longer each time.
 * @param {(event: {type: string, data: any, id: string}) => (boolean | void)} onEvent data is parsed JSON
 * @param {(state: "open" | "waiting") => void} [onState]
 */
export async function follow(path, { onEvent, onState = () => {}, signal, lastEventId = "", maxTries = Infinity }) {
  let tries = 0;
  for (;;) {
    const decoder = new EventDecoder();
    decoder.lastId = lastEventId;
    let wait = Math.min(15000, 400 * 2 ** tries);
    try {
      const headers = { accept: "text/event-stream", ...(lastEventId ? { "last-event-id": lastEventId } : {}) };
      const response = await call(path, { headers, signal, cache: "no-store" });
      if (!response.ok) throw await refusal(response);
      onState("open");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        for (const event of decoder.push(value)) {
          lastEventId = event.id || lastEventId;
          tries = 0;
          const data = JSON.parse(event.data);
          if (event.type === "bye") wait = data.retry_ms ?? wait;
          else if (onEvent({ ...event, data })) {
            await reader.cancel();
            return;
          }
        }
      }
    } catch (error) {
      if (signal?.aborted) return;
      const final = error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429;
      if (final || tries >= maxTries) throw error;
      if (error.retryAfter) wait = error.retryAfter * 1000;
    }
    if (signal?.aborted) return;
    tries += 1;
    if (tries > maxTries) throw new ApiError(0, "network", "the connection was lost");
    onState("waiting");
    await pause(wait, signal);
    if (signal?.aborted) return;
  }
}

/** Wait so many milliseconds, or until the signal aborts, or until the browser is online again. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      window.removeEventListener("online", finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    window.addEventListener("online", finish, { once: true });
    signal?.addEventListener("abort", finish, { once: true });
  });
}
