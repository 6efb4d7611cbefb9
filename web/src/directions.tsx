/** Every direction of an SAE, filtered and in an order, beside the one that is chosen. */
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Directions, get, type Note, stream } from "./api";
import { DirectionPanel } from "./panel";
import { Field, NoIndex, Select, Wait } from "./parts";
import { choose, place } from "./place";
import { saveCsv } from "./save";
import { info, key, notes, sae, saeName, topToken, useLoaded } from "./state";
import { count, fixed, number, shortened, signed, tokenText } from "./text";

const ROW = 30;

type Column = {
  id: string;
  name: string;
  title?: string;
  value: (all: Directions, d: number) => number | string | null;
  class?: string;
};

const COLUMNS: Column[] = [
  { id: "number", name: "№", title: "Direction", value: (_, d) => d },
  { id: "density", name: "density %", title: "Positions where it fires, %", value: (all, d) => all.density[d]! },
  { id: "maximum", name: "max", title: "Largest activation", value: (all, d) => all.maximum[d]! },
  { id: "mean", name: "mean", title: "Mean activation where it fires", value: (all, d) => all.mean[d]!, class: "wider" },
  { id: "prompts", name: "prompts", title: "Prompts in which it fires", value: (all, d) => all.prompts[d]!, class: "wider" },
  { id: "token", name: "top token", title: "The most frequent token among strong activations", value: topToken, class: "text" },
  { id: "share", name: "share", title: "Share of the top token among strong activations, %", value: (all, d) => all.share[d]! },
  {
    id: "effect",
    name: "Δ loss",
    title: "Mean increase of the loss, in nats, when it is ablated where it fires most",
    value: (all, d) => all.effect[d] ?? null,
  },
];

const LIVES = [
  ["", "dead or alive"],
  ["alive", "alive"],
  ["dead", "dead"],
] as const;
const MARKS = [
  ["", "all"],
  ["starred", "starred"],
  ["labelled", "labelled"],
  ["noted", "with a note"],
] as const;

const words = new Intl.Collator("en", { numeric: true });

/** `from..to` of the address, in percent; either end may be open. */
function range(text: string | null): [string, string] {
  const [from = "", to = ""] = (text ?? "").split("..");
  return [from, to];
}

function filtered(all: Directions, query: URLSearchParams, of: number, noted: Map<string, Note>) {
  const find = query.get("q") ?? "";
  const asNumber = /^\s*\d+\s*$/.test(find) ? +find : null;
  const lower = find.toLowerCase();
  const fits = all.tokens.map((token) => token.toLowerCase().includes(lower) || tokenText(token).toLowerCase().includes(lower));
  const between = (name: string) => {
    const [from, to] = range(query.get(name)).map((end) => (end === "" ? null : +end / 100));
    return (value: number) => (from == null || value >= from) && (to == null || value <= to);
  };
  const [dense, shared] = [between("density"), between("share")];
  const life = query.get("life");
  const mark = query.get("mark");
  const said = (query.get("note") ?? "").toLowerCase();
  const shown: number[] = [];
  for (let d = 0; d < all.maximum.length; d++) {
    if (find !== "" && d !== asNumber && !(asNumber === null && fits[all.top_token[d] ?? -1])) continue;
    if (!dense(all.density[d]!) || !shared(all.share[d]!)) continue;
    if (life && (all.maximum[d] === 0) !== (life === "dead")) continue;
    if (mark || said) {
      const note = noted.get(key(of, d));
      if (!note || (mark === "starred" && !note.starred) || (mark === "labelled" && !note.label)) continue;
      if (said && !`${note.label}\n${note.text}`.toLowerCase().includes(said)) continue;
    }
    shown.push(d);
  }
  const { column, down } = ordered(query);
  if (column.id === "number") return down ? shown.reverse() : shown;
  return shown.sort((a, b) => {
    const [x, y] = [column.value(all, a), column.value(all, b)];
    // What is missing comes last in either order.
    if (x === null || y === null) return x === y ? a - b : x === null ? 1 : -1;
    const by = typeof x === "number" ? x - (y as number) : words.compare(tokenText(x), tokenText(y as string));
    return (down ? -by : by) || a - b;
  });
}

/** `-density` of the address: by density, from the greatest. */
function ordered(query: URLSearchParams) {
  const order = query.get("order") ?? "number";
  const column = COLUMNS.find((one) => one.id === order.replace("-", "")) ?? COLUMNS[0]!;
  return { column, down: order.startsWith("-") };
}

export function DirectionsView() {
  if (sae.value < 0) {
    return (
      <div class="empty">
        <h1>Unknown SAE</h1>
        <p>
          {place.value.query.get("sae")} is not served here: choose one of {info.value.saes.map((one) => one.name).join(", ")}{" "}
          above.
        </p>
      </div>
    );
  }
  return info.value.index ? <Browser key={sae.value} of={sae.value} /> : <NoIndex />;
}

function Browser({ of }: { of: number }) {
  const { query } = place.value;
  const loaded = useLoaded(`${of}`, (signal) => get<Directions>(`/api/saes/${of}/directions`, signal));
  const [effects, setEffects] = useState(new Map<number, number>());
  const all = useMemo(
    () => loaded.data && { ...loaded.data, effect: loaded.data.effect.map((effect, d) => effects.get(d) ?? effect) },
    [loaded.data, effects],
  );
  const filters = ["q", "density", "share", "life", "mark", "note", "order"].map((name) => query.get(name)).join("\n");
  const shown = useMemo(() => (all ? filtered(all, query, of, notes.value) : []), [all, filters, of, notes.value]);
  const asked = query.get("direction");
  const chosen = asked === null ? shown[0] : /^\d+$/.test(asked) ? +asked : NaN;
  const step = (to: (at: number) => number) => {
    if (!shown.length) return;
    const at = chosen === undefined ? -1 : shown.indexOf(chosen);
    choose({ direction: shown[Math.max(0, Math.min(shown.length - 1, to(at)))] });
  };
  const stepping = useRef(step);
  stepping.current = step;
  useEffect(() => {
    const keys = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey) return;
      if ((event.target as Element).closest("input, select, textarea, dialog, [role=listbox]")) return;
      const moves: Record<string, (at: number) => number> = {
        ArrowRight: (at) => at + 1,
        j: (at) => at + 1,
        ArrowLeft: (at) => at - 1,
        k: (at) => at - 1,
        Home: () => 0,
        End: () => Infinity,
      };
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      stepping.current(move);
    };
    document.addEventListener("keydown", keys);
    return () => document.removeEventListener("keydown", keys);
  }, []);
  const learn = (direction: number, effect: number) => setEffects((before) => new Map(before).set(direction, effect));
  return (
    <div class="browse">
      <div class="list-side">
        <h1 class="hidden">Directions of {saeName(of)}</h1>
        <Filters />
        <Wait on={loaded} what="Loading the directions">
          {() => all && <List of={of} all={all} shown={shown} chosen={chosen} step={step} learn={learn} />}
        </Wait>
      </div>
      {chosen !== undefined && all && (
        <DirectionPanel
          of={of}
          direction={chosen}
          place={shown.indexOf(chosen)}
          among={shown.length}
          effect={all.effect[chosen] ?? null}
          step={step}
        />
      )}
    </div>
  );
}

function Filters() {
  const { query } = place.value;
  const [open, setOpen] = useState(["density", "share", "life", "mark", "note"].some((name) => query.has(name)));
  const ends = (name: string, label: string) => {
    const [from, to] = range(query.get(name));
    const set = (from: string, to: string) => choose({ [name]: from || to ? `${from}..${to}` : null });
    return (
      <fieldset class="field">
        <legend>{label}</legend>
        <span class="pair">
          <input
            type="number"
            min="0"
            max="100"
            step="any"
            placeholder="from"
            aria-label={`${label}, from`}
            value={from}
            onInput={(event) => set(event.currentTarget.value, to)}
          />
          <input
            type="number"
            min="0"
            max="100"
            step="any"
            placeholder="to"
            aria-label={`${label}, to`}
            value={to}
            onInput={(event) => set(from, event.currentTarget.value)}
          />
        </span>
      </fieldset>
    );
  };
  return (
    <div class="filters">
      <div class="filter-line">
        <Field label="Number or top token" wide>
          <input
            type="search"
            value={query.get("q") ?? ""}
            placeholder="429, or a token"
            onInput={(event) => choose({ q: event.currentTarget.value })}
          />
        </Field>
        <button type="button" class="pill" aria-expanded={open} onClick={() => setOpen(!open)}>
          {open ? "Fewer filters" : "More filters"}
        </button>
      </div>
      {open && (
        <div class="filter-grid">
          {ends("density", "Density, %")}
          {ends("share", "Share of top token, %")}
          <Field label="Alive">
            <Select value={query.get("life") ?? ""} options={LIVES} set={(life) => choose({ life })} />
          </Field>
          <Field label="Notes">
            <Select value={query.get("mark") ?? ""} options={MARKS} set={(mark) => choose({ mark })} />
          </Field>
          <Field label="Text in label or note" wide>
            <input
              type="search"
              value={query.get("note") ?? ""}
              onInput={(event) => choose({ note: event.currentTarget.value })}
            />
          </Field>
          <button
            type="button"
            class="link reset"
            onClick={() => choose({ q: null, density: null, share: null, life: null, mark: null, note: null })}
          >
            Clear all
          </button>
        </div>
      )}
    </div>
  );
}

function List({
  of,
  all,
  shown,
  chosen,
  step,
  learn,
}: {
  of: number;
  all: Directions;
  shown: number[];
  chosen: number | undefined;
  step: (to: (at: number) => number) => void;
  learn: (direction: number, effect: number) => void;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  useLayoutEffect(() => {
    const look = () => setView({ top: box.current!.scrollTop, height: box.current!.clientHeight });
    look();
    const resized = new ResizeObserver(look);
    resized.observe(box.current!);
    return () => resized.disconnect();
  }, []);
  const at = chosen === undefined ? -1 : shown.indexOf(chosen);
  useLayoutEffect(() => {
    if (at < 0) return;
    const list = box.current!;
    const [top, room] = [at * ROW, list.clientHeight - ROW];
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW > list.scrollTop + room) list.scrollTop = top + ROW - room;
  }, [at, shown]);
  const first = Math.max(0, Math.min(Math.floor(view.top / ROW), shown.length - 1));
  const rows = Math.ceil(view.height / ROW);
  const inView = shown.slice(first, first + rows - 1);
  const [from, to] = [Math.max(0, first - 8), Math.min(shown.length, first + rows + 8)];
  const { column: by, down } = ordered(place.value.query);
  const sort = (column: Column) => {
    const first = column.id !== "number" && column.id !== "token";
    const next = by === column ? !down : first;
    choose({ order: `${next ? "-" : ""}${column.id}` }, false);
  };
  const keys = (event: KeyboardEvent) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: rows - 2, PageUp: 2 - rows }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    step((at) => at + by);
  };
  const save = () =>
    saveCsv(
      `${saeName(of)}-directions`,
      ["direction", "density", "maximum", "mean", "prompts", "top_token", "share", "effect", "starred", "label"],
      shown.map((d) => {
        const note = notes.value.get(key(of, d));
        return [
          d,
          all.density[d],
          all.maximum[d],
          all.mean[d],
          all.prompts[d],
          topToken(all, d),
          all.share[d],
          all.effect[d],
          note?.starred ?? false,
          note?.label,
        ];
      }),
    );
  return (
    <>
      <div class="list-head">
        <p class="count" aria-live="polite">
          {count(shown.length)} of {count(all.maximum.length)} directions
        </p>
        <Effects of={of} directions={inView.filter((d) => all.effect[d] === null && all.maximum[d]! > 0)} learn={learn} />
        <button type="button" class="link" aria-label="Save the list as CSV" onClick={save}>
          CSV
        </button>
      </div>
      <div
        class="table-box list"
        ref={box}
        tabIndex={0}
        role="region"
        aria-label="Directions"
        onScroll={(event) => setView({ top: event.currentTarget.scrollTop, height: event.currentTarget.clientHeight })}
        onKeyDown={keys}
      >
        <table aria-rowcount={shown.length + 1}>
          <thead>
            <tr>
              <th scope="col" class="star">
                <span class="hidden">Starred</span>
              </th>
              {COLUMNS.map((column) => (
                <th
                  key={column.id}
                  scope="col"
                  class={`${column.class === "text" ? "" : "number"} ${column.class ?? ""}`}
                  aria-sort={column === by ? (down ? "descending" : "ascending") : undefined}
                >
                  <button type="button" title={column.title} onClick={() => sort(column)}>
                    {column.name}
                  </button>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            <Space rows={from} />
            {shown.slice(from, to).map((d, i) => (
              <Row key={d} of={of} all={all} d={d} at={from + i} chosen={d === chosen} />
            ))}
            <Space rows={shown.length - to} />
          </tbody>
        </table>
        {shown.length === 0 && <p class="none">No direction passes these filters.</p>}
      </div>
    </>
  );
}

/** The room of rows that are not in view. */
const Space = ({ rows }: { rows: number }) => (
  <tr class="space" aria-hidden="true">
    <td colSpan={COLUMNS.length + 1} style={{ height: `${rows * ROW}px` }} />
  </tr>
);

function Row({ of, all, d, at, chosen }: { of: number; all: Directions; d: number; at: number; chosen: boolean }) {
  const note = notes.value.get(key(of, d));
  const token = topToken(all, d);
  const dead = all.maximum[d] === 0;
  const effect = all.effect[d] ?? null;
  const share = all.share[d]!;
  const go = (event: MouseEvent) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    choose({ direction: d }, false);
  };
  return (
    <tr aria-rowindex={at + 2} class={`${chosen ? "chosen" : ""} ${dead ? "dead" : ""}`} onClick={go}>
      <td class="star">
        {note?.starred && (
          <span title="Starred" role="img" aria-label="starred">
            ★
          </span>
        )}
      </td>
      <td class="number">
        <a
          href={`?sae=${encodeURIComponent(saeName(of))}&direction=${d}`}
          aria-current={chosen ? "true" : undefined}
          tabIndex={-1}
        >
          {d}
        </a>
      </td>
      <td class="number">{dead ? <span class="badge">dead</span> : number(100 * all.density[d]!)}</td>
      <td class="number">{dead ? "" : fixed(all.maximum[d]!, 2)}</td>
      <td class="number wider">{dead ? "" : fixed(all.mean[d]!, 2)}</td>
      <td class="number wider">{dead ? "" : count(all.prompts[d]!)}</td>
      <td class="text">
        {note?.label ? (
          <span class="label" title={`${note.label}${token === null ? "" : `, top token ${tokenText(token)}`}`}>
            {note.label}
          </span>
        ) : (
          token !== null && (
            <code class="token" title={tokenText(token)}>
              {shortened(tokenText(token), 24)}
            </code>
          )
        )}
      </td>
      <td class="number share" style={dead || token === null ? undefined : { "--share": share }}>
        {dead || token === null ? "" : fixed(100 * share, 0)}
      </td>
      <td class="number">{effect === null ? "" : signed(effect, 2)}</td>
    </tr>
  );
}

/** Measures what ablating the directions in view does to the loss. */
function Effects({
  of,
  directions,
  learn,
}: {
  of: number;
  directions: number[];
  learn: (direction: number, effect: number) => void;
}) {
  const [left, setLeft] = useState<number | null>(null);
  const [error, setError] = useState("");
  const running = useRef<AbortController | null>(null);
  useEffect(() => () => running.current?.abort(), []);
  const measure = async () => {
    const control = new AbortController();
    running.current = control;
    setError("");
    setLeft(directions.length);
    try {
      await stream<{ direction: number; effect: number } | { done: true }>(
        `/api/saes/${of}/effects`,
        { directions },
        control.signal,
        (line) => {
          if ("done" in line) return;
          learn(line.direction, line.effect);
          setLeft((before) => (before ?? 1) - 1);
        },
      );
    } catch (error) {
      if (!control.signal.aborted) setError((error as Error).message);
    }
    if (!control.signal.aborted) setLeft(null);
  };
  if (left !== null) {
    return (
      <button
        type="button"
        class="pill"
        onClick={() => {
          running.current!.abort();
          setLeft(null);
        }}
      >
        Measuring, {left} left: stop
      </button>
    );
  }
  return (
    <>
      {error && (
        <span class="failed" role="alert">
          {error}
        </span>
      )}
      <button
        type="button"
        class="pill"
        disabled={!directions.length}
        title="Ablates each direction in view in the prompts where it fires most"
        onClick={() => void measure()}
      >
        Measure loss effect
      </button>
    </>
  );
}
