// Markdown as elements. A model's text becomes text nodes and nothing else: its HTML stays text, its
// images are not loaded, and its links lead to http(s) only.
import { GFM, markdown } from "./codemirror.js";
import { fillWithCode } from "./languages.js";

const parser = markdown.configure(GFM);
const BLOCKS = {
  Blockquote: "blockquote", BulletList: "ul", OrderedList: "ol", ListItem: "li", Paragraph: "p",
  ATXHeading1: "h3", ATXHeading2: "h3", ATXHeading3: "h4", ATXHeading4: "h4", ATXHeading5: "h5",
  ATXHeading6: "h5", SetextHeading1: "h3", SetextHeading2: "h4", Table: "table", TableHeader: "tr",
  TableRow: "tr",
};
const INLINES = { Emphasis: "em", StrongEmphasis: "strong", Strikethrough: "s" };
const MARKS = new Set([
  "EmphasisMark", "StrikethroughMark", "HeaderMark", "QuoteMark", "ListMark", "LinkMark",
  "TableDelimiter", "TaskMarker",
]);

/**
 * Shows `text` in `place`. Blocks that have not changed keep their elements, so that a stream disturbs
 * neither a selection nor the focus above its end.
 */
export function showMarkdown(place, text) {
  const top = parser.parse(text).topNode;
  const old = [...place.children];
  let count = 0;
  for (let node = top.firstChild; node; node = node.nextSibling, count += 1) {
    const source = text.slice(node.from, node.to);
    const known = old[count];
    if (known && known.source === source) continue;
    const made = element(node, text);
    made.source = source;
    if (known) known.replaceWith(made);
    else place.append(made);
  }
  for (const extra of old.slice(count)) extra.remove();
}

function element(node, text) {
  const { name } = node;
  if (name === "FencedCode" || name === "CodeBlock") return codeBlock(node, text);
  if (name === "HorizontalRule") return make("hr");
  const tag = BLOCKS[name];
  if (tag) {
    const made = make(tag);
    if (name === "OrderedList") made.start = parseInt(text.slice(node.from), 10) || 1;
    children(made, node, text);
    return made;
  }
  const made = make("p");
  made.textContent = text.slice(node.from, node.to);
  return made;
}

/** Appends what is between `node`'s ends: text, and elements for what is marked. */
function children(made, node, text) {
  let at = node.from;
  const inTable = node.name === "TableHeader" || node.name === "TableRow";
  const put = (to) => {
    const between = text.slice(at, to);
    // Around blocks and cells there is only layout.
    if (between && !inTable && (made.tagName !== "LI" || between.trim())) made.append(between);
  };
  for (let child = node.firstChild; child; child = child.nextSibling) {
    put(child.from);
    at = child.to;
    if (MARKS.has(child.name)) {
      if (child.name === "HeaderMark" || child.name === "QuoteMark") at += text[at] === " " ? 1 : 0;
      continue;
    }
    if (child.name === "TableCell") {
      const cell = make(node.name === "TableHeader" ? "th" : "td");
      children(cell, child, text);
      made.append(cell);
    } else {
      made.append(inline(child, text) ?? element(child, text));
    }
  }
  put(node.to);
}

/** Returns a node for what stands inside of a line, null for a block. */
function inline(node, text) {
  const source = text.slice(node.from, node.to);
  switch (node.name) {
    case "InlineCode": {
      const made = make("code");
      made.textContent = source.replace(/^`+ ?| ?`+$/g, "");
      return made;
    }
    case "Escape":
      return document.createTextNode(source.slice(1));
    case "HardBreak":
      return make("br");
    case "Link":
      return link(node, text);
    case "Autolink":
    case "URL":
      return anchor(source.replace(/^<|>$/g, ""), source.replace(/^<|>$/g, ""));
    case "Task":
    case "LinkReference":
      return plain(node, text);
    case "Image":
    case "HTMLTag":
    case "HTMLBlock":
    case "Entity":
    case "Comment":
    case "CommentBlock":
    case "ProcessingInstruction":
    case "ProcessingInstructionBlock":
      return document.createTextNode(source);
  }
  const tag = INLINES[node.name];
  if (!tag) return BLOCKS[node.name] || /Code|Rule/.test(node.name) ? null : plain(node, text);
  const made = make(tag);
  children(made, node, text);
  return made;
}

function plain(node, text) {
  return document.createTextNode(text.slice(node.from, node.to));
}

function link(node, text) {
  const address = node.getChild("URL");
  const [open, close] = node.getChildren("LinkMark");
  if (!address || !close) return plain(node, text);
  return anchor(text.slice(address.from, address.to), text.slice(open.to, close.from));
}

function anchor(address, label) {
  if (!/^https?:\/\//i.test(address)) return document.createTextNode(label);
  const made = make("a");
  made.href = address;
  made.rel = "noopener noreferrer nofollow";
  made.target = "_blank";
  made.textContent = label;
  return made;
}

function codeBlock(node, text) {
  const info = node.getChild("CodeInfo");
  const fence = info ? text.slice(info.from, info.to) : "";
  const code = node.getChildren("CodeText").map((each) => text.slice(each.from, each.to)).join("");
  const figure = make("figure");
  const bar = make("figcaption");
  bar.textContent = fence;
  const copy = make("button");
  copy.type = "button";
  copy.className = "quiet";
  copy.textContent = "Copy";
  copy.setAttribute("aria-label", "Copy this code");
  copy.addEventListener("click", () => toClipboard(copy, code));
  bar.append(copy);
  const pre = make("pre");
  pre.tabIndex = 0;
  const body = make("code");
  fillWithCode(body, code, fence);
  pre.append(body);
  figure.append(bar, pre);
  return figure;
}

async function toClipboard(button, code) {
  let word = "Copied";
  try {
    await navigator.clipboard.writeText(code);
  } catch {
    // Without TLS a browser offers no clipboard on other hosts than localhost.
    const range = document.createRange();
    range.selectNodeContents(button.closest("figure").querySelector("code"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    word = document.execCommand("copy") ? "Copied" : "Selected";
  }
  button.textContent = word;
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

const make = (tag) => document.createElement(tag);
