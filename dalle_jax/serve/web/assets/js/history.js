/** Finished runs, kept in this browser's IndexedDB, the newest first. */

/** @typedef {import("./drawing.js").Run} Run */

const NAME = "dalle_jax";
const RUNS = "runs";
const MOST_RUNS = 100;

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function resultOf(request) {
  return new Promise((resolve, reject) => {
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error));
  });
}

export class History {
  /** @param {IDBDatabase} database */
  constructor(database) {
    this.database = database;
  }

  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.addEventListener("upgradeneeded", () => {
      request.result.createObjectStore(RUNS, { keyPath: "id" }).createIndex("time", "time");
    });
    return new History(await resultOf(request));
  }

  /** @param {IDBTransactionMode} mode */
  store(mode) {
    return this.database.transaction(RUNS, mode).objectStore(RUNS);
  }

  /** @returns {Promise<Run[]>} */
  async all() {
    return (await resultOf(this.store("readonly").index("time").getAll())).reverse();
  }

  /**
   * Keep a run, and forget the oldest above `MOST_RUNS`.
   * @param {Run} run
   */
  async add(run) {
    await resultOf(this.store("readwrite").put(run));
    const old = (await this.all()).slice(MOST_RUNS);
    for (const { id } of old) await this.remove(id);
  }

  /** @param {string} id */
  async remove(id) {
    await resultOf(this.store("readwrite").delete(id));
  }

  async clear() {
    await resultOf(this.store("readwrite").clear());
  }
}
