/** The models of the server, and what each can do. */

/**
 * @typedef {object} Abilities
 * @property {string} kind of model, in words
 * @property {number} side of an image in pixels
 * @property {boolean} generate draws prompts
 * @property {boolean} inpaint fills masked pixels
 * @property {boolean} vary draws variations of an image
 * @property {boolean} mix changes a whole image by a prompt; without it, a variation needs the image's prompt
 * @property {boolean} partials shows images while they are drawn
 * @property {boolean} ranks scores its images with CLIP
 * @property {string[]} options the sampling fields that it reads
 * @property {number[]} steps the numbers of steps to choose from
 *
 * @typedef {{id: string, abilities: Abilities, defaults: Record<string, number|null>}} Model
 */

/** The model of the page, and those that stand in for it. */
export class Models {
  constructor() {
    /** @type {Model[]} */
    this.all = [];
    /** @type {Model|undefined} */
    this.chosen = undefined;
  }

  /** @param {Model[]} all */
  replace(all) {
    this.all = all;
    if (!this.choose(this.chosen?.id ?? "")) this.chosen = all[0];
  }

  /**
   * Choose a model by its id. Return false if the server does not have it.
   * @param {string} id
   */
  choose(id) {
    const found = this.all.find((model) => model.id === id);
    this.chosen = found ?? this.chosen;
    return found !== undefined;
  }

  /**
   * Return the chosen model if it has an ability, else the first that has it.
   * @param {"generate"|"inpaint"|"mix"|"vary"} ability
   * @returns {Model|undefined}
   */
  able(ability) {
    return this.chosen?.abilities[ability] ? this.chosen : this.all.find(({ abilities }) => abilities[ability]);
  }
}
