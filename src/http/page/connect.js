// Calls of the server by the Connect protocol (https://connectrpc.com/docs/protocol): JSON, and streams of JSON.

import { MESSAGES, METHODS } from "./schema.js";

// The key or token of whoever uses the page. It is kept here alone, and is gone when the page is closed or read anew.
let key = "";

export function setKey(value) {
  key = value.trim();
}

export function hasKey() {
  return key !== "";
}

// Why a call failed: the server's own words where it has answered.
export class CallError extends Error {
  constructor(code, message, { status = 0, reason = "", fields = [], retryAfter = "", requestId = "" } = {}) {
    super(message);
    this.name = "CallError";
    this.code = code;
    this.status = status;
    this.reason = reason;
    this.fields = fields;
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }

  // Whether another key might help.
  get wantsKey() {
    return this.code === "unauthenticated";
  }
}

// Makes a call with one request and one answer.
export async function call(method, request, { signal } = {}) {
  const [asks, answers] = METHODS[method];
  const response = await send(method, "application/json", JSON.stringify(written(asks, request)), signal);
  const body = await response.text().catch((error) => failed(error, signal));
  const json = parsed(body);
  if (!response.ok || json === undefined) {
    throw refusal(json, response);
  }
  return { answer: read(answers, json), json };
}

// Makes a call with streams. All requests are sent before the first answer is read.
export async function* stream(method, requests, { signal } = {}) {
  const [asks, answers] = METHODS[method];
  const envelopes = requests.map((request) => envelope(JSON.stringify(written(asks, request))));
  const response = await send(method, "application/connect+json", new Blob(envelopes), signal);
  const type = response.headers.get("content-type") ?? "";
  if (!response.ok || !type.startsWith("application/connect+json")) {
    const body = await response.text().catch((error) => failed(error, signal));
    throw refusal(parsed(body), response);
  }
  for await (const { flags, text } of messages(response.body, signal)) {
    const json = parsed(text);
    if (json === undefined || flags & COMPRESSED) {
      throw new CallError("internal", "The server's answer could not be read.");
    }
    if (flags & LAST) {
      if (json.error) {
        throw refusal(json.error, response);
      }
      return;
    }
    yield read(answers, json);
  }
  throw new CallError("unavailable", "The connection ended before the answer did.");
}

// A line for a shell that makes the same call. It has the name of a variable in place of the key.
export function curl(method, request) {
  const [asks] = METHODS[method];
  const body = JSON.stringify(written(asks, request), null, 2);
  const parts = [`curl ${quoted(location.origin + method)}`, "-H 'content-type: application/json'"];
  if (hasKey()) {
    parts.push('-H "authorization: Bearer $BABELWARD_TOKEN"');
  }
  parts.push(`-d ${quoted(body)}`);
  return parts.join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function send(method, type, body, signal) {
  const headers = { "content-type": type, "connect-protocol-version": "1" };
  if (hasKey()) {
    headers.authorization = `Bearer ${key}`;
  }
  const options = { method: "POST", headers, body, signal, credentials: "omit", cache: "no-store", redirect: "error" };
  return fetch(method, options).catch((error) => failed(error, signal));
}

function failed(error, signal) {
  if (signal?.aborted) {
    throw new CallError("canceled", "Stopped.");
  }
  throw new CallError("unavailable", `The server cannot be reached (${error.message}).`);
}

function parsed(text) {
  try {
    const json = JSON.parse(text);
    return json !== null && typeof json === "object" ? json : undefined;
  } catch {
    return undefined;
  }
}

// An error of the protocol, or whatever was answered instead of one.
function refusal(json, response) {
  // A stream has the status 200 whatever becomes of it.
  const status = response.ok ? 0 : response.status;
  const requestId = response.headers.get("x-request-id") ?? "";
  const retryAfter = response.headers.get("retry-after") ?? "";
  if (typeof json?.code !== "string") {
    return new CallError("unknown", `The server answered ${response.status} without saying why.`, { status, requestId, retryAfter });
  }
  const details = Array.isArray(json.details) ? json.details : [];
  const detail = (type) => details.find((given) => given?.type === type)?.debug;
  const fields = detail("google.rpc.BadRequest")?.fieldViolations ?? [];
  const reason = detail("google.rpc.ErrorInfo")?.reason ?? "";
  return new CallError(json.code, json.message || json.code, { status, reason, fields, requestId, retryAfter });
}

// Flags of a message in a stream.
const COMPRESSED = 1;
const LAST = 2;

// A message in a stream has a byte with its flags and four with its length before it.
const HEAD_BYTES = 5;

function envelope(text) {
  const bytes = new TextEncoder().encode(text);
  const whole = new Uint8Array(HEAD_BYTES + bytes.length);
  new DataView(whole.buffer).setUint32(1, bytes.length);
  whole.set(bytes, HEAD_BYTES);
  return whole;
}

async function* messages(body, signal) {
  const reader = body.getReader();
  let held = new Uint8Array(0);
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => failed(error, signal));
      if (done) {
        return;
      }
      const joined = new Uint8Array(held.length + value.length);
      joined.set(held);
      joined.set(value, held.length);
      held = joined;
      while (held.length >= HEAD_BYTES) {
        const length = new DataView(held.buffer, held.byteOffset).getUint32(1);
        const end = HEAD_BYTES + length;
        if (held.length < end) {
          break;
        }
        yield { flags: held[0], text: new TextDecoder().decode(held.subarray(HEAD_BYTES, end)) };
        held = held.subarray(end);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// What JSON says of a message: its fields by the table, with zeros where it leaves them out.
function read(name, json) {
  const fields = Object.entries(MESSAGES[name]).map(([field, type]) => [field, value(type, json[field])]);
  return Object.freeze(Object.fromEntries(fields));
}

function value(type, given) {
  if (type.startsWith("[")) {
    return (given ?? []).map((item) => value(type.slice(1, -1), item));
  }
  if (type.endsWith("?")) {
    return given === undefined ? undefined : value(type.slice(0, -1), given);
  }
  switch (type) {
    case "string":
    case "bytes":
    case "enum":
      return given ?? "";
    case "boolean":
      return given ?? false;
    case "number":
    case "int64":
      return Number(given ?? 0);
    case "duration":
      return Number.parseFloat(given ?? "0");
    case "timestamp":
      return given === undefined ? 0 : Date.parse(given);
    default:
      return given === undefined ? undefined : read(type, given);
  }
}

// A request without what is not said. A field that the table does not have is a mistake of this page.
function written(name, message) {
  const said = Object.entries(message).filter(([, given]) => given !== undefined);
  const fields = said.map(([field, given]) => {
    const type = MESSAGES[name][field];
    if (type === undefined) {
      throw new Error(`${name} has no field ${field}`);
    }
    const plain = type.replace(/^\[|[\]?]$/g, "");
    const one = (item) => (plain in MESSAGES ? written(plain, item) : item);
    return [field, Array.isArray(given) ? given.map(one) : one(given)];
  });
  return Object.fromEntries(fields);
}

// Bytes as JSON has them.
export function base64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}
