// The page as a whole: its tabs, the server's health, the key, and the lists of what the server has.

import { call, hasKey, setKey } from "./connect.js";
import { byId, failure, h, setOptions } from "./dom.js";
import { startConversation } from "./conversation.js";
import { startGrowing } from "./growing.js";
import { showServer } from "./server.js";

const TABS = ["conversation", "growing", "server"];
const HEALTH_EVERY_MS = 10_000;
const MOST_MODELS = 1000;

function choose(name, { focus = false } = {}) {
  for (const tab of TABS) {
    const button = byId(`tab-${tab}`);
    const chosen = tab === name;
    button.setAttribute("aria-selected", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
    byId(`panel-${tab}`).hidden = !chosen;
    if (chosen && focus) {
      button.focus();
    }
  }
  if (location.hash !== `#${name}`) {
    history.replaceState(null, "", `#${name}`);
  }
  showServer(name === "server");
}

function startTabs() {
  TABS.forEach((name, place) => {
    const button = byId(`tab-${name}`);
    button.addEventListener("click", () => choose(name));
    button.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: TABS.length - 1, Home: TABS.length - place, End: TABS.length - 1 - place };
      const step = steps[event.key];
      if (step !== undefined) {
        event.preventDefault();
        choose(TABS[(place + step) % TABS.length], { focus: true });
      }
    });
  });
  const wanted = () => TABS.find((name) => location.hash === `#${name}`);
  window.addEventListener("hashchange", () => {
    const name = wanted();
    if (name) {
      choose(name);
    }
  });
  choose(wanted() ?? TABS[0]);
}

async function checkHealth() {
  const health = byId("health");
  let state = "gone";
  let text = "not reachable";
  try {
    const { answer } = await call("/grpc.health.v1.Health/Check", {});
    const serves = answer.status === "SERVING";
    state = serves ? "serving" : "waiting";
    text = serves ? `serving${version ? ` · ${version}` : ""}` : "not serving";
  } catch (error) {
    if (error.status) {
      text = "refuses";
    }
  }
  if (health.dataset.state !== state || byId("health-text").textContent !== text) {
    health.dataset.state = state;
    byId("health-text").textContent = text;
  }
}

let version = "";

// Asks the server what it has, and fills the lists.
async function readLists() {
  const notice = byId("notice");
  try {
    const [models, policies] = await Promise.all([
      call("/babelward.v1.ModelService/ListModels", { pageSize: MOST_MODELS }),
      call("/babelward.v1.SafetyService/ListPolicies", {}),
    ]);
    version = models.answer.serverVersion;
    fillLists(models.answer.models, policies.answer);
    const hasGuard = models.answer.models.some(({ capabilities }) => capabilities.includes("CAPABILITY_CLASSIFY"));
    notice.hidden = hasGuard;
    notice.replaceChildren(h("p", { class: "note" }, "This server has no guard, so it judges nothing: start it with --guard."));
  } catch (error) {
    notice.hidden = false;
    if (error.wantsKey) {
      const says = hasKey() ? "The server does not take this key." : "This server asks for a key.";
      const enter = h("button", { type: "button", click: openKey }, "Enter a key");
      notice.replaceChildren(h("div", { class: "note row" }, h("p", {}, says), enter));
    } else {
      const again = h("button", { type: "button", click: readLists }, "Try again");
      notice.replaceChildren(failure(error), again);
    }
  }
  await checkHealth();
}

function fillLists(models, { policies, decisionPolicies }) {
  const able = (capability) =>
    models.filter(({ capabilities }) => capabilities.includes(capability)).map(({ name }) => ({ value: name, text: name }));
  const guards = [{ value: "", text: "server’s default" }, ...able("CAPABILITY_CLASSIFY")];
  setOptions(byId("conversation-guard"), guards);
  setOptions(byId("growing-guard"), guards);
  setOptions(byId("growing-target"), [{ value: "", text: "server’s default" }, ...able("CAPABILITY_GENERATE")]);
  const named = policies.map(({ policy }) => ({ value: policy.name, text: policy.name }));
  setOptions(byId("conversation-policy"), [{ value: "", text: "the guard’s own" }, ...named]);
  const decided = decisionPolicies.find(({ isDefault }) => isDefault);
  const none = decided ? `server’s default (${decided.name})` : "none";
  const decisions = decisionPolicies.map(({ name, version: number }) => `${name}@${number}`);
  const choices = [{ value: "", text: none }, ...decisions.map((name) => ({ value: name, text: name }))];
  setOptions(byId("conversation-decision"), choices);
  setOptions(byId("growing-decision"), choices);
}

function openKey() {
  byId("key").value = "";
  byId("key-forget").hidden = !hasKey();
  byId("key-dialog").showModal();
}

function useKey(value) {
  setKey(value);
  byId("key").value = "";
  byId("key-dialog").close();
  byId("key-button").textContent = hasKey() ? "Key in use" : "Key";
  readLists();
}

function startKey() {
  byId("key-button").addEventListener("click", openKey);
  byId("key-forget").addEventListener("click", () => useKey(""));
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(byId("key").value);
  });
}

fillLists([], { policies: [], decisionPolicies: [] });
startTabs();
startKey();
startConversation();
startGrowing();
readLists();
setInterval(() => {
  if (!document.hidden) {
    checkHealth();
  }
}, HEALTH_EVERY_MS);
