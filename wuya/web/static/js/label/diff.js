// Which words two texts share: the longest common subsequence of their words, for the pair view.

const MAX_WORDS = 1500;

/** Words, with the space before them; each CJK character is a word. */
export const words = (text) => text.match(/\s*(?:[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|[\p{L}\p{N}_'’]+|[^\s])|\s+$/gu) ?? [];

/**
 * Runs of each text, marked as shared or its own.
 * @returns {{left: [boolean, string][], right: [boolean, string][]}}
 */
export function wordDiff(left, right) {
  const a = words(left);
  const b = words(right);
  if (a.length > MAX_WORDS || b.length > MAX_WORDS) return { left: [[true, left]], right: [[true, right]] };
  const key = (word) => word.trim().toLowerCase();
  const width = b.length + 1;
  const table = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1)
      table[i * width + j] = key(a[i]) === key(b[j]) ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
  const out = { left: [], right: [] };
  const add = (side, same, word) => {
    const last = side.at(-1);
    if (last && last[0] === same) last[1] += word;
    else side.push([same, word]);
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && key(a[i]) === key(b[j])) {
      add(out.left, true, a[i++]);
      add(out.right, true, b[j++]);
    } else if (j >= b.length || (i < a.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) add(out.left, false, a[i++]);
    else add(out.right, false, b[j++]);
  }
  return out;
}
