// What the page uses of CodeMirror 6 and of Lezer's Markdown parser; nothing of ours is bundled.
export {
  Decoration, EditorView, ViewPlugin, WidgetType,
  drawSelection, highlightActiveLine, highlightActiveLineGutter, keymap, lineNumbers,
} from "@codemirror/view";
export { Compartment, EditorSelection, EditorState, Prec, StateEffect, StateField } from "@codemirror/state";
export {
  defaultKeymap, history, historyKeymap, indentWithTab, isolateHistory,
} from "@codemirror/commands";
export {
  StreamLanguage, bracketMatching, indentOnInput, indentUnit, syntaxHighlighting,
} from "@codemirror/language";
export { classHighlighter, highlightCode } from "@lezer/highlight";
export { GFM, parser as markdown } from "@lezer/markdown";

export { python } from "@codemirror/legacy-modes/mode/python";
export { javascript, typescript } from "@codemirror/legacy-modes/mode/javascript";
export { c, cpp, csharp, java, kotlin } from "@codemirror/legacy-modes/mode/clike";
export { rust } from "@codemirror/legacy-modes/mode/rust";
export { go } from "@codemirror/legacy-modes/mode/go";
export { shell } from "@codemirror/legacy-modes/mode/shell";
export { standardSQL as sql } from "@codemirror/legacy-modes/mode/sql";
