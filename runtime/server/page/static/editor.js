// The editor: CodeMirror with suggestions from the server's filling in the middle.
import { events } from "./api.js";
import {
  Compartment, EditorState, EditorView, StreamLanguage, bracketMatching, classHighlighter,
  defaultKeymap, drawSelection, highlightActiveLine, highlightActiveLineGutter, history,
  historyKeymap, indentOnInput, indentUnit, indentWithTab, keymap, lineNumbers, syntaxHighlighting,
} from "./codemirror.js";
import { ghostText, suggest } from "./ghost.js";
import { LANGUAGES } from "./languages.js";
import { Speed } from "./speed.js";

const $ = (id) => document.getElementById(id);
const TEXT = "trtcoder.text";
const LANGUAGE = "trtcoder.language";
const SINGLE = "trtcoder.single";
const TYPING = "trtcoder.typing";
const MOST_TOKENS = 96;
const SAMPLE = [
  `def quick_sort(values):
    if len(values) <= 1:
        return values
    pivot = values[len(values) // 2]
    left = `,
  `


print(quick_sort([3, 1, 2]))
`,
];

export class Editor {
  #engine = null;
  #announce;
  #view;
  #language = new Compartment();
  #isShown = false;
  #latest = null;

  constructor(announce) {
    this.#announce = announce;
    this.#view = this.#build();
    const menu = $("language");
    for (const name of ["Plain text", ...LANGUAGES.keys()]) menu.append(new Option(name));
    menu.value = sessionStorage.getItem(LANGUAGE) ?? "Python";
    this.#setLanguage(menu.value);
    menu.addEventListener("change", () => this.#setLanguage(menu.value));
    for (const [id, name] of [["single", SINGLE], ["typing", TYPING]]) {
      const kept = sessionStorage.getItem(name);
      if (kept !== null) $(id).checked = kept === "true";
      $(id).addEventListener("change", () => sessionStorage.setItem(name, $(id).checked));
    }
  }

  /** Asks `engine` from now on; one that does not fill in the middle is said to. */
  use(engine) {
    this.#engine = engine;
    const refuses = engine && !engine.fim;
    $("editor-refusal").hidden = !refuses;
    if (refuses) {
      $("editor-refusal").textContent =
        `${engine.name} was not trained to fill in the middle: it suggests nothing here.` +
        (engine.chat ? " It chats." : "");
    }
    for (const id of ["typing", "single"]) $(id).disabled = refuses;
    this.#begin();
  }

  /** Takes the focus, and asks for a first suggestion. */
  show() {
    this.#isShown = true;
    this.#view.requestMeasure();
    this.#view.focus();
    this.#begin();
  }

  #begin() {
    // The sample's hole shows what the editor is for.
    if (this.#isShown && this.#engine?.fim && sessionStorage.getItem(TEXT) === null) {
      suggest(this.#view);
    }
  }

  #build() {
    // In a shadow root CodeMirror's styles are objects and not <style>, which the page's policy
    // does not let in.
    const root = $("code").attachShadow({ mode: "open" });
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = "/page/code.css";
    root.append(style);
    const kept = sessionStorage.getItem(TEXT);
    const state = EditorState.create({
      doc: kept ?? SAMPLE.join(""),
      selection: { anchor: kept === null ? SAMPLE[0].length : 0 },
      extensions: [
        lineNumbers(), history(), drawSelection(), highlightActiveLine(), highlightActiveLineGutter(),
        indentOnInput(), bracketMatching(), indentUnit.of("    "),
        syntaxHighlighting(classHighlighter),
        this.#language.of([]),
        // On a phone a long line is easier to read in several.
        matchMedia("(max-width: 48rem)").matches ? EditorView.lineWrapping : [],
        ghostText((hole, isWanted, signal) => this.#ask(hole, isWanted, signal)),
        keymap.of([...defaultKeymap, ...historyKeymap, indentWithTab]),
        EditorView.contentAttributes.of({
          "aria-label": "Code. Tab takes a suggestion; Escape and then Tab leaves the editor.",
          spellcheck: "false", autocapitalize: "off", autocorrect: "off",
        }),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) keep(update.state.doc.toString());
        }),
        EditorView.theme(THEME),
      ],
    });
    return new EditorView({ state, parent: root, root });
  }

  #setLanguage(name) {
    sessionStorage.setItem(LANGUAGE, name);
    const language = LANGUAGES.get(name);
    this.#view.dispatch({
      effects: this.#language.reconfigure(language instanceof StreamLanguage ? language : []),
    });
  }

  async *#ask({ prefix, suffix, behind }, isWanted, signal) {
    if (!this.#engine?.fim || !(isWanted || $("typing").checked)) return;
    const speed = new Speed($("editor-speed"));
    this.#latest = signal;
    this.#tell("…");
    const body = {
      model: this.#engine.name,
      prompt: prefix,
      suffix,
      max_tokens: MOST_TOKENS,
      temperature: 0,
      stream_options: { include_usage: true },
      trtcoder: {
        anchored: true,
        trim_suffix: true,
        // Where text stands behind the cursor, more than the line would tear it apart.
        single_line: $("single").checked || behind.trim() !== "",
      },
    };
    let text = "";
    try {
      for await (const event of events("/v1/completions", body, signal)) {
        const piece = event.choices[0]?.text;
        if (piece) {
          text += piece;
          speed.piece();
          yield piece;
        }
        if (event.usage) speed.finish(event.usage);
      }
      this.#tell(text.trim() ? "" : "Nothing to suggest here.");
      if (text.trim()) this.#announce(`Suggestion: ${text}`);
    } catch (error) {
      if (error.name !== "AbortError") {
        this.#tell(error.message, true);
        this.#announce(error.message);
      } else if (this.#latest === signal) {
        this.#tell("");
      }
    } finally {
      speed.end();
    }
  }

  #tell(text, isError = false) {
    $("editor-state").textContent = text;
    $("editor-state").classList.toggle("error", isError);
  }
}

/** Keeps the text for a reload; one that is too long for a tab's storage is not kept. */
function keep(text) {
  try {
    sessionStorage.setItem(TEXT, text);
  } catch {
    sessionStorage.removeItem(TEXT);
  }
}

const THEME = {
  "&": { height: "100%", fontSize: "0.9rem", color: "var(--ink)", backgroundColor: "transparent" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", fontVariantLigatures: "none", lineHeight: "1.55" },
  ".cm-content": { caretColor: "var(--ink)", padding: "0.6rem 0" },
  ".cm-gutters": { backgroundColor: "transparent", color: "var(--muted)", border: "none" },
  ".cm-lineNumbers .cm-gutterElement": { padding: "0 0.9rem 0 0.8rem" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "var(--tint)" },
  ".cm-cursor": { borderLeftColor: "var(--ink)", borderLeftWidth: "2px" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    background: "var(--selection) !important",
  },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "transparent", outline: "1px solid var(--muted)" },
  ".ghost": { color: "var(--ghost)", fontStyle: "italic", cursor: "pointer" },
};
