/** What several views are made of. */
import type { ComponentChildren } from "preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { savePng, saveCsv, saveSvg } from "./save";
import { info, type Loaded, spelled, toDirection } from "./state";
import { number, shortened, tokenText, visible } from "./text";

export const Quiet = ({ children }: { children: ComponentChildren }) => <p class="none">{children}</p>;

/** What is shown instead of data that are not there; while new ones come, the old ones stay, paler. */
export function Wait<T>({ on, what, children }: { on: Loaded<T>; what: string; children: (data: T) => ComponentChildren }) {
  if (on.error !== undefined)
    return (
      <p class="failed" role="alert">
        {on.error}{" "}
        <button type="button" class="link" onClick={on.again}>
          Try again
        </button>
      </p>
    );
  if (on.data === undefined)
    return on.loading ? (
      <p class="none loading" role="status">
        {what} …
      </p>
    ) : null;
  return (
    <div class={on.loading ? "stale" : ""} aria-busy={on.loading}>
      {children(on.data)}
    </div>
  );
}

export const NoIndex = () => (
  <div class="empty">
    <p>There is no index yet: what every direction fires on is not known.</p>
    <p>
      Make one with <code>directrix index</code>, then start with <code>directrix serve --index FOLDER</code>.
    </p>
  </div>
);

export function Field({ label, children, wide }: { label: string; children: ComponentChildren; wide?: boolean }) {
  return (
    <label class={wide ? "field wide" : "field"}>
      <span>{label}</span>
      {children}
    </label>
  );
}

export function Select<T extends string | number>({
  value,
  options,
  set,
  label,
}: {
  value: T;
  options: readonly (readonly [T, string])[];
  set: (value: T) => void;
  /** Where nothing around it says what is chosen. */
  label?: string;
}) {
  return (
    <select aria-label={label} value={value} onChange={(event) => set(options[event.currentTarget.selectedIndex]![0])}>
      {options.map(([one, name]) => (
        <option key={one} value={one}>
          {name}
        </option>
      ))}
    </select>
  );
}

/** One of a few, side by side. */
export function Choice<T extends string>({
  label,
  value,
  options,
  set,
}: {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  set: (value: T) => void;
}) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map(([one, name]) => (
        <button key={one} type="button" aria-pressed={one === value} onClick={() => set(one)}>
          {name}
        </button>
      ))}
    </div>
  );
}

export function Facts({ of }: { of: [string, ComponentChildren][] }) {
  return (
    <dl class="facts-line">
      {of.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** What the server says, in which commands stand between backticks. */
export const Said = ({ text }: { text: string }) => (
  <>{text.split("`").map((part, i) => (i % 2 ? <code key={i}>{part}</code> : part))}</>
);

export const Token = ({ children }: { children: string | null }) =>
  children === null ? (
    <span class="faint">none</span>
  ) : (
    <code class="token" title={tokenText(children)}>
      {shortened(tokenText(children), 20)}
    </code>
  );

export const DirectionLink = ({ sae, direction, plain }: { sae: number; direction: number; plain?: boolean }) => (
  <a href={toDirection(sae, direction)}>{plain ? direction : spelled(sae, direction)}</a>
);

/** A token of a running text: how it is shaded, and what is said of it where it is pointed at. */
export interface Shaded {
  text: string;
  /** -1 to 1. */
  shade?: number;
  hint?: string;
  class?: string;
}

const running = (text: string) => visible(text).replaceAll("\n", "↵\n");

/** A running text of shaded tokens; arrow keys go through those with a value. */
export function Tokens({ of, label }: { of: Shaded[]; label: string }) {
  const box = useRef<HTMLParagraphElement>(null);
  const step = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || !box.current!.matches(":focus-visible")) return;
    event.preventDefault();
    event.stopPropagation();
    const spans = [...box.current!.querySelectorAll<HTMLElement>("[data-hint]")];
    const now = spans.findIndex((span) => span.classList.contains("told"));
    spans[now]?.classList.remove("told");
    const next = spans[(now + by + spans.length) % spans.length];
    next?.classList.add("told");
    next?.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  };
  const leave = () => box.current!.querySelector(".told")?.classList.remove("told");
  return (
    <p class="tokens" ref={box} tabIndex={0} role="group" aria-label={label} onKeyDown={step} onBlur={leave}>
      {of.map((token, i) => (
        <TokenSpan key={i} {...token} />
      ))}
    </p>
  );
}

function TokenSpan({ text, shade, hint, class: name }: Shaded) {
  const shown = shade ? { "--a": Math.abs(shade).toFixed(3) } : undefined;
  return (
    <span class={`t ${shade && shade < 0 ? "below" : ""} ${name ?? ""}`} style={shown} data-hint={hint}>
      {running(text)}
    </span>
  );
}

/** A running text of which one token is chosen, by a click or by arrow keys. */
export function TokenList({
  of,
  chosen,
  label,
  choose,
  point,
}: {
  of: Shaded[];
  chosen: number;
  label: string;
  choose: (position: number) => void;
  point?: (position: number | null) => void;
}) {
  const id = useId();
  const keys = (event: KeyboardEvent) => {
    const to = {
      ArrowRight: chosen + 1,
      ArrowDown: chosen + 1,
      ArrowLeft: chosen - 1,
      ArrowUp: chosen - 1,
      Home: 0,
      End: of.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    choose(Math.max(0, Math.min(of.length - 1, to)));
  };
  return (
    <div
      class="tokens choosable"
      role="listbox"
      tabIndex={0}
      aria-label={label}
      aria-activedescendant={`${id}-${chosen}`}
      onKeyDown={keys}
      onPointerLeave={() => point?.(null)}
    >
      {of.map(({ text, shade, hint, class: name }, i) => (
        <span
          key={i}
          id={`${id}-${i}`}
          role="option"
          aria-selected={i === chosen}
          aria-label={`${i}: ${tokenText(text)}`}
          class={`t ${shade && shade < 0 ? "below" : ""} ${i === chosen ? "marked" : ""} ${name ?? ""}`}
          style={shade ? { "--a": Math.abs(shade).toFixed(3) } : undefined}
          data-hint={hint}
          onClick={() => choose(i)}
          onPointerEnter={() => point?.(i)}
        >
          {running(text)}
        </span>
      ))}
    </div>
  );
}

/** The value of the token that is pointed at. */
export function Hint() {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const hint = box.current!;
    let token: HTMLElement | null = null;
    const place = () => {
      hint.hidden = !token?.isConnected;
      if (!token) return;
      hint.textContent = token.dataset.hint!;
      const at = token.getClientRects()[0] ?? token.getBoundingClientRect();
      const left = at.left + at.width / 2 - hint.offsetWidth / 2;
      hint.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - hint.offsetWidth - 8))}px`;
      hint.style.top = `${at.top > hint.offsetHeight + 12 ? at.top - hint.offsetHeight - 6 : at.bottom + 6}px`;
    };
    const show = (event: Event) => {
      token = (event.target as Element).closest?.("[data-hint]") ?? null;
      place();
    };
    const hide = () => {
      token = null;
      place();
    };
    document.addEventListener("pointerover", show);
    document.addEventListener("focusout", hide);
    addEventListener("scroll", place, { passive: true, capture: true });
    return () => {
      document.removeEventListener("pointerover", show);
      document.removeEventListener("focusout", hide);
      removeEventListener("scroll", place, { capture: true });
    };
  }, []);
  return <div id="hint" role="status" ref={box} hidden />;
}

/** A drawing with its title, what it shows, and its files. */
export function Figure({
  title,
  name,
  caption,
  children,
}: {
  title?: ComponentChildren;
  name: string;
  caption?: ComponentChildren;
  children: ComponentChildren;
}) {
  const box = useRef<HTMLElement>(null);
  const save = (how: (drawings: SVGSVGElement[], name: string) => unknown) => () => {
    // What lies over another drawing comes before it in an attribution graph.
    const drawings = [...box.current!.querySelectorAll("svg")].reverse();
    if (drawings.length) void how(drawings, name);
  };
  return (
    <figure ref={box}>
      <div class="figure-head">
        {title && <h3>{title}</h3>}
        <span class="files">
          <button type="button" class="link" aria-label={`Save ${name} as SVG`} onClick={save(saveSvg)}>
            SVG
          </button>
          <button type="button" class="link" aria-label={`Save ${name} as PNG`} onClick={save(savePng)}>
            PNG
          </button>
        </span>
      </div>
      {children}
      {caption && (
        <figcaption>
          <p>{caption}</p>
        </figcaption>
      )}
    </figure>
  );
}

/** The width that a drawing has. */
export function useWidth() {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const look = () => setWidth(Math.floor(box.current!.clientWidth));
    look();
    const resized = new ResizeObserver(look);
    resized.observe(box.current!);
    return () => resized.disconnect();
  }, []);
  return [box, width] as const;
}

interface Bar {
  label: string;
  value: number;
  /** What it was, where it changed. */
  before?: number;
  shown: string;
  href?: string;
  title?: string;
}

const ROW = 21;

/** Bars from zero, one below the other: above zero to the right, below zero to the left. */
export function Bars({ of, label }: { of: Bar[]; label: string }) {
  const [box, width] = useWidth();
  const values = of.flatMap((bar) => [bar.value, bar.before ?? 0]);
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  const names = Math.min(0.4 * width, 170, 8 + 7 * Math.max(3, ...of.map((bar) => [...bar.label].length)));
  const numbers = 6 + 6.7 * Math.max(...of.map((bar) => bar.shown.length));
  const room = Math.max(20, width - names - numbers - 8);
  const x = (value: number) => names + 6 + (high === low ? 0 : ((value - low) / (high - low)) * room);
  const bar = (value: number, top: number, height: number, kind: string) => (
    <rect
      class={`${kind} ${value < 0 ? "negative" : ""}`}
      x={Math.min(x(0), x(value))}
      y={top}
      width={Math.max(1, Math.abs(x(value) - x(0)))}
      height={height}
      rx="1"
    />
  );
  return (
    <div ref={box} class="drawing">
      <svg
        class="bars"
        width={width}
        height={of.length * ROW + 2}
        role={of.some((one) => one.href) ? "group" : "img"}
        aria-label={`${label}: ${of.map((one) => `${one.label} ${one.shown}`).join(", ")}`}
      >
        {of.map((one, i) => {
          const top = i * ROW;
          const name = (
            <text class="name" x={names} y={top + 15}>
              {shortened(one.label, Math.max(3, Math.floor((names - 4) / 7)))}
            </text>
          );
          return (
            <g key={i}>
              <title>{one.title ?? `${one.label}: ${one.shown}`}</title>
              <rect class="behind" x="0" y={top} width={width} height={ROW} />
              {one.href ? (
                <a href={one.href} aria-label={one.label}>
                  {name}
                </a>
              ) : (
                name
              )}
              {one.before === undefined ? (
                bar(one.value, top + 4, ROW - 8, "bar")
              ) : (
                <>
                  {bar(one.before, top + 3, 6, "bar before")}
                  {bar(one.value, top + 10, 8, "bar")}
                </>
              )}
              <text class="shown" x={width - 2} y={top + 15}>
                {one.shown}
              </text>
            </g>
          );
        })}
        {low < 0 && <line class="axis" x1={x(0)} x2={x(0)} y1="0" y2={of.length * ROW} />}
      </svg>
    </div>
  );
}

/** Counts of equal intervals from 0 to `end`, on a logarithmic scale. */
export function Histogram({ counts, end, label }: { counts: number[]; end: number; label: string }) {
  const [box, width] = useWidth();
  const [left, height, below] = [44, 120, 20];
  const powers = Math.max(1, Math.ceil(Math.log10(Math.max(...counts, 1) + 1)));
  const y = (n: number) => 8 + height - (Math.log10(n + 1) / powers) * height;
  const step = (width - left - 8) / counts.length;
  const bin = (i: number) => `${number((i * end) / counts.length)} to ${number(((i + 1) * end) / counts.length)}`;
  return (
    <div ref={box} class="drawing">
      <svg class="histogram" width={width} height={height + 8 + below} role="img" aria-label={label}>
        {Array.from({ length: powers + 1 }, (_, power) => (
          <g key={power}>
            <line class="grid" x1={left} x2={width - 4} y1={y(10 ** power - 1)} y2={y(10 ** power - 1)} />
            {power > 0 && (
              <text class="tick" x={left - 6} y={y(10 ** power - 1) + 4}>
                {(10 ** power).toLocaleString("en")}
              </text>
            )}
          </g>
        ))}
        {counts.map((n, i) => (
          <g key={i}>
            <title>{`${bin(i)}: ${n.toLocaleString("en")} positions`}</title>
            <rect class="behind" x={left + i * step} y={8} width={Math.max(0, step)} height={height} />
            {n > 0 && (
              <rect class="bar" x={left + i * step + 0.5} y={y(n)} width={Math.max(1, step - 1)} height={8 + height - y(n)} />
            )}
          </g>
        ))}
        {[0, 0.5, 1].map((part) => (
          <text
            key={part}
            class={`tick below ${part === 0 ? "first" : part === 1 ? "last" : ""}`}
            x={left + part * (width - left - 8)}
            y={height + 8 + 15}
          >
            {number(part * end)}
          </text>
        ))}
      </svg>
    </div>
  );
}

export interface Column<T> {
  name: string;
  /** What is sorted by and written to the file. */
  value: (row: T) => string | number | boolean | null;
  show?: (row: T) => ComponentChildren;
  numeric?: boolean;
  class?: string;
}

const words = new Intl.Collator("en", { numeric: true });

/** A table that can be sorted and saved. */
export function Table<T>({
  rows,
  columns,
  name,
  caption,
  most,
}: {
  rows: T[];
  columns: Column<T>[];
  name: string;
  caption: ComponentChildren;
  most?: number;
}) {
  const [by, setBy] = useState<[number, boolean] | null>(null);
  const [all, setAll] = useState(false);
  let sorted = rows;
  if (by) {
    const { value } = columns[by[0]]!;
    const compare = (a: T, b: T) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return x === y ? 0 : x === null ? 1 : -1;
      const order = typeof x === "number" && typeof y === "number" ? x - y : words.compare(String(x), String(y));
      return by[1] ? order : -order;
    };
    sorted = rows.toSorted(compare);
  }
  const shown = all || most === undefined ? sorted : sorted.slice(0, most);
  return (
    <figure>
      <div class="figure-head">
        <h3>{caption}</h3>
        <span class="files">
          <button
            type="button"
            class="link"
            aria-label={`Save ${name} as CSV`}
            onClick={() =>
              saveCsv(
                name,
                columns.map((column) => column.name),
                sorted.map((row) => columns.map((column) => column.value(row))),
              )
            }
          >
            CSV
          </button>
        </span>
      </div>
      <div class="table-box" tabIndex={0} role="region" aria-label={name}>
        <table>
          <thead>
            <tr>
              {columns.map((column, i) => (
                <th
                  key={column.name}
                  scope="col"
                  class={column.numeric ? "number" : ""}
                  aria-sort={by?.[0] === i ? (by[1] ? "ascending" : "descending") : undefined}
                >
                  <button type="button" onClick={() => setBy([i, by?.[0] === i ? !by[1] : !column.numeric])}>
                    {column.name}
                  </button>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {shown.map((row, i) => (
              <tr key={i}>
                {columns.map((column) => (
                  <td key={column.name} class={`${column.numeric ? "number" : ""} ${column.class ?? ""}`}>
                    {column.show
                      ? column.show(row)
                      : column.numeric
                        ? number(column.value(row) as number | null)
                        : String(column.value(row) ?? "")}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {most !== undefined && rows.length > most && (
        <button type="button" class="pill" onClick={() => setAll(!all)}>
          {all ? `Show ${most} rows` : `Show all ${rows.length} rows`}
        </button>
      )}
    </figure>
  );
}

/** Where one direction is chosen by writing it. */
export function DirectionField({ label, value, set }: { label: string; value: string; set: (text: string) => void }) {
  const id = useId();
  return (
    <Field label={label}>
      <input
        type="search"
        list={id}
        value={value}
        placeholder={`${info.value.saes.at(-1)?.name ?? "sae"}/429`}
        onChange={(event) => set(event.currentTarget.value.trim())}
      />
      <datalist id={id}>
        {info.value.saes.map((one) => (
          <option key={one.name} value={`${one.name}/`} />
        ))}
      </datalist>
    </Field>
  );
}
