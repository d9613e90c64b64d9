// The languages that code is highlighted in, by the names that people and code fences give them.
import {
  StreamLanguage, c, classHighlighter, cpp, csharp, go, highlightCode, java, javascript, kotlin,
  python, rust, shell, sql, typescript,
} from "./codemirror.js";

const MODES = [
  ["Python", python, "py"],
  ["JavaScript", javascript, "js", "jsx", "json"],
  ["TypeScript", typescript, "ts", "tsx"],
  ["C", c, "h"],
  ["C++", cpp, "cpp", "cc", "hpp", "cxx"],
  ["C#", csharp, "cs", "csharp"],
  ["Java", java],
  ["Kotlin", kotlin, "kt"],
  ["Rust", rust, "rs"],
  ["Go", go, "golang"],
  ["Shell", shell, "sh", "bash", "zsh", "console"],
  ["SQL", sql],
];

/** Languages by name, in the order of a menu. */
export const LANGUAGES = new Map(MODES.map(([name, mode]) => [name, StreamLanguage.define(mode)]));

const BY_FENCE = new Map(
  MODES.flatMap(([name, , ...others]) =>
    [name.toLowerCase(), ...others].map((each) => [each, LANGUAGES.get(name)])),
);

/** Fills `element` with `code`, highlighted as the language of a fence where it is known. */
export function fillWithCode(element, code, fence) {
  const language = BY_FENCE.get(fence.trim().split(/\s/)[0].toLowerCase());
  if (!language) {
    element.textContent = code;
    return;
  }
  const put = (text, classes) => {
    if (!classes) {
      element.append(text);
      return;
    }
    const span = document.createElement("span");
    span.className = classes;
    span.textContent = text;
    element.append(span);
  };
  highlightCode(code, language.parser.parse(code), classHighlighter, put, () => put("\n", ""));
}
