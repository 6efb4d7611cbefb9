/** Edges around a direction, and the attribution graph of a prompt. */
import { useMemo } from "preact/hooks";
import { type Check, type Edges, post } from "./api";
import { AttributionGraph } from "./graph";
import { loadEdges, type Measure, MEASURES } from "./panel";
import { Choice, DirectionField, DirectionLink, Field, Figure, Quiet, Said, Select, Table, useWidth, Wait } from "./parts";
import { choose, place } from "./place";
import { info, key, sae, saeName, spelled, toIntervene, topToken, unspelled, useLoaded, useTopTokens } from "./state";
import { number, sentence, shortened, signed, tokenText } from "./text";

export function Circuits() {
  const of = place.value.query.get("of") === "prompt" ? "prompt" : "direction";
  return (
    <>
      <div class="part-line first">
        <h1>Circuits</h1>
        <Choice
          label="Of what"
          value={of}
          options={[
            ["direction", "around a direction"],
            ["prompt", "of a prompt"],
          ]}
          set={(of) => choose({ of: of === "prompt" ? of : null }, false)}
        />
      </div>
      {of === "prompt" ? <AttributionGraph /> : <Around />}
    </>
  );
}

type Id = [sae: number, direction: number];
interface Value {
  value: number;
  n: number | null;
}
interface Edge {
  from: Id;
  to: Id;
  /** By each measure by which it is among the strongest. */
  by: Partial<Record<Measure, Value>>;
}
interface Found {
  edges: Edge[];
  tokens: Map<string, string | null>;
  /** What the values of each measure are, and what went wrong. */
  about: string[];
}

/** A positive value says so much more of the second where the first is there; by ablation, where it is not. */
const raises = (measure: Measure, value: number) => (measure === "causal" ? value < 0 : value > 0);

/** The strongest edges of each open direction by each measure, both ways: those that are among the first `most` by any of them. */
async function found(open: Id[], measures: Measure[], most: number, signal: AbortSignal): Promise<Found> {
  const tokens = new Map<string, string | null>();
  const about = new Set<string>();
  const asked = open.flatMap((id) =>
    (["up", "down"] as const).flatMap((way) =>
      measures.map(async (measure) => {
        try {
          return { id, way, measure, answer: await loadEdges(...id, way, measure, signal) };
        } catch (error) {
          // By another measure there may be some.
          if (signal.aborted || measures.length === 1) throw error;
          about.add(`${measure}: ${(error as Error).message}`);
          return { id, way, measure, answer: { about: "", edges: [] } as Edges };
        }
      }),
    ),
  );
  const known = new Map<string, Edge>();
  const shown = new Set<string>();
  for (const { id, way, measure, answer } of await Promise.all(asked)) {
    if (answer.about && answer.edges.length > 0) about.add(`${measure}: ${answer.about}`);
    if (answer.measured) about.add(answer.measured);
    const strongest = answer.edges.toSorted((a, b) => Math.abs(b.value) - Math.abs(a.value));
    strongest.forEach(({ sae, direction, value, n, top_token }, place) => {
      const other: Id = [sae, direction];
      const [from, to] = way === "up" ? [other, id] : [id, other];
      const name = `${key(...from)}>${key(...to)}`;
      const edge = known.get(name) ?? { from, to, by: {} };
      edge.by[measure] = { value, n };
      known.set(name, edge);
      if (place >= most) return;
      shown.add(name);
      tokens.set(key(...other), top_token);
    });
  }
  return { edges: [...known].filter(([name]) => shown.has(name)).map(([, edge]) => edge), tokens, about: [...about] };
}

/** Those chosen in the address; where none are, what is there without a wait. */
function chosenMeasures(names: string[]): Measure[] {
  const chosen = MEASURES.map(([measure]) => measure).filter((measure) => names.includes(measure));
  if (chosen.length > 0) return chosen;
  return info.value.index?.edges ? ["attribution", "causal"] : ["cosine", "weight"];
}

function Around() {
  const { query } = place.value;
  const direction = /^\d+$/.test(query.get("direction") ?? "") ? +query.get("direction")! : null;
  const measures = chosenMeasures(query.getAll("measure"));
  const most = +(query.get("most") ?? 6) || 6;
  const centre: Id | null = direction === null || sae.value < 0 ? null : [sae.value, direction];
  const opened = query
    .getAll("open")
    .map(unspelled)
    .filter((id) => id !== null);
  const open: Id[] = centre ? [centre, ...opened] : [];
  const loaded = useLoaded(centre && JSON.stringify([open, measures, most]), (signal) => found(open, measures, most, signal));
  return (
    <>
      <div class="line">
        <DirectionField
          label="Direction"
          value={centre ? spelled(...centre) : ""}
          set={(text) => {
            const id = unspelled(text);
            if (id) choose({ sae: saeName(id[0]), direction: id[1], open: null, edge: null, check: null }, false);
          }}
        />
        <Field label="Edges each way">
          <Select value={most} options={[3, 6, 10, 20].map((n) => [n, String(n)] as const)} set={(most) => choose({ most })} />
        </Field>
        <Legend measures={measures} />
      </div>
      {!centre ? (
        <div class="empty">
          <p>
            Which direction? Write one above, or choose one among the <a href="/">directions</a>.
          </p>
        </div>
      ) : (
        <Wait on={loaded} what="Looking for edges">
          {(data) =>
            data.edges.length === 0 ? (
              <div class="empty">
                <p>
                  {spelled(...centre)} has no edges by {listed(measures)}.
                </p>
                {data.about.map((one) => (
                  <p key={one}>
                    <Said text={sentence(one)} />
                  </p>
                ))}
              </div>
            ) : (
              <Drawn data={data} centre={centre} open={open} measures={measures} />
            )
          }
        </Wait>
      )}
    </>
  );
}

const listed = (names: string[]) => (names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);

/** Which measures are shown, each with its colour. */
function Legend({ measures }: { measures: Measure[] }) {
  const toggle = (measure: Measure) => {
    const on = measures.includes(measure);
    const chosen = MEASURES.map(([one]) => one).filter((one) => (one === measure ? !on : measures.includes(one)));
    if (chosen.length > 0) choose({ measure: chosen });
  };
  return (
    <div class="choice legend" role="group" aria-label="Measures">
      {MEASURES.map(([measure, name]) => (
        <button key={measure} type="button" aria-pressed={measures.includes(measure)} onClick={() => toggle(measure)}>
          <i class={`swatch ${measure}`} /> {name}
        </button>
      ))}
    </div>
  );
}

/** Of a node, between nodes, and at the edge of the drawing, in pixels. */
const [WIDE, HIGH, GAP, EDGE] = [124, 26, 12, 12];

/** Where each direction stands: its SAE's column, near those it is joined to. */
function laidOut(edges: Edge[], centre: Id, width: number) {
  const nodes = new Map<string, Id>([[key(...centre), centre]]);
  for (const { from, to } of edges) for (const id of [from, to]) nodes.set(key(...id), id);
  const layers = info.value.saes.map((one) => one.layer);
  const saes = [...new Set([...nodes.values()].map(([sae]) => sae))].sort((a, b) => layers[a]! - layers[b]! || a - b);
  const columns = saes.map((sae) => [...nodes].filter(([, id]) => id[0] === sae).map(([name]) => name));
  const rank = new Map<string, number>();
  const number = () => columns.forEach((column) => column.forEach((name, i) => rank.set(name, i - (column.length - 1) / 2)));
  number();
  for (let round = 0; round < 4; round++) {
    for (const column of columns) {
      const pull = (name: string) => {
        const ends = edges.flatMap(({ from, to }) =>
          key(...from) === name ? [rank.get(key(...to))!] : key(...to) === name ? [rank.get(key(...from))!] : [],
        );
        return ends.reduce((sum, end) => sum + end, 0) / (ends.length || 1);
      };
      const pulls = new Map(column.map((name) => [name, pull(name)]));
      column.sort((a, b) => pulls.get(a)! - pulls.get(b)!);
    }
    number();
  }
  const height = Math.max(...columns.map((column) => column.length)) * (HIGH + GAP) + 56;
  const between = Math.max(WIDE + 70, Math.min(460, (width - WIDE - 2 * EDGE) / Math.max(1, columns.length - 1)));
  const total = WIDE + 2 * EDGE + between * (columns.length - 1);
  const xs = columns.map((_, i) => EDGE + WIDE / 2 + i * between);
  const at = new Map<string, { id: Id; x: number; y: number }>();
  columns.forEach((column, i) => {
    for (const name of column)
      at.set(name, { id: nodes.get(name)!, x: xs[i]!, y: 38 + (height - 56) / 2 + rank.get(name)! * (HIGH + GAP) });
  });
  return { at, height, total, heads: saes.map((sae, i) => ({ sae, x: xs[i]! })) };
}

const edgeName = ({ from, to }: Edge) => `${spelled(...from)}>${spelled(...to)}`;

const activate = (act: () => void) => ({
  role: "button" as const,
  // Attributes of SVG keep their case.
  tabindex: 0,
  onClick: act,
  onKeyDown: (event: KeyboardEvent) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act();
  },
});

/** Between the lines of an edge. */
const STRAND = 5;

const told = ({ by }: Edge) =>
  Object.entries(by)
    .map(([measure, { value }]) => `${measure} ${signed(value)}`)
    .join(", ");

const checks = new Map<string, Promise<Check>>();

/** What checking an edge has found: found once, however often it is looked at. */
function checkOf(name: string) {
  const [from, to] = name.split(">").map(unspelled);
  if (!from || !to) return Promise.reject(new Error(`${name} is no edge`));
  const checking = checks.get(name) ?? post<Check>("/api/edges/check", { from, to });
  checks.set(name, checking);
  checking.catch(() => checks.delete(name));
  return checking;
}

function Drawn({ data, centre, open, measures }: { data: Found; centre: Id; open: Id[]; measures: Measure[] }) {
  const [box, width] = useWidth();
  const { edges, about } = data;
  const tops = useTopTokens([...new Set(open.map(([sae]) => sae))]);
  const { at, height, total, heads } = useMemo(() => laidOut(edges, centre, width), [edges, centre.join(), width]);
  const chosen = edges.find((edge) => edgeName(edge) === place.value.query.get("edge"));
  const asked = place.value.query.getAll("check");
  const checked = useLoaded(asked.length > 0 ? JSON.stringify(asked) : null, async () => {
    const found = await Promise.all(asked.map((name) => checkOf(name).catch(() => null)));
    return new Map(asked.map((name, i) => [name, found[i]?.verified ?? null]));
  });
  /** Where an edge is marked: at the end that fewer edges share. */
  const markAt = ({ from, to }: Edge): [number, number] => {
    const [start, end] = [at.get(key(...from))!, at.get(key(...to))!];
    const [x, until] = [start.x + WIDE / 2, end.x - WIDE / 2];
    const shared = (id: Id) => edges.filter((edge) => [edge.from, edge.to].some((one) => key(...one) === key(...id))).length;
    const t = shared(from) <= shared(to) ? 0.14 : 0.86;
    const weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t ** 2 * (1 - t), t ** 3];
    const along = (points: number[]) => points.reduce((sum, point, i) => sum + point * weights[i]!, 0);
    return [along([x, (x + until) / 2, (x + until) / 2, until]), along([start.y, start.y, end.y, end.y])];
  };
  const verdict = (edge: Edge) => checked.data?.get(edgeName(edge)) ?? null;
  const most = new Map(
    measures.map((measure) => [measure, Math.max(...edges.map(({ by }) => Math.abs(by[measure]?.value ?? 0)))] as const),
  );
  const isOpen = (id: Id) => open.some((one) => key(...one) === key(...id));
  const token = (id: Id) => data.tokens.get(key(...id)) ?? topToken(tops.data?.get(id[0]), id[1]);
  const toggle = (id: Id) => {
    if (key(...id) === key(...centre)) return;
    const others = open.slice(1).filter((one) => key(...one) !== key(...id));
    choose({ open: [...others, ...(isOpen(id) ? [] : [id])].map((one) => spelled(...one)) }, false);
  };
  const name = `circuit-${saeName(centre[0])}-${centre[1]}-${measures.join("-")}`;
  return (
    <>
      <Figure
        name={name}
        title={`Edges by ${listed(measures)}`}
        caption={
          <>
            <i class="stroke" /> raises, <i class="stroke dashed" /> lowers; thicker: larger by its measure.{" "}
            {measures.length > 1 && "An edge has a line for each measure by which it is among the strongest of an open node. "}
            Choose a node to see its own edges, an edge to check it
            {asked.length > 0 && (
              <>
                ; <b>✓</b> holds against chance and controls, <b>–</b> is not told from them
              </>
            )}
            .
            {about.map((one) => (
              <span key={one} class="about">
                <Said text={sentence(one)} />
              </span>
            ))}
          </>
        }
      >
        <div ref={box} class="plot-box circuit-box" tabIndex={0} role="region" aria-label="Circuit">
          <svg class="circuit" width={total} height={height} role="group" aria-label={`Edges around ${spelled(...centre)}`}>
            {heads.map(({ sae, x }) => (
              <text key={sae} class="head" x={x} y="20">
                {shortened(saeName(sae), 20)}
              </text>
            ))}
            {edges.map((edge) => {
              const [from, to] = [at.get(key(...edge.from))!, at.get(key(...edge.to))!];
              const [x, end] = [from.x + WIDE / 2, to.x - WIDE / 2];
              const path = (shift: number) => {
                const [y, until] = [from.y + shift, to.y + shift];
                return `M${x} ${y}C${(x + end) / 2} ${y} ${(x + end) / 2} ${until} ${end} ${until}`;
              };
              const lines = measures.filter((measure) => edge.by[measure]);
              return (
                <g
                  key={edgeName(edge)}
                  class={`edge ${edge === chosen ? "chosen" : ""}`}
                  aria-label={`Edge from ${spelled(...edge.from)} to ${spelled(...edge.to)}, ${told(edge)}`}
                  {...activate(() => choose({ edge: edgeName(edge) }))}
                >
                  <title>{`${spelled(...edge.from)} → ${spelled(...edge.to)}: ${told(edge)}`}</title>
                  <path class="wide" d={path(0)} />
                  {lines.map((measure, i) => {
                    const { value } = edge.by[measure]!;
                    return (
                      <path
                        key={measure}
                        class={`line ${measure} ${raises(measure, value) ? "" : "lowers"}`}
                        d={path((i - (lines.length - 1) / 2) * STRAND)}
                        stroke-width={1 + 3 * Math.sqrt(Math.abs(value) / (most.get(measure) || 1))}
                      />
                    );
                  })}
                </g>
              );
            })}
            {edges.map((edge) => {
              const holds = verdict(edge);
              if (holds === null) return null;
              const [x, y] = markAt(edge);
              return (
                <g key={`check ${edgeName(edge)}`} class="checked" aria-hidden="true">
                  <circle cx={x} cy={y} r="9" />
                  <text x={x} y={y + 4}>
                    {holds ? "✓" : "–"}
                  </text>
                </g>
              );
            })}
            {[...at.values()].map(({ id, x, y }) => {
              const text = token(id);
              const label = `${id[1]}${text === null ? "" : ` ${tokenText(text)}`}`;
              return (
                <g
                  key={key(...id)}
                  class={`node ${key(...id) === key(...centre) ? "centre" : ""} ${isOpen(id) ? "open" : ""}`}
                  aria-label={`${spelled(...id)}${text === null ? "" : `, ${tokenText(text)}`}`}
                  aria-expanded={isOpen(id)}
                  {...activate(() => toggle(id))}
                >
                  <title>{`${spelled(...id)}${text === null ? "" : `, ${tokenText(text)}`}`}</title>
                  <rect x={x - WIDE / 2} y={y - HIGH / 2} width={WIDE} height={HIGH} rx={HIGH / 2} />
                  <text x={x} y={y + 4}>
                    {shortened(label, 16)}
                  </text>
                </g>
              );
            })}
          </svg>
        </div>
      </Figure>
      <div class="halves">
        <div class="card" aria-live="polite">
          {chosen ? (
            <EdgeCheck key={edgeName(chosen)} edge={chosen} />
          ) : (
            <Quiet>Choose an edge to see whether ablating its first direction changes its second.</Quiet>
          )}
        </div>
        <Table
          rows={edges}
          name={name}
          caption="Edges"
          most={10}
          columns={[
            {
              name: "from",
              value: (row) => spelled(...row.from),
              show: (row) => <DirectionLink sae={row.from[0]} direction={row.from[1]} />,
            },
            {
              name: "to",
              value: (row) => spelled(...row.to),
              show: (row) => <DirectionLink sae={row.to[0]} direction={row.to[1]} />,
            },
            {
              name: "check",
              value: (row) => ({ true: "holds", false: "not told from chance", null: "" })[String(verdict(row)) as "true"],
              show: (row) => (
                <button
                  type="button"
                  class="link"
                  aria-label={`Choose the edge ${edgeName(row)}`}
                  onClick={() => choose({ edge: edgeName(row) })}
                >
                  {{ true: "✓ holds", false: "– chance", null: "choose" }[String(verdict(row)) as "true"]}
                </button>
              ),
            },
            ...measures.flatMap((measure) => [
              {
                name: measure,
                value: (row: Edge) => row.by[measure]?.value ?? null,
                numeric: true,
                show: (row: Edge) => signed(row.by[measure]?.value),
              },
              // Weights are no means.
              ...(edges.some(({ by }) => by[measure]?.n)
                ? [{ name: `${measure} n`, value: (row: Edge) => row.by[measure]?.n ?? null, numeric: true }]
                : []),
            ]),
          ]}
        />
      </div>
    </>
  );
}

function EdgeCheck({ edge }: { edge: Edge }) {
  const asked = place.value.query.getAll("check");
  const name = edgeName(edge);
  const checked = useLoaded(asked.includes(name) ? name : null, () => checkOf(name));
  return (
    <>
      <h3>
        <DirectionLink sae={edge.from[0]} direction={edge.from[1]} /> → <DirectionLink sae={edge.to[0]} direction={edge.to[1]} />
      </h3>
      <p class="note">
        {MEASURES.flatMap(([measure]) => {
          const of = edge.by[measure];
          return of ? [`${measure} ${signed(of.value)}${of.n === null ? "" : ` (n = ${of.n})`}`] : [];
        }).join(", ")}
        . <a href={toIntervene(`${spelled(...edge.from)}*0`)}>Ablate the first in a prompt</a>.
      </p>
      {!asked.includes(name) && (
        <button type="button" class="pill strong" onClick={() => choose({ check: [...asked, name] })}>
          Check causally
        </button>
      )}
      <Wait on={checked} what="Ablating">
        {(data) => (
          <>
            <p class="sentence">{data.sentence}</p>
            <Figure
              name={`check-${edge.from.join("-")}-${edge.to.join("-")}`}
              title="Effect"
              caption={`Mean with 95 % interval; n = ${data.n}, p = ${number(data.p, 2)}.`}
            >
              <Intervals rows={[{ name: "this edge", effect: data.effect, low: data.low, high: data.high }, ...data.controls]} />
            </Figure>
          </>
        )}
      </Wait>
    </>
  );
}

/** A mean and its interval on each line. */
function Intervals({ rows }: { rows: { name: string; effect: number; low: number; high: number }[] }) {
  const [box, width] = useWidth();
  const ends = [0, ...rows.flatMap(({ low, high }) => [low, high])];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  // Where there is no room beside a name, the values stand below it.
  const beside = width >= 440;
  const each = beside ? 40 : 56;
  const x = (value: number) => 8 + ((value - low) / (high - low || 1)) * Math.max(0, width - 16);
  return (
    <div ref={box} class="drawing">
      <svg
        class="dot-rows"
        width={width}
        height={rows.length * each}
        role="img"
        aria-label={rows.map((row) => `${row.name}: ${signed(row.effect)}, ${signed(row.low)} to ${signed(row.high)}`).join("; ")}
      >
        <line class="grid" x1={x(0)} x2={x(0)} y1="0" y2={rows.length * each} />
        {rows.map((row, i) => (
          <g key={i} class={i === 0 ? "" : "control"}>
            <text class="row-name" x="2" y={i * each + 14}>
              {row.name}
            </text>
            <text class={beside ? "tick last" : "row-name"} x={beside ? width - 2 : 2} y={i * each + (beside ? 14 : 30)}>
              {signed(row.effect)} ({signed(row.low)} to {signed(row.high)})
            </text>
            <line class="value" x1={x(row.low)} x2={x(row.high)} y1={(i + 1) * each - 13} y2={(i + 1) * each - 13} />
            <circle class="dot" cx={x(row.effect)} cy={(i + 1) * each - 13} r="4.5" />
          </g>
        ))}
      </svg>
    </div>
  );
}
