/** The address: which view is open, and everything that was chosen in it. */
import { signal } from "@preact/signals";

interface Place {
  path: string;
  query: URLSearchParams;
}
/** `null` and "" take a value out of the address. */
export type Values = Record<string, string | number | string[] | null | undefined>;

const at = (url: string): Place => {
  const { pathname, searchParams } = new URL(url, location.origin);
  return { path: pathname, query: searchParams };
};
export const place = signal(at(location.href));
addEventListener("popstate", () => {
  clearTimeout(writing);
  place.value = at(location.href);
});

/** What was last chosen in each view, so that it is found again. */
const left = new Map<string, URLSearchParams>();

function set(query: URLSearchParams, values: Values) {
  for (const [name, value] of Object.entries(values)) {
    query.delete(name);
    if (Array.isArray(value)) for (const one of value) query.append(name, one);
    else if (value !== null && value !== undefined && value !== "") query.set(name, String(value));
  }
  return query;
}

const written = (path: string, query: URLSearchParams) => {
  const text = query.toString();
  return text ? `${path}?${text}` : path;
};

export function address(path: string, values: Values = {}) {
  return written(path, set(new URLSearchParams(), values));
}

/** What was last chosen in a view; this one's is what is chosen now. */
export const lastOf = (path: string) => (place.value.path === path ? place.value.query : left.get(path)) ?? new URLSearchParams();

/** Where a view was left, with what is chosen for it now. */
export function leftAt(path: string, values: Values) {
  return written(path, set(new URLSearchParams(left.get(path)), values));
}

let writing: ReturnType<typeof setTimeout> | undefined;

const here = () => written(place.value.path, place.value.query);
const write = () => history.replaceState(null, "", here());

function open(url: string, replace: boolean) {
  if (url === here()) return;
  clearTimeout(writing);
  // Browsers refuse what is written more often, as by a slider.
  if (replace) writing = setTimeout(write, 200);
  else {
    write();
    left.set(place.value.path, place.value.query);
    history.pushState(null, "", url);
  }
  place.value = at(url);
}

export function go(path: string, values: Values = {}) {
  open(address(path, values), false);
}

/** Changes what is chosen in this view. Steps that nobody would go back to one by one replace the last. */
export function choose(values: Values, replace = true) {
  const { path, query } = place.value;
  open(written(path, set(new URLSearchParams(query), values)), replace);
}

/** Links within the page do not load it again. */
export function follow(event: MouseEvent, paths: string[]) {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element).closest("a");
  const to = link?.getAttribute("href");
  if (!link || !to || to.startsWith("#") || link.hasAttribute("download") || link.getAttribute("target")) return;
  const url = new URL(to, location.href);
  if (url.origin !== location.origin || !paths.includes(url.pathname)) return;
  event.preventDefault();
  open(url.pathname + url.search, false);
  scrollTo(0, 0);
}
