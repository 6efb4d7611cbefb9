/** What all views share: what is served, the notes, and how data is loaded. */
import { computed, signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Directions, type Info, type Note, get } from "./api";
import { address, lastOf, leftAt, place, type Values } from "./place";

export const info = signal<Info>(undefined as unknown as Info);
export const notes = signal<Map<string, Note>>(new Map());

export const key = (sae: number, direction: number) => `${sae}/${direction}`;

export async function loadNotes() {
  const all = await get<Note[]>("/api/notes");
  notes.value = new Map(all.map((note) => [key(note.sae, note.direction), note]));
}

/** `null` where it was deleted. */
export function keepNote(sae: number, direction: number, note: Note | null) {
  const changed = new Map(notes.value);
  if (note) changed.set(key(sae, direction), note);
  else changed.delete(key(sae, direction));
  notes.value = changed;
}

/** The number of the SAE chosen in the address; the last one where none is, as on the command line; -1 where it is unknown. */
export const sae = computed(() => {
  const name = place.value.query.get("sae");
  const { saes } = info.value;
  return name === null ? saes.length - 1 : saes.findIndex((one) => one.name === name);
});

export const saeName = (number: number) => info.value.saes[number]?.name ?? `SAE ${number}`;

/** How a direction is written, everywhere. */
export const spelled = (number: number, direction: number) => `${saeName(number)}/${direction}`;

/** The SAE and the number of a spelling; a number alone is of the chosen SAE. */
export function unspelled(text: string): [number, number] | null {
  const [, name, digits] = text.trim().match(/^(?:(.+)\/)?(\d+)$/) ?? [];
  if (digits === undefined) return null;
  const number = name === undefined ? sae.value : info.value.saes.findIndex((one) => one.name === name);
  return number < 0 ? null : [number, +digits];
}

export const toDirection = (number: number, direction: number) => address("/", { sae: saeName(number), direction });

/** Where a change is made, beside those that were made before. */
export function toIntervene(change: string, values: Values = {}) {
  const before = lastOf("/intervene");
  const others = before.getAll("change").filter((one) => one !== change);
  return leftAt("/intervene", {
    text: before.get("text") ?? lastOf("/prompt").get("text"),
    ...values,
    change: [...others, change],
  });
}

/** The text of the prompt views. */
export const promptText = computed(() => place.value.query.get("text") ?? info.value.example);

export interface Loaded<T> {
  data: T | undefined;
  error: string | undefined;
  loading: boolean;
  again: () => void;
}

/** Loads when `of` changes (`null`: not at all), giving up what was on its way. What was there is kept until the new is. */
export function useLoaded<T>(of: string | null, load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<Omit<Loaded<T>, "again">>({ data: undefined, error: undefined, loading: of !== null });
  const [round, setRound] = useState(0);
  useEffect(() => {
    if (of === null) {
      setState({ data: undefined, error: undefined, loading: false });
      return;
    }
    const control = new AbortController();
    setState((before) => ({ ...before, loading: true }));
    load(control.signal).then(
      (data) => {
        if (!control.signal.aborted) setState({ data, error: undefined, loading: false });
      },
      (error: Error) => {
        if (!control.signal.aborted) setState({ data: undefined, error: error.message, loading: false });
      },
    );
    return () => control.abort();
  }, [of, round]);
  return { ...state, again: () => setRound(round + 1) };
}

/** A value that follows another, at most once in so many milliseconds. */
export function usePaced<T>(value: T, milliseconds: number) {
  const [paced, setPaced] = useState(value);
  const last = useRef(0);
  useEffect(() => {
    const timer = setTimeout(
      () => {
        last.current = Date.now();
        setPaced(value);
      },
      last.current + milliseconds - Date.now(),
    );
    return () => clearTimeout(timer);
  }, [value, milliseconds]);
  return paced;
}

const columns = new Map<number, Promise<Directions>>();

/** The top tokens of an SAE's directions, once loaded; none without an index. */
export function useTopTokens(numbers: number[]) {
  return useLoaded(info.value.index ? numbers.join() : null, async () => {
    const all = await Promise.all(
      numbers.map((sae) => {
        const loading = columns.get(sae) ?? get<Directions>(`/api/saes/${sae}/directions`);
        columns.set(sae, loading);
        loading.catch(() => columns.delete(sae));
        return loading;
      }),
    );
    return new Map(numbers.map((sae, i) => [sae, all[i]!]));
  });
}

export function topToken(all: Directions | undefined, direction: number) {
  const token = all?.top_token[direction] ?? null;
  return token === null ? null : (all?.tokens[token] ?? null);
}
