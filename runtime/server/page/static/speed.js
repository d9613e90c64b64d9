// How fast an answer comes, as this browser sees it.

/** Measures one answer and writes the time to its first token and its tokens a second into `place`. */
export class Speed {
  #place;
  #started = performance.now();
  #first = null;
  #last = null;
  #tokens = 0;
  #usage = null;
  // A long prompt is read for seconds: then the wait is shown.
  #waiting = setInterval(() => {
    this.#place.textContent = `waiting, ${duration(performance.now() - this.#started)}`;
  }, 1000);

  constructor(place) {
    this.#place = place;
    place.textContent = "";
  }

  /** Counts a piece of text, which is a token or, rarely, a few. */
  piece() {
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#tokens += 1;
    this.end();
    this.#write();
  }

  /** Waits no longer. */
  end() {
    clearInterval(this.#waiting);
    if (this.#first === null) this.#place.textContent = "";
  }

  /** Takes the server's own count at the end. */
  finish(usage) {
    this.#usage = usage;
    this.#tokens = usage.completion_tokens;
    this.#write();
  }

  #write() {
    const parts = [];
    if (this.#first !== null) {
      parts.push(`first token ${duration(this.#first - this.#started)}`);
      const seconds = (this.#last - this.#first) / 1000;
      if (this.#tokens > 1 && seconds > 0) {
        parts.push(`${Math.round((this.#tokens - 1) / seconds).toLocaleString("en")} tokens/s`);
      }
    }
    parts.push(`${this.#tokens.toLocaleString("en")} ${this.#tokens === 1 ? "token" : "tokens"}`);
    const cached = this.#usage?.prompt_tokens_details?.cached_tokens;
    if (cached) {
      parts.push(`${Math.round((100 * cached) / this.#usage.prompt_tokens)} % of the prompt cached`);
    }
    this.#place.textContent = parts.join(" · ");
  }
}

function duration(milliseconds) {
  return milliseconds < 1000
    ? `${Math.max(1, Math.round(milliseconds))} ms`
    : `${(milliseconds / 1000).toFixed(1)} s`;
}
