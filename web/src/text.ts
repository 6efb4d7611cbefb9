/** How texts and numbers from data are shown. */

/** Controls, spaces that are not the space, bidirectional overrides, zero-width characters. */
const HIDDEN = /[\p{Cc}\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff]|(?! )\p{Zs}/gu;

const code = (c: string) => `\\u{${c.codePointAt(0)!.toString(16)}}`;

/** A text with hidden characters by their code; lines and tabs stay. */
export function visible(text: string) {
  return text.replace(HIDDEN, (c, at: number) => (c === "\n" || c === "\t" || (c === "\u200d" && at > 0) ? c : code(c)));
}

/** A text on one line. */
function oneLine(text: string) {
  return visible(text.replace(/[↵⇥]/g, code).replace(/\n/g, "↵").replace(/\t/g, "⇥"));
}

/** A token alone: on one line, its outer spaces as dots. */
export function tokenText(token: string) {
  return oneLine(token).replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
}

/** At most so many characters. */
export function shortened(text: string, most: number) {
  const characters = [...text];
  return characters.length > most ? characters.slice(0, most - 1).join("") + "…" : text;
}

export const count = (n: number) => n.toLocaleString("en");

export function number(value: number | null | undefined, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size >= 1000) return count(Math.round(value)).replace("-", "−");
  if (size > 0 && size < 1e-4) return value.toExponential(1).replaceAll("-", "−");
  return Number(value.toPrecision(digits)).toString().replace("-", "−");
}

export const signed = (value: number | null | undefined, digits = 3) =>
  (value !== null && value !== undefined && value > 0 ? "+" : "") + number(value, digits);

/** With a fixed number of places, so that columns of numbers line up. */
export const fixed = (value: number, places: number) => value.toFixed(places).replace("-", "−");

export const percent = (part: number, digits = 3) => `${number(100 * part, digits)} %`;

/** "1 prompt", "2 prompts". */
export const many = (n: number, noun: string) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

/** With a capital and a full stop. */
export const sentence = (text: string) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
