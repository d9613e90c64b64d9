// The page: which engine it talks to, how it looks, and whether the server is there.
import { connection, hasKey, request, setKey } from "./api.js";
import { Chat } from "./chat.js";
import { Editor } from "./editor.js";

const $ = (id) => document.getElementById(id);
const ENGINE = "trtcoder.engine";
const VIEW = "trtcoder.view";
const THEME = "trtcoder.theme";
const CALM = 15_000;
const URGENT = 2_000;

const announce = (text) => { $("announcement").textContent = text; };
const chat = new Chat(announce);
const editor = new Editor(announce);
let engines = [];
// A server that was away may have come back with other engines.
let isStale = false;

function useEngine(name) {
  const engine = engines.find((each) => each.name === name) ?? engines[0] ?? null;
  $("summary").textContent = engine ? describe(engine) : "Engine";
  $("certificate").replaceChildren(...(engine ? certificate(engine) : []));
  chat.use(engine);
  editor.use(engine);
}

function describe(engine) {
  return engine.quality ? `${engine.name}, ${engine.quality}` : engine.name;
}

function certificate(engine) {
  const made = engine.certificate.map((line) => {
    const place = document.createElement("p");
    place.textContent = line;
    return place;
  });
  if (!engine.report) return made;
  const link = document.createElement("a");
  link.href = engine.report;
  link.target = "_blank";
  link.rel = "noopener";
  link.textContent = "The whole report";
  return [...made, link];
}

/** Reads what the server has; until an engine is loaded it is asked again. */
async function load() {
  let about;
  try {
    about = await (await request("/about")).json();
  } catch {
    return; // said by `connection`, or by the form of the key
  }
  $("key").hidden = true;
  engines = about.engines;
  const menu = $("engines");
  menu.replaceChildren(...engines.map((each) => new Option(each.name)));
  $("choice").hidden = engines.length < 2;
  const kept = sessionStorage.getItem(ENGINE);
  if (engines.some((each) => each.name === kept)) menu.value = kept;
  useEngine(menu.value);
}

/** Shows whether the server takes requests, and asks again: calmly while it does. */
async function watch() {
  let problem = null;
  try {
    const response = await fetch("/health/ready", { cache: "no-store" });
    if (!response.ok) problem = (await response.json()).reason ?? "the server is not ready";
  } catch {
    problem = "the server cannot be reached";
  }
  tell(problem);
  if (problem === null && (isStale || engines.length === 0) && $("key").hidden) {
    isStale = false;
    await load();
  }
  setTimeout(watch, problem === null ? CALM : URGENT);
}

function tell(problem) {
  isStale ||= problem !== null;
  const text = problem === null ? "" : `${problem[0].toUpperCase()}${problem.slice(1)}.`;
  if ($("health").textContent !== text) $("health").textContent = text;
}

function show(view) {
  for (const name of ["chat", "editor"]) {
    const isShown = name === view;
    $(name).hidden = !isShown;
    $(`${name}-tab`).ariaSelected = String(isShown);
    $(`${name}-tab`).tabIndex = isShown ? 0 : -1;
  }
  sessionStorage.setItem(VIEW, view);
}

function enter(view) {
  show(view);
  (view === "editor" ? editor : chat).show();
}

const isShown = (view) => !$(view).hidden;

for (const name of ["chat", "editor"]) {
  $(`${name}-tab`).addEventListener("click", () => enter(name));
  $(`${name}-tab`).addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = name === "chat" ? "editor" : "chat";
    show(other);
    $(`${other}-tab`).focus();
  });
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.code === "Backquote") {
    event.preventDefault();
    enter(isShown("chat") ? "editor" : "chat");
  } else if (event.key === "Escape" && isShown("chat") && chat.isRunning) {
    chat.stop();
  }
});

connection.addEventListener("key-needed", () => {
  $("key-refused").hidden = !hasKey();
  $("key").hidden = false;
  $("about").open = true;
  $("key-value").focus();
});
connection.addEventListener("reached", () => tell(null));
connection.addEventListener("lost", () => tell("the server cannot be reached"));

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key-value").value.trim());
  $("key-value").value = "";
  load();
});
$("engines").addEventListener("change", () => {
  sessionStorage.setItem(ENGINE, $("engines").value);
  useEngine($("engines").value);
});

const theme = localStorage.getItem(THEME) ?? "auto";
for (const radio of document.querySelectorAll("[name=theme]")) {
  radio.checked = radio.value === theme;
  radio.addEventListener("change", () => {
    localStorage.setItem(THEME, radio.value);
    if (radio.value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = radio.value;
  });
}
if (/Mac|iPhone|iPad/.test(navigator.platform)) {
  for (const key of document.querySelectorAll("kbd.mod")) key.textContent = "⌘";
}

const wide = matchMedia("(min-width: 48rem)");
const fold = () => { $("about").open = wide.matches || !$("key").hidden; };
wide.addEventListener("change", fold);
fold();
chat.use(null);
const view = sessionStorage.getItem(VIEW) ?? "chat";
show(view);
await load();
if (document.activeElement === document.body) enter(view);
watch();
