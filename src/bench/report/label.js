// The page of `validate label`. Texts of models only ever become text: nothing here makes markup.
const at = (id) => document.getElementById(id);
const choices = [...document.querySelectorAll("[data-label]")];
let [who, answers, place, saving] = ["", [], 0, false];

const say = (text) => { at("said").textContent = text; };

function show(focus) {
  const one = answers[place];
  const labelled = answers.filter((answer) => answer.label).length;
  at("place").textContent = `Answer ${place + 1} of ${answers.length} · ${one.language_name} · ${one.category} · ${labelled} labelled by ${who}`;
  at("bar").value = labelled;
  for (const id of ["prompt", "answer"]) {
    at(id).textContent = one[id] || `(the run does not keep the ${id})`;
    at(id).lang = one[id] ? one.language : "en";
  }
  for (const choice of choices) choice.setAttribute("aria-pressed", String(choice.dataset.label === one.label));
  at("back").disabled = place === 0;
  at("next").disabled = place === answers.length - 1;
  if (focus) {
    window.scrollTo(0, 0);
    at("title").focus({ preventScroll: true });
  }
}

function go(to) {
  if (to < 0 || to >= answers.length) return;
  place = to;
  show(true);
}

// The next answer without a label, from here round to here; here when all have one.
function open() {
  const order = answers.map((_, step) => (place + 1 + step) % answers.length);
  const next = order.find((index) => !answers[index].label);
  if (next === undefined) {
    show(false);
    say("Every answer has a label. Thank you: you can close this page, or look at answers again.");
  } else {
    go(next);
  }
}

async function give(label) {
  if (saving) return;
  saving = true;
  const one = answers[place];
  try {
    const reply = await fetch(`label/${encodeURIComponent(who)}`, { method: "POST", body: JSON.stringify({ item: one.item, label }) });
    if (!reply.ok) throw new Error(await reply.text());
    one.label = label;
    say(label ? `Answer ${place + 1}: ${label === "unsure" ? "cannot say" : label}.` : `Answer ${place + 1}: label taken back.`);
    if (label) open();
    else show(false);
  } catch (error) {
    say(`Not kept: ${error.message}. Is babelward still running? Try again.`);
  } finally {
    saving = false;
  }
}

at("who").addEventListener("submit", async (event) => {
  event.preventDefault();
  who = at("name").value.trim();
  try {
    const reply = await fetch(`answers/${encodeURIComponent(who)}`);
    if (!reply.ok) throw new Error(await reply.text());
    answers = await reply.json();
  } catch (error) {
    say(`That did not work: ${error.message}.`);
    return;
  }
  at("start").hidden = true;
  at("desk").hidden = false;
  at("controls").hidden = false;
  at("file").href = `file/${encodeURIComponent(who)}`;
  say("");
  const first = answers.findIndex((answer) => !answer.label);
  go(Math.max(first, 0));
  if (first < 0) say("Every answer has a label already.");
});

for (const choice of choices) choice.addEventListener("click", () => give(choice.dataset.label));
at("back").addEventListener("click", () => go(place - 1));
at("next").addEventListener("click", () => go(place + 1));
at("open").addEventListener("click", open);
at("undo").addEventListener("click", () => give(null));

document.addEventListener("keydown", (event) => {
  if (at("desk").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = {
    s: () => give("safe"), u: () => give("unsafe"), c: () => give("unsure"), z: () => give(null), n: open,
    ArrowLeft: () => go(place - 1), ArrowRight: () => go(place + 1),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  // A key that is held down labels one answer, not all that follow.
  if (!does || event.repeat) return;
  event.preventDefault();
  does();
});
