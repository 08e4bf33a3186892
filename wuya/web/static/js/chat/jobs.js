/**
 * Follows the answers that are being written. The server's job goes on without us; after any break we ask for the
 * events after the last one. So a reload, a sleeping laptop or a lost network costs nothing.
 */
import { follow } from "../api.js";

const ENDED = new Set(["done", "stopped", "failed"]);

export class Jobs {
  /** @param {(waiting: boolean) => void} connection called when a stream is lost, and when it is back */
  constructor(connection) {
    this.connection = connection;
    /** @type {Map<string, AbortController>} */
    this.followed = new Map();
  }

  /**
   * Follow a generation to its end. Following it twice does nothing.
   * @param {string} id
   * @param {(type: string, data: any) => void} listener "state", "snapshot", "delta", "usage", "final", "error", and "gone" when the server doesn't know it any more
   */
  async follow(id, listener) {
    if (this.followed.has(id)) return;
    const control = new AbortController();
    this.followed.set(id, control);
    const onEvent = ({ type, data }) => {
      if (control.signal.aborted) return true;
      listener(type, data);
      if (type !== "snapshot" || !ENDED.has(data.state)) return type === "final" || type === "error";
      listener("gone", null); // it ended before we came: the stored message says how
      return true;
    };
    try {
      await follow(`/api/generations/${id}/events`, { onEvent, onState: (state) => this.connection(state === "waiting"), signal: control.signal });
    } catch (problem) {
      if (!control.signal.aborted) listener("gone", problem);
    } finally {
      if (this.followed.get(id) === control) this.followed.delete(id);
      if (!this.followed.size) this.connection(false);
    }
  }

  /** Stop listening: another chat is opened. The jobs themselves go on. */
  leave() {
    for (const control of this.followed.values()) control.abort();
    this.followed.clear();
    this.connection(false);
  }
}
