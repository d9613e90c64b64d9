// The chat: what was said, the answer as it comes, and ways to stop it or to ask again.
import { events } from "./api.js";
import { showMarkdown } from "./markdown.js";
import { Speed } from "./speed.js";

const $ = (id) => document.getElementById(id);

export class Chat {
  #engine = null;
  #said = [];
  #running = null;
  #announce;

  constructor(announce) {
    this.#announce = announce;
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    $("question").addEventListener("keydown", (event) => {
      // Enter also ends a word of an input method; then it does not send.
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#send();
      }
    });
    $("question").addEventListener("input", () => grow($("question")));
    $("stop").addEventListener("click", () => this.stop());
    $("forget").addEventListener("click", () => this.#forget());
  }

  /** Whether an answer is on its way. */
  get isRunning() {
    return this.#running !== null;
  }

  /** Talks with `engine` from now on; one that does not chat is said to. */
  use(engine) {
    this.#engine = engine;
    const refuses = engine && !engine.chat;
    $("chat-refusal").hidden = !refuses;
    if (refuses) {
      $("chat-refusal").textContent =
        `${engine.name} was not trained to chat.` +
        (engine.fim ? " It fills in the middle: see the editor." : "");
    }
    $("hello").hidden = refuses || this.#said.length > 0;
    this.#show();
  }

  /** Takes the focus. */
  show() {
    $("question").focus();
  }

  /** Ends the answer that runs; what has come of it stays. */
  stop() {
    this.#running?.abort();
  }

  #show() {
    const isReady = this.#engine?.chat && !this.#running;
    const focused = document.activeElement;
    $("question").disabled = Boolean(this.#engine) && !this.#engine.chat;
    $("send").hidden = Boolean(this.#running);
    $("send").disabled = !isReady;
    $("stop").hidden = !this.#running;
    $("forget").hidden = Boolean(this.#running) || this.#said.length === 0;
    // A button that goes leaves the focus to the next message.
    if ($("composer").contains(focused) && focused.hidden) $("question").focus();
    $("log").ariaBusy = String(Boolean(this.#running));
  }

  #forget() {
    this.#said = [];
    for (const message of $("log").querySelectorAll("article")) message.remove();
    $("hello").hidden = false;
    $("chat-speed").textContent = "";
    this.#show();
    $("question").focus();
  }

  #send() {
    const text = $("question").value.trim();
    if (!text || !this.#engine?.chat || this.#running) return;
    $("question").value = "";
    grow($("question"));
    $("hello").hidden = true;
    this.#said.push({ role: "user", content: text });
    message("You", "user").querySelector(".said").textContent = text;
    this.#answer();
  }

  async #answer() {
    const article = message(this.#engine.name, "assistant");
    const place = article.querySelector(".said");
    const speed = new Speed($("chat-speed"));
    this.#running = new AbortController();
    this.#show();
    this.#announce("The answer begins.");
    let text = "";
    let reason = null;
    let frame = 0;
    const draw = () => {
      frame = 0;
      const follows = isAtEnd();
      showMarkdown(place, text);
      if (follows) toEnd();
    };
    try {
      const body = {
        model: this.#engine.name, messages: this.#said, stream_options: { include_usage: true },
      };
      for await (const event of events("/v1/chat/completions", body, this.#running.signal)) {
        const choice = event.choices[0];
        if (choice?.delta.content) {
          text += choice.delta.content;
          speed.piece();
          frame ||= requestAnimationFrame(draw);
        }
        reason = choice?.finish_reason ?? reason;
        if (event.usage) speed.finish(event.usage);
      }
      if (reason === "length") note(article, "The answer was cut: it may not be longer.");
      this.#announce("The answer is complete.");
    } catch (error) {
      this.#failed(article, error);
    }
    speed.end();
    cancelAnimationFrame(frame);
    draw();
    // A question without any answer is not sent along with the next one.
    if (text) this.#said.push({ role: "assistant", content: text });
    else this.#said.pop();
    this.#running = null;
    this.#show();
    toEnd();
  }

  #failed(article, error) {
    if (error.name === "AbortError") {
      note(article, "Stopped.");
      this.#announce("Stopped.");
      return;
    }
    const place = note(article, error.message);
    place.role = "alert";
    place.classList.add("error");
    const question = this.#said.at(-1);
    const again = document.createElement("button");
    again.type = "button";
    again.className = "quiet";
    again.textContent = "Ask again";
    again.addEventListener("click", () => {
      if (this.#running) return;
      if (this.#said.at(-1)?.role === "assistant") this.#said.pop();
      if (this.#said.at(-1) !== question) this.#said.push(question);
      article.remove();
      this.#answer();
    });
    place.append(" ", again);
  }
}

function message(name, kind) {
  const article = document.createElement("article");
  article.className = kind;
  article.ariaLabel = kind === "user" ? "You said" : `${name} answered`;
  const head = document.createElement("h2");
  head.textContent = name;
  const said = document.createElement("div");
  said.className = "said";
  article.append(head, said);
  $("log").append(article);
  toEnd();
  return article;
}

function note(article, text) {
  const place = document.createElement("p");
  place.className = "note";
  place.textContent = text;
  article.append(place);
  return place;
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

function isAtEnd() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
}

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}
