// Elements of the page. Texts become text nodes, never markup.

// An element with properties and children. `class`, `aria-…`, `data-…`, `role` and `for` are attributes, functions are listeners.
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) {
      continue;
    }
    if (typeof value === "function") {
      element.addEventListener(name, value);
    } else if (name in element && !name.includes("-")) {
      element[name] = value;
    } else if (value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

// The same for pictures.
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function byId(id) {
  return document.getElementById(id);
}

// Replaces the choices of a list, and keeps what was chosen where it is still there.
export function setOptions(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(({ value, text }) => h("option", { value }, text)));
  if (options.some(({ value }) => value === chosen)) {
    select.value = chosen;
  }
}

// A button that copies what `text` gives.
export function copyButton(text, what) {
  const button = h("button", { type: "button", className: "quiet" }, `Copy ${what}`);
  button.addEventListener("click", async () => {
    const copied = await copy(text());
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => {
      button.textContent = `Copy ${what}`;
    }, 2000);
  });
  return button;
}

// Browsers have a clipboard for pages from this machine or with TLS; for others there is the older way.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { value: text, className: "off-screen", "aria-hidden": "true" });
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

const whole = new Intl.NumberFormat("en");

export function count(number) {
  return whole.format(number);
}

// A number of things, such as "1 token" and "2 tokens".
export function counted(number, one) {
  return `${count(number)} ${one}${number === 1 ? "" : "s"}`;
}

// Shows an element that the page has below its form, where there is no room beside it.
export function bringIntoView(element) {
  const { top } = element.getBoundingClientRect();
  if (top > window.innerHeight * 0.7) {
    element.scrollIntoView({ block: "start" });
  }
}

// A share or probability, to three places.
export function score(number) {
  return number === undefined ? "none" : number.toFixed(3);
}

export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

export function seconds(time) {
  if (time >= 10) {
    return `${time.toFixed(1)} s`;
  }
  return time >= 1 ? `${time.toFixed(2)} s` : `${Math.round(time * 1000)} ms`;
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

// "LABEL_UNSAFE" without its prefix, in small letters.
export function word(value, prefix) {
  const known = value.startsWith(prefix) ? value.slice(prefix.length) : value;
  return known.replaceAll("_", " ").toLowerCase();
}

const GLYPHS = { safe: "✓", unsafe: "✕", controversial: "≈", undetermined: "?", passed: "✓", failed: "!" };

// A word with a colour and a sign of its own.
export function badge(text, kind = text) {
  return h("span", { class: `badge ${kind}` }, h("span", { class: "glyph", "aria-hidden": "true" }, GLYPHS[kind] ?? "•"), text);
}

// A bar that shows a share of one.
export function meter(share, kind, label) {
  const fill = h("span", { class: `fill ${kind}` });
  fill.style.setProperty("inline-size", `${Math.min(1, Math.max(0, share)) * 100}%`);
  return h("span", { class: "meter", role: "img", "aria-label": label }, fill);
}

// Pairs of a name and what there is to say.
export function facts(pairs) {
  const said = pairs.filter(([, value]) => value !== undefined && value !== "" && value !== false);
  return h("dl", { class: "facts" }, said.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

// The titles of what somebody has opened: it stays open with the next result.
const opened = new Set();

// Something to open.
export function disclosure(title, ...children) {
  const element = h("details", { open: opened.has(title) }, h("summary", {}, title), children);
  element.addEventListener("toggle", () => (element.open ? opened.add(title) : opened.delete(title)));
  return element;
}

// What the server says of a call that failed.
export function failure(error) {
  const fields = (error.fields ?? []).map(({ field, description }) =>
    h("li", {}, h("code", {}, field || "(request)"), ` ${description}`));
  const small = [
    error.reason && h("code", {}, error.reason),
    error.code && ` ${error.code}`,
    error.status ? ` · HTTP ${error.status}` : "",
    error.retryAfter ? ` · try again in ${error.retryAfter} s` : "",
    error.requestId ? ` · request ${error.requestId}` : "",
  ];
  return h("div", { class: "failure", role: "alert" },
    h("p", {}, fields.length > 0 ? "The server does not take this request:" : error.message),
    fields.length > 0 && h("ul", {}, fields),
    h("p", { class: "small" }, small.filter(Boolean)));
}
