// A suggestion at the cursor, shown as grey text: what it is, how it is taken, and when it goes.
import {
  Decoration, EditorView, Prec, StateEffect, StateField, ViewPlugin, WidgetType, isolateHistory, keymap,
} from "./codemirror.js";

const setGhost = StateEffect.define();
const NOTHING = null;

/** The suggestion of a state: `{at, text}`, or null. */
const ghostField = StateField.define({
  create: () => NOTHING,
  update(ghost, transaction) {
    for (const effect of transaction.effects) {
      if (effect.is(setGhost)) return effect.value;
    }
    if (!ghost) return NOTHING;
    // What an input method composes is not typed yet.
    if (transaction.isUserEvent("input.type.compose")) return NOTHING;
    if (transaction.docChanged) {
      const typed = typedInto(ghost.at, transaction.changes);
      if (!typed || !ghost.text.startsWith(typed)) return NOTHING;
      // What was typed is what was suggested: the rest still is.
      const rest = ghost.text.slice(typed.length);
      return rest ? { at: ghost.at + typed.length, text: rest } : NOTHING;
    }
    const { main } = transaction.state.selection;
    return main.empty && main.head === ghost.at ? ghost : NOTHING;
  },
  provide: (field) =>
    EditorView.decorations.from(field, (ghost) =>
      ghost
        ? Decoration.set(Decoration.widget({ widget: new Ghost(ghost.text), side: 1 }).range(ghost.at))
        : Decoration.none),
});

/** Text in the line, with its line breaks, so that what follows stands where it will stand. */
class Ghost extends WidgetType {
  constructor(text) {
    super();
    this.text = text;
  }

  eq(other) {
    return other.text === this.text;
  }

  get lineBreaks() {
    return this.text.split("\n").length - 1;
  }

  toDOM(view) {
    const span = document.createElement("span");
    span.className = "ghost";
    // It is announced once, when it is whole.
    span.ariaHidden = "true";
    span.textContent = this.text;
    // A phone has no Tab.
    span.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      take(view, (text) => text);
      view.focus();
    });
    return span;
  }
}

/** Returns the text of changes that only insert at `at`, or an empty text. */
function typedInto(at, changes) {
  let typed = "";
  let isOther = false;
  changes.iterChanges((from, to, _, __, inserted) => {
    if (from !== at || to !== at || typed) isOther = true;
    else typed = inserted.toString();
  });
  return isOther ? "" : typed;
}

/** The first word of a suggestion, with the space before it and the marks that belong to it. */
const FIRST_WORD = /^\s*(?:[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]+|$)/u;

/** Puts the first `length` characters of the suggestion into the text, as one step to undo. */
function take(view, wanted) {
  const ghost = view.state.field(ghostField);
  if (!ghost || view.composing) return false;
  const text = wanted(ghost.text);
  const rest = ghost.text.slice(text.length);
  const at = ghost.at + text.length;
  view.dispatch({
    changes: { from: ghost.at, insert: text },
    selection: { anchor: at },
    effects: setGhost.of(rest ? { at, text: rest } : NOTHING),
    annotations: isolateHistory.of("full"),
    userEvent: "input.complete",
    scrollIntoView: true,
  });
  return true;
}

function drop(view) {
  const asker = view.plugin(askerPlugin);
  const wasAsking = asker.cancel();
  if (!view.state.field(ghostField)) return wasAsking;
  view.dispatch({ effects: setGhost.of(NOTHING) });
  return true;
}

/** What of a suggestion is shown: before the end of a line no space at its own end. */
function visible(text, behind) {
  return behind.trim() ? text : text.trimEnd();
}

/** Milliseconds of quiet before a suggestion is asked for. */
const QUIET = 120;
let askerPlugin;

/** Asks for a suggestion when typing pauses, and forgets the question when typing goes on. */
class Asker {
  #view;
  #ask;
  #timer = 0;
  #controller = null;
  // Characters of the running answer that are in the text already.
  #taken = 0;

  constructor(view, ask) {
    this.#view = view;
    this.#ask = ask;
  }

  update(update) {
    const before = update.startState.field(ghostField);
    const ghost = update.state.field(ghostField);
    if (!update.docChanged) {
      if (update.selectionSet) this.cancel();
      return;
    }
    if (before && ghost && ghost.at > before.at) {
      this.#taken += ghost.at - before.at;
      return;
    }
    this.cancel();
    const isTyping = update.transactions.some(
      (each) => each.isUserEvent("input") || each.isUserEvent("delete"));
    if (isTyping) this.soon();
  }

  /** Asks when it has been quiet for a moment. */
  soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.now(false), QUIET);
  }

  /** Ends what runs or waits; returns whether there was anything. */
  cancel() {
    const was = this.#controller !== null;
    clearTimeout(this.#timer);
    this.#controller?.abort();
    this.#controller = null;
    this.#taken = 0;
    return was;
  }

  /** Asks at the cursor; `isWanted` also where suggestions while typing are off. */
  async now(isWanted) {
    this.cancel();
    const view = this.#view;
    const { main } = view.state.selection;
    if (!main.empty || view.composing) return;
    const controller = (this.#controller = new AbortController());
    const at = main.head;
    const { doc } = view.state;
    const hole = {
      prefix: doc.sliceString(0, at),
      suffix: doc.sliceString(at),
      behind: doc.lineAt(at).text.slice(at - doc.lineAt(at).from),
    };
    let text = "";
    for await (const piece of this.#ask(hole, isWanted, controller.signal)) {
      if (controller !== this.#controller) return;
      text += piece;
      const rest = visible(text.slice(this.#taken), hole.behind);
      if (rest) view.dispatch({ effects: setGhost.of({ at: at + this.#taken, text: rest }) });
    }
    if (controller === this.#controller) this.#controller = null;
  }

  destroy() {
    this.cancel();
  }
}

/**
 * Returns the extension. `ask(hole, isWanted, signal)` yields the pieces of a middle; `hole` has
 * `prefix`, `suffix` and `behind`, the rest of the cursor's line.
 */
export function ghostText(ask) {
  askerPlugin = ViewPlugin.define((view) => new Asker(view, ask), {
    eventHandlers: {
      compositionend() {
        this.soon();
      },
    },
  });
  const keys = [
    { key: "Tab", run: (view) => take(view, (text) => text) },
    { key: "Mod-ArrowRight", run: (view) => take(view, (text) => FIRST_WORD.exec(text)[0]) },
    { key: "Escape", run: drop },
    { key: "Ctrl-Space", run: suggest },
    { key: "Alt-\\", run: suggest },
  ];
  return [ghostField, askerPlugin, Prec.highest(keymap.of(keys))];
}

/** Asks for a suggestion now. */
export function suggest(view) {
  view.plugin(askerPlugin).now(true);
  return true;
}

/** The suggestion's text, or null. */
export function suggestion(view) {
  return view.state.field(ghostField)?.text ?? null;
}
