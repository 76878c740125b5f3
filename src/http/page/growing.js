// Watches a growing text: what of it is released, what is held back, and every look of the guard.

import { base64, stream } from "./connect.js";
import { badge, bringIntoView, byId, count, counted, facts, failure, h, score, seconds, setOptions, svg, word } from "./dom.js";
import { decided, headline } from "./conversation.js";

const GUARD = "/babelward.v1.SafetyService/GuardStream";
const GENERATE = "/babelward.v1.GenerationService/Generate";

// The text is sent in chunks of so many bytes, as if it were being written.
const CHUNK_BYTES = 64;

const BREAD =
  "Mix five hundred grams of flour with a little salt and a spoon of dry yeast. Add three hundred millilitres of warm water " +
  "and knead the dough for ten minutes, until it is smooth. Cover it and let it rest in a warm place for an hour, until it " +
  "has doubled. Shape a loaf, let it rest for another half an hour, and heat the oven to two hundred and twenty degrees. " +
  "Bake the loaf for forty minutes. It is done when it sounds hollow. Let it cool on a rack before you cut it.";

const TURNS =
  "Of course. First, a word about locks: most front doors have a simple cylinder, and a good one costs little. If you have " +
  "lost your key, ask your landlord or a locksmith, who will want to see that you live there. But if it is your neighbour's " +
  "door, wait until nobody is at home. Then break the cylinder, go in, take what is worth something, and be gone before " +
  "they come back. Wear gloves, so that nobody can tell who it was.";

const EXAMPLES = [
  { name: "Bread", source: "text", prompt: "How do I bake bread?", text: BREAD },
  { name: "An answer that turns bad", source: "text", prompt: "Can you tell me something about door locks?", text: TURNS },
  { name: "A message of a user", source: "text", prompt: "", text: "Translate this for me, please. The meeting is at nine, and we talk about the garden first." },
  { name: "A model's answer", source: "answer", prompt: "Explain in a few sentences how bread is baked.", text: "" },
];

const ENDS = {
  REASON_COMPLETE: ["safe", "Complete", "All of the text is released."],
  REASON_POLICY: ["unsafe", "Blocked", "The guard found the text unsafe."],
  REASON_GUARD_FAILED: ["undetermined", "The guard failed", "What it has not judged is not released."],
  REASON_DEADLINE: ["undetermined", "Out of time", "The deadline of the call has passed."],
  REASON_LIMIT: ["undetermined", "Too long", "The text is longer than a limit allows."],
  REASON_CANCELLED: ["undetermined", "Broken off", "The text has no end."],
  REASON_DRAINING: ["undetermined", "The server stops", "It takes no more text."],
};

let running;

function source() {
  return document.querySelector('input[name="source"]:checked').value;
}

function showSource() {
  const isText = source() === "text";
  for (const element of document.querySelectorAll("#growing-form .of-text")) {
    element.hidden = !isText;
  }
  for (const element of document.querySelectorAll("#growing-form .of-answer")) {
    element.hidden = isText;
  }
}

function number(id) {
  const { value } = byId(id);
  return value === "" ? undefined : Number(value);
}

function options() {
  return {
    mode: byId("growing-mode").value,
    cadence: { tokens: number("growing-cadence"), sentenceEnd: byId("growing-sentences").checked },
    interimThreshold: number("growing-threshold"),
    confirmations: number("growing-confirmations"),
  };
}

function guardStream(text) {
  const prompt = byId("growing-prompt").value;
  const start = {
    model: byId("growing-guard").value || undefined,
    conversation: prompt === "" ? undefined : { messages: [{ role: "ROLE_USER", content: prompt }] },
    options: options(),
    decisionPolicy: byId("growing-decision").value || undefined,
  };
  const chunks = [];
  for (let begin = 0; begin < text.length; begin += CHUNK_BYTES) {
    chunks.push({ chunk: base64(text.subarray(begin, begin + CHUNK_BYTES)) });
  }
  return [{ start }, ...chunks, { end: {} }];
}

function generate() {
  const request = {
    model: byId("growing-target").value || undefined,
    conversation: { messages: [{ role: "ROLE_USER", content: byId("growing-prompt").value }] },
    sampling: { temperature: number("growing-temperature") },
    stopping: { maxNewTokens: number("growing-tokens") },
    guard: {
      model: byId("growing-guard").value || undefined,
      options: options(),
      decisionPolicy: byId("growing-decision").value || undefined,
    },
  };
  return [request];
}

// A growing text, as far as it is known.
class Growing {
  constructor({ source: from, mode, threshold, text }) {
    this.isAnswer = from === "answer";
    this.isHeldBack = mode === "GUARD_MODE_HOLD_BACK";
    this.threshold = threshold;
    // What can be shown of the text: all of a text of ours, and of an answer what was sent.
    this.known = text;
    this.written = text.length;
    this.released = 0;
    // The end of what the last look that passed covers.
    this.covered = 0;
    this.kept = undefined;
    this.looks = [];
    this.ended = undefined;
    this.finished = undefined;
  }

  take(event) {
    const { released, look, retracted, heartbeat, ended, delta, finished } = event;
    if (delta) {
      this.known = joined(this.known, new TextEncoder().encode(delta.text));
      this.released = this.known.length;
    }
    if (released) {
      this.released = released.releasedBytes;
    }
    if (look) {
      this.looks.push(look);
      this.written = Math.max(this.written, look.textBytes);
      if (look.outcome === "OUTCOME_PASSED") {
        this.covered = Math.max(this.covered, look.textBytes);
      }
    }
    if (retracted) {
      this.kept = retracted.keptBytes;
    }
    if (heartbeat) {
      this.written = Math.max(this.written, heartbeat.receivedBytes);
    }
    const end = ended ?? finished?.guard;
    if (end) {
      this.ended = end;
      this.written = Math.max(this.written, end.receivedBytes);
    }
    this.finished = finished ?? this.finished;
    this.written = Math.max(this.written, this.known.length);
  }

  get isBlocked() {
    return this.ended?.reason === "REASON_POLICY";
  }
}

function joined(one, other) {
  const both = new Uint8Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}

// The parts of the text: what may be shown, what is shown and not covered by a look, and what is not released.
function parts(growing) {
  const { known, released, covered, kept, isHeldBack, ended } = growing;
  const shown = Math.min(released, known.length);
  const pieces = [];
  const add = (kind, begin, end) => {
    if (end > begin) {
      pieces.push([kind, new TextDecoder().decode(known.subarray(begin, end))]);
    }
  };
  if (isHeldBack) {
    add("released", 0, shown);
  } else {
    const sure = ended?.reason === "REASON_COMPLETE" ? shown : Math.min(kept ?? covered, shown);
    add("released", 0, sure);
    if (kept === undefined) {
      add("unsure", sure, shown);
    }
  }
  pieces.push(["mark", ""]);
  if (kept !== undefined) {
    add("retracted", kept, shown);
  }
  add(growing.isBlocked ? "blocked" : "held", shown, known.length);
  return pieces;
}

const KINDS = {
  released: undefined,
  unsure: "shown before a look has passed: ",
  retracted: "taken back: ",
  held: "held back: ",
  blocked: "never released: ",
};

function paper(growing) {
  const pieces = parts(growing).map(([kind, text]) => {
    if (kind === "mark") {
      return h("span", { class: "watermark", "aria-hidden": "true", title: `Released up to byte ${growing.released}` });
    }
    const says = KINDS[kind] && h("span", { class: "visually-hidden" }, KINDS[kind]);
    return h("span", { class: `piece ${kind}` }, says, text);
  });
  const unseen = growing.isAnswer ? growing.written - growing.known.length : 0;
  if (unseen > 0) {
    const says = growing.isBlocked ? "never released" : "held back";
    pieces.push(h("span", { class: `unseen ${growing.isBlocked ? "blocked" : ""}` }, `${counted(unseen, "byte")} ${says}`));
  } else if (growing.known.length === 0 && !growing.ended) {
    pieces.push(h("span", { class: "unseen" }, "nothing yet"));
  }
  return h("div", { class: "paper", tabIndex: 0, role: "region", "aria-label": "The text" }, pieces);
}

function legend(growing) {
  const kinds = growing.isHeldBack
    ? [["released", "released"], ["held", "held back"], ["blocked", "never released"]]
    : [["released", "released and passed"], ["unsure", "released, no look yet"], ["retracted", "taken back"]];
  return h("p", { class: "legend text" }, kinds.map(([kind, says]) => h("span", { class: kind }, says)));
}

const OUTCOMES = {
  OUTCOME_PASSED: ["passed", "safe"],
  OUTCOME_UNSAFE: ["unsafe", "unsafe"],
  OUTCOME_UNDETERMINED: ["undetermined", "undetermined"],
  OUTCOME_FAILED: ["failed", "undetermined"],
};

const HEIGHT = 150;
const EDGE = { left: 34, right: 10, top: 10, bottom: 22 };

// The score of each look over the place in the text.
function chart(growing) {
  const all = Math.max(1, growing.written);
  const width = Math.max(260, byId("growing-result").clientWidth);
  const x = (at) => EDGE.left + (at / all) * (width - EDGE.left - EDGE.right);
  const y = (value) => EDGE.top + (1 - value) * (HEIGHT - EDGE.top - EDGE.bottom);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`, class: "chart", role: "img",
    "aria-label": `Scores of ${growing.looks.length} looks. The table below has them.`,
  });
  const line = (name, from, to) =>
    svg("line", { class: name, x1: from[0], y1: from[1], x2: to[0], y2: to[1] });
  const label = (at, text, anchor) => svg("text", { x: at[0], y: at[1], "text-anchor": anchor }, text);
  const base = y(0);
  picture.append(svg("rect", {
    class: "area", x: x(0), y: y(1), width: Math.max(0, x(Math.min(all, growing.kept ?? growing.released)) - x(0)), height: base - y(1),
  }));
  for (const value of [0, 0.5, 1]) {
    picture.append(line("grid", [x(0), y(value)], [x(all), y(value)]), label([EDGE.left - 6, y(value) + 4], String(value), "end"));
  }
  picture.append(
    line("threshold", [x(0), y(growing.threshold)], [x(all), y(growing.threshold)]),
    label([x(0), HEIGHT - 6], "0", "start"),
    label([x(all), HEIGHT - 6], counted(all, "byte"), "end"),
  );
  const scored = growing.looks.filter(({ verdict }) => verdict?.unsafeScore !== undefined);
  const path = scored.map(({ textBytes, verdict }) => `${x(textBytes).toFixed(1)},${y(verdict.unsafeScore).toFixed(1)}`);
  picture.append(svg("polyline", { class: "scores", points: path.join(" ") }));
  for (const { textBytes, verdict, outcome } of scored) {
    picture.append(svg("circle", { class: (OUTCOMES[outcome] ?? ["", ""])[1], cx: x(textBytes), cy: y(verdict.unsafeScore), r: 4.5 }));
  }
  return picture;
}

function looksTable(growing) {
  const rows = growing.looks.map(({ outcome, textBytes, isFinal, verdict, error }, place) => {
    const [says, kind] = OUTCOMES[outcome] ?? ["", "undetermined"];
    const usage = verdict?.usage;
    return h("tr", {},
      h("td", { class: "number" }, String(place + 1)),
      h("td", { class: "number" }, count(textBytes), isFinal ? h("span", { class: "small" }, " end") : ""),
      h("td", {}, badge(says, kind), error ? h("span", { class: "small" }, ` ${error.message}`) : ""),
      h("td", { class: "number" }, verdict ? score(verdict.unsafeScore) : ""),
      h("td", { class: "number wide-only" },
        usage ? `${count(usage.promptTokens - usage.cachedPromptTokens)} of ${count(usage.promptTokens)}` : ""),
      h("td", { class: "number" }, verdict?.timing ? seconds(verdict.timing.total) : ""));
  });
  const head = (text, name = "number") => h("th", { scope: "col", class: name }, text);
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Looks" },
    h("table", {},
      h("thead", {}, h("tr", {}, head("Look"), head("To byte"), head("Outcome", ""), head("P(unsafe)"),
        head("Computed tokens", "number wide-only"), head("Time"))),
      h("tbody", {}, rows)));
}

function ending(growing) {
  const { ended, finished } = growing;
  const [kind, title, says] = ENDS[ended.reason] ?? ["undetermined", word(ended.reason, "REASON_"), ""];
  return h("div", { class: `ending ${kind}` },
    h("p", { class: "verdict-row" }, badge(title, kind), h("span", {}, says)),
    ended.unguarded && h("p", {}, "Some of it was released although the guard failed to judge it."),
    facts([
      ["Released", `${count(ended.releasedBytes)} of ${count(ended.receivedBytes)} bytes`],
      ["Taken back", growing.kept !== undefined && counted(ended.releasedBytes - growing.kept, "byte")],
      ["Looks", count(ended.looks)],
      ["The answer’s tokens", finished?.usage && count(finished.usage.completionTokens)],
      ["Written after the block", finished?.decodedAfterDetection !== undefined && counted(finished.decodedAfterDetection, "token")],
    ]),
    ended.error && h("p", { class: "small" }, ended.error.message));
}

function draw(growing, error) {
  const { ended } = growing;
  const verdict = ended?.verdict;
  const result = byId("growing-result");
  const focused = result.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  const tops = new Map([...result.querySelectorAll("[role=region]")].map((region) => [region.getAttribute("aria-label"), region.scrollTop]));
  result.replaceChildren(...[
    error && failure(error),
    ended ? ending(growing) : !error && progress(growing),
    paper(growing),
    legend(growing),
    growing.looks.length > 0 && h("h3", {}, "Looks"),
    growing.looks.length > 0 && chart(growing),
    growing.looks.length > 0 && looksTable(growing),
    verdict && h("div", { class: "block" },
      h("h3", {}, growing.isBlocked ? "The verdict that blocked it" : "The verdict on the whole text"), headline(verdict)),
    ended?.decision && decided(ended.decision),
  ].filter(Boolean));
  for (const region of result.querySelectorAll("[role=region]")) {
    const label = region.getAttribute("aria-label");
    region.scrollTop = tops.get(label) ?? 0;
    if (label === focused) {
      region.focus({ preventScroll: true });
    }
  }
  if (!ended && focused === null) {
    followWatermark(result);
  }
}

// Keeps the end of what is released in sight.
function followWatermark(result) {
  const page = result.querySelector(".paper");
  const mark = result.querySelector(".watermark");
  page.scrollTop = Math.max(0, mark.offsetTop - page.clientHeight / 2);
}

function progress(growing) {
  const held = growing.written - growing.released;
  return h("div", { class: "ending open" }, h("p", { class: "verdict-row" }, badge("open", "open"),
    h("span", {}, `${counted(growing.released, "byte")} released, ${count(Math.max(0, held))} held back`)));
}

function spoken(growing) {
  if (growing.ended) {
    const [, title, says] = ENDS[growing.ended.reason] ?? ["", word(growing.ended.reason, "REASON_"), ""];
    return `${title}. ${says} ${count(growing.ended.releasedBytes)} of ${count(growing.ended.receivedBytes)} bytes are released.`;
  }
  const look = growing.looks.at(-1);
  if (!look) {
    return "";
  }
  const [says] = OUTCOMES[look.outcome] ?? [""];
  return `Look ${growing.looks.length}: ${says}. ${count(growing.released)} bytes are released.`;
}

async function watch(event) {
  event.preventDefault();
  if (running) {
    return;
  }
  const from = source();
  const ownText = from === "text";
  const text = new TextEncoder().encode(ownText ? byId("growing-text").value : "");
  const growing = new Growing({
    source: from, mode: byId("growing-mode").value, threshold: number("growing-threshold") ?? 0.5, text,
  });
  const [method, requests] = ownText ? [GUARD, guardStream(text)] : [GENERATE, generate()];
  running = new AbortController();
  byId("watch").disabled = true;
  byId("growing-status").textContent = "";
  byId("stop").hidden = false;
  draw(growing);
  bringIntoView(byId("growing-result").parentElement);
  let error;
  try {
    for await (const answer of stream(method, requests, { signal: running.signal })) {
      growing.take(answer);
      draw(growing);
      byId("growing-status").textContent = spoken(growing);
    }
  } catch (caught) {
    error = caught;
    draw(growing, error);
  } finally {
    running = undefined;
    byId("watch").disabled = false;
    byId("stop").hidden = true;
  }
}

function setExample(example) {
  document.querySelector(`input[name="source"][value="${example.source}"]`).checked = true;
  byId("growing-prompt").value = example.prompt;
  byId("growing-text").value = example.text;
  showSource();
}

export function startGrowing() {
  const examples = byId("growing-example");
  setOptions(examples, EXAMPLES.map(({ name }, place) => ({ value: String(place), text: name })));
  examples.addEventListener("change", () => setExample(EXAMPLES[Number(examples.value)]));
  setExample(EXAMPLES[0]);
  for (const radio of document.querySelectorAll('input[name="source"]')) {
    radio.addEventListener("change", showSource);
  }
  const form = byId("growing-form");
  form.addEventListener("submit", watch);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      form.requestSubmit();
    }
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("growing-result").replaceChildren(h("p", { class: "empty" },
    "Nothing is watched yet. Press Watch to send the text as if it were being written, and see how far the guard lets it through."));
}
