/** Changes as they are written: in the address, on the command line, in a study. */

export type Where = { from: number; to: number } | null;

export type Change = { where: Where } & (
  | { kind: "directions"; site: string; directions: string; how: "scale" | "set"; value: number }
  | { kind: "reconstruction"; site: string }
  | { kind: "component"; site: string; how: "zero" | "mean" }
);

/** `null` where it is written in a way that only the server may know. */
export function parsed(text: string): Change | null {
  const [, what = "", from, to] = text.match(/^(.*?)(?:@(\d+)(?:\.\.(\d+))?)?$/) ?? [];
  const where = from === undefined ? null : { from: +from, to: +(to ?? from) };
  const [, site, directions, sign, value] = what.match(/^(.+)\/(\d+(?:,\d+)*)([*=])(-?\d+(?:\.\d+)?)$/) ?? [];
  if (value !== undefined)
    return {
      kind: "directions",
      site: site!,
      directions: directions!,
      how: sign === "*" ? "scale" : "set",
      value: +value,
      where,
    };
  const [, name, how] = what.match(/^([^=]+)=(zero|mean|reconstruction)$/) ?? [];
  if (name === undefined) return null;
  if (how === "reconstruction") return { kind: "reconstruction", site: name, where };
  return { kind: "component", site: name, how: how as "zero" | "mean", where };
}

export function written(change: Change) {
  const { where } = change;
  const behind = !where ? "" : where.from === where.to ? `@${where.from}` : `@${where.from}..${where.to}`;
  switch (change.kind) {
    case "directions":
      return `${change.site}/${change.directions}${change.how === "scale" ? "*" : "="}${change.value}${behind}`;
    case "reconstruction":
      return `${change.site}=reconstruction${behind}`;
    case "component":
      return `${change.site}=${change.how}${behind}`;
  }
}
