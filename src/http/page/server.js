// Shows what the server is doing: its models, queue, tokens, KV cache and verdicts.

import { call } from "./connect.js";
import { badge, byId, bytes, count, facts, failure, h, meter, percent, svg, word } from "./dom.js";

const EVERY_MS = 2000;
// Readings that are kept: those of three minutes.
const KEPT = 90;
const MOST_MODELS = 1000;

let isShown = false;
let isPaused = false;
let isReading = false;
// Each has `at`, in milliseconds by the server's clock, with the counts of all models.
let readings = [];

export function showServer(shown) {
  isShown = shown;
  if (shown) {
    tick();
  }
}

function tick() {
  if (isShown && !isPaused && !isReading && !document.hidden) {
    readServer();
  }
}

async function readServer() {
  isReading = true;
  const [models, stats] = await Promise.allSettled([
    call("/babelward.v1.ModelService/ListModels", { pageSize: MOST_MODELS }),
    call("/babelward.v1.ModelService/GetServerStats", {}),
  ]);
  isReading = false;
  const notice = byId("server-notice");
  if (models.status === "rejected") {
    notice.replaceChildren(failure(models.reason));
    return;
  }
  const counts = stats.status === "fulfilled" ? stats.value.answer : undefined;
  notice.replaceChildren(...(counts ? [] : [withoutCounts(stats.reason)]));
  if (counts) {
    const restarted = readings.length > 0 && totals(counts).all < totals(readings.at(-1)).all;
    readings = [...(restarted ? [] : readings), counts].slice(-KEPT);
  }
  draw(models.value.answer.models, counts);
}

function withoutCounts(error) {
  if (error.reason === "SCOPE_MISSING") {
    return h("p", { class: "note" }, "Tokens, verdicts and caches are told to keys with the scope metrics; this one does not have it.");
  }
  return failure(error);
}

function totals({ models }) {
  const sum = (field) => models.reduce((all, model) => all + model[field], 0);
  const computed = sum("computedPromptTokens");
  const cached = sum("cachedPromptTokens");
  const generated = sum("generatedTokens");
  return { computed, cached, generated, all: computed + cached + generated };
}

// How much counts have grown for each second from one reading to the next.
function rates(counted) {
  return readings.slice(1).map((now, place) => {
    const before = readings[place];
    const time = Math.max(1e-3, (now.readTime - before.readTime) / 1000);
    return Math.max(0, counted(now) - counted(before)) / time;
  });
}

function sparkline(values, label) {
  const [width, height] = [240, 36];
  const most = Math.max(...values, 1e-9);
  const x = (place) => width - (values.length - 1 - place) * (width / (KEPT - 1));
  const points = values.map((value, place) => `${x(place).toFixed(1)},${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "spark", role: "img", "aria-label": label, preserveAspectRatio: "none" });
  if (points.length > 1) {
    picture.append(svg("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" }));
  }
  return picture;
}

function tile(name, figure, ...more) {
  return h("div", { class: "tile" }, h("p", { class: "tile-name" }, name), h("p", { class: "figure" }, figure), ...more);
}

function rateTile(name, counted) {
  const values = rates(counted);
  const now = values.at(-1);
  const text = now === undefined ? "–" : count(Math.round(now));
  const most = values.length > 0 ? Math.round(Math.max(...values)) : 0;
  return tile(name, text, sparkline(values, `${name}: ${text} now, ${most} at most in three minutes`));
}

function draw(models, counts) {
  const sum = (field) => (counts?.models ?? models).reduce((all, model) => all + model[field], 0);
  const tiles = [tile("Waiting", count(sum("queueDepth"))), tile("Running", count(sum("inFlight")))];
  if (counts) {
    const { computed, cached } = totals(counts);
    const prompts = computed + cached;
    const highest = Math.max(0, ...counts.models.map(({ kvUsage }) => kvUsage));
    tiles.push(
      rateTile("Prompt tokens/s", (reading) => totals(reading).computed),
      rateTile("Written tokens/s", (reading) => totals(reading).generated),
      tile("Prompt tokens from the cache", prompts > 0 ? percent(cached / prompts) : "–",
        meter(prompts > 0 ? cached / prompts : 0, "safe", `${count(cached)} of ${count(prompts)} prompt tokens`),
        h("p", { class: "small" }, `${count(cached)} of ${count(prompts)}`)),
      tile("KV cache in use", percent(highest), meter(highest, highest > 0.9 ? "controversial" : "safe", `${percent(highest)} of the KV cache`)),
      verdictTile(counts.verdicts),
    );
  }
  byId("server-totals").replaceChildren(...tiles);
  byId("server-models").replaceChildren(...models.map((model) => modelCard(model, counts)));
}

const LABELS = [["safe", "safeCount"], ["unsafe", "unsafeCount"], ["controversial", "controversialCount"], ["undetermined", "undeterminedCount"]];

function verdictTile(verdicts) {
  const all = LABELS.map(([label, field]) => [label, verdicts.reduce((sum, guard) => sum + guard[field], 0)]);
  const number = all.reduce((sum, [, given]) => sum + given, 0);
  const parts = all.filter(([, given]) => given > 0);
  const bar = h("div", { class: "split tall", role: "img", "aria-label": parts.map(([label, given]) => `${given} ${label}`).join(", ") || "none" },
    parts.map(([label, given]) => {
      const part = h("span", { class: label });
      part.style.setProperty("inline-size", `${(100 * given) / number}%`);
      return part;
    }));
  const words = parts.map(([label, given]) => h("span", { class: label }, `${label} ${count(given)} (${percent(given / number)})`));
  const wide = tile("Verdicts since the start", count(number), bar, h("p", { class: "legend" }, words));
  wide.classList.add("wide-tile");
  return wide;
}

const STATES = { STATE_READY: "safe", STATE_LOADING: "controversial", STATE_DRAINING: "controversial", STATE_FAILED: "unsafe" };
const ABILITIES = {
  CAPABILITY_GENERATE: "writes",
  CAPABILITY_CLASSIFY: "judges",
  CAPABILITY_ESTIMATE_QUALITY: "rates translations",
  CAPABILITY_CLASSIFY_TEXT: "labels texts",
};

function modelCard(model, counts) {
  const stats = counts?.models.find(({ names }) => names.includes(model.name));
  const others = stats?.names.filter((name) => name !== model.name) ?? [];
  return h("article", { class: "card model", "aria-label": model.name },
    h("div", { class: "card-head" }, h("h3", {}, model.name), badge(word(model.state, "STATE_"), STATES[model.state] ?? "undetermined")),
    h("p", { class: "small" }, model.capabilities.map((one) => ABILITIES[one] ?? word(one, "CAPABILITY_")).join(", "),
      others.length > 0 ? ` · shares memory and counts with ${others.join(", ")}` : ""),
    model.error && h("p", { class: "failure" }, model.error),
    stats && h("div", { class: "kv" },
      h("span", {}, `KV cache ${percent(stats.kvUsage)}`),
      meter(stats.kvUsage, stats.kvUsage > 0.9 ? "controversial" : "safe", `${percent(stats.kvUsage)} of the KV cache in use`)),
    facts([
      ["Waiting", count(model.queueDepth)],
      ["Running", count(model.inFlight)],
      ["Prompt tokens computed", stats && count(stats.computedPromptTokens)],
      ["Found in the cache", stats && count(stats.cachedPromptTokens)],
      ["Tokens written", stats && count(stats.generatedTokens)],
      ["Architecture", model.architecture],
      ["Parameters", model.parameters > 0 && millions(model.parameters)],
      ["Weights", model.dtype],
      ["Precision", word(model.precision, "PRECISION_")],
      ["Device", [model.device, model.instructionSet].filter(Boolean).join(", ")],
      ["Window", model.contextTokens > 0 && `${count(model.contextTokens)} tokens`],
      ["Memory of weights", model.weightBytes > 0 && bytes(model.weightBytes)],
      ["Memory for the KV cache", model.kvBytes > 0 && bytes(model.kvBytes)],
    ]));
}

function millions(number) {
  return number >= 1e9 ? `${(number / 1e9).toFixed(1)} billion` : `${(number / 1e6).toFixed(1)} million`;
}

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").textContent = isPaused ? "Go on" : "Pause";
  byId("server-hint").textContent = isPaused ? "paused" : "read every two seconds";
  tick();
});
document.addEventListener("visibilitychange", tick);
setInterval(tick, EVERY_MS);
