/** Follows the end of a stream while the reader is there, and never against their will. */

const NEAR = 48; // pixels from the end that still count as "at the end"

export class Follower {
  /**
   * @param {HTMLElement} scroller the element that scrolls
   * @param {(away: boolean) => void} changed called when the reader leaves or reaches the end
   */
  constructor(scroller, changed) {
    this.scroller = scroller;
    this.changed = changed;
    this.pinned = true;
    this.last = 0;
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // intent, before any scroll event: up by wheel or touch unpins at once, so the next frame does not pull back
    scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this.#set(this.#fits()), { passive: true });
    scroller.addEventListener("touchmove", () => this.#set(this.#atEnd()), { passive: true });
  }

  #fits() {
    return this.scroller.scrollHeight <= this.scroller.clientHeight + 1;
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  #scrolled() {
    const up = this.scroller.scrollTop < this.last - 1;
    this.last = this.scroller.scrollTop;
    if (this.#atEnd()) this.#set(true);
    else if (up) this.#set(false);
  }

  /** @param {boolean} pinned */
  #set(pinned) {
    if (pinned === this.pinned) return;
    this.pinned = pinned;
    this.changed(!pinned);
  }

  /** After new content: stay at the end if that is where the reader was. */
  follow() {
    if (!this.pinned) return;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.last = this.scroller.scrollTop;
  }

  /** Go to the end because the reader asked. @param {boolean} [smooth] */
  jump(smooth = false) {
    this.#set(true);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior: smooth && !calm ? "smooth" : "instant" });
  }

  /** Whether new content arrived below while the reader was elsewhere. */
  get away() {
    return !this.pinned;
  }
}

/**
 * Collects work and does it once per animation frame: many events, one layout.
 * In a hidden tab, where frames stop, it runs four times a second.
 */
export class Frame {
  /** @param {() => void} after called once when all work of a frame is done */
  constructor(after) {
    this.after = after;
    /** @type {Map<string, () => void>} */
    this.work = new Map();
    this.asked = false;
  }

  /** @param {string} key later work of the same key replaces earlier @param {() => void} job */
  add(key, job) {
    this.work.set(key, job);
    if (this.asked) return;
    this.asked = true;
    if (document.hidden) setTimeout(() => this.run(), 250);
    else requestAnimationFrame(() => this.run());
  }

  run() {
    this.asked = false;
    const jobs = [...this.work.values()];
    this.work.clear();
    for (const job of jobs) job();
    this.after();
  }
}
