/** Edges around a direction, and the attribution graph of a prompt. */
import { useMemo } from "preact/hooks";
import { type Check, type Neighbour, post } from "./api";
import { AttributionGraph } from "./graph";
import { loadEdges, type Measure, MEASURES } from "./panel";
import { Choice, DirectionField, DirectionLink, Field, Figure, Quiet, Select, Table, useWidth, Wait } from "./parts";
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
interface Edge {
  from: Id;
  to: Id;
  value: number;
  n: number | null;
}
interface Found {
  edges: Edge[];
  tokens: Map<string, string | null>;
  about: string[];
}

/** The strongest edges of each open direction, in both ways. */
async function found(open: Id[], measure: Measure, most: number, signal: AbortSignal): Promise<Found> {
  const edges = new Map<string, Edge>();
  const tokens = new Map<string, string | null>();
  const about = new Set<string>();
  const asked = open.flatMap((id) =>
    (["up", "down"] as const).map(async (way) => ({ id, way, answer: await loadEdges(...id, way, measure, signal) })),
  );
  for (const { id, way, answer } of await Promise.all(asked)) {
    if (answer.about) about.add(answer.about);
    for (const { sae, direction, value, n, top_token } of strongest(answer.edges, most)) {
      const other: Id = [sae, direction];
      tokens.set(key(...other), top_token);
      const [from, to] = way === "up" ? [other, id] : [id, other];
      edges.set(`${key(...from)}>${key(...to)}`, { from, to, value, n });
    }
  }
  return { edges: [...edges.values()], tokens, about: [...about] };
}

const strongest = (edges: Neighbour[], most: number) =>
  edges.toSorted((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, most);

function Around() {
  const { query } = place.value;
  const direction = /^\d+$/.test(query.get("direction") ?? "") ? +query.get("direction")! : null;
  const measure = MEASURES.find(([one]) => one === query.get("measure"))?.[0] ?? "weight";
  const most = +(query.get("most") ?? 6) || 6;
  const centre: Id | null = direction === null || sae.value < 0 ? null : [sae.value, direction];
  const opened = query
    .getAll("open")
    .map(unspelled)
    .filter((id) => id !== null);
  const open: Id[] = centre ? [centre, ...opened] : [];
  const loaded = useLoaded(centre && JSON.stringify([open, measure, most]), (signal) => found(open, measure, most, signal));
  return (
    <>
      <div class="line">
        <DirectionField
          label="Direction"
          value={centre ? spelled(...centre) : ""}
          set={(text) => {
            const id = unspelled(text);
            if (id) choose({ sae: saeName(id[0]), direction: id[1], open: null, edge: null }, false);
          }}
        />
        <Field label="Edges each way">
          <Select value={most} options={[3, 6, 10, 20].map((n) => [n, String(n)] as const)} set={(most) => choose({ most })} />
        </Field>
        <Choice label="Measure" value={measure} options={MEASURES} set={(measure) => choose({ measure, edge: null })} />
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
                <p>{spelled(...centre)} has no edges by this measure.</p>
                {data.about.map((one) => (
                  <p key={one}>{sentence(one)}</p>
                ))}
              </div>
            ) : (
              <Drawn data={data} centre={centre} open={open} measure={measure} />
            )
          }
        </Wait>
      )}
    </>
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

function Drawn({ data, centre, open, measure }: { data: Found; centre: Id; open: Id[]; measure: Measure }) {
  const [box, width] = useWidth();
  const { edges, about } = data;
  const tops = useTopTokens([...new Set(open.map(([sae]) => sae))]);
  const { at, height, total, heads } = useMemo(() => laidOut(edges, centre, width), [edges, centre.join(), width]);
  const chosen = edges.find((edge) => edgeName(edge) === place.value.query.get("edge"));
  const most = Math.max(...edges.map(({ value }) => Math.abs(value)));
  const isOpen = (id: Id) => open.some((one) => key(...one) === key(...id));
  const token = (id: Id) => data.tokens.get(key(...id)) ?? topToken(tops.data?.get(id[0]), id[1]);
  const toggle = (id: Id) => {
    if (key(...id) === key(...centre)) return;
    const others = open.slice(1).filter((one) => key(...one) !== key(...id));
    choose({ open: [...others, ...(isOpen(id) ? [] : [id])].map((one) => spelled(...one)) }, false);
  };
  const name = `circuit-${saeName(centre[0])}-${centre[1]}-${measure}`;
  return (
    <>
      <Figure
        name={name}
        title={`Edges by ${measure}`}
        caption={
          <>
            <i class="key positive" /> {measure === "causal" ? "rises when ablated" : "positive"} <i class="key negative" />{" "}
            {measure === "causal" ? "falls when ablated" : "negative"}; thicker: larger. Choose a node to see its own edges, an edge to
            check it. {about.map(sentence).join(" ")}
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
              const path = `M${x} ${from.y}C${(x + end) / 2} ${from.y} ${(x + end) / 2} ${to.y} ${end} ${to.y}`;
              return (
                <g
                  key={edgeName(edge)}
                  class={`edge ${edge.value < 0 ? "negative" : ""} ${edge === chosen ? "chosen" : ""}`}
                  aria-label={`Edge from ${spelled(...edge.from)} to ${spelled(...edge.to)}, ${measure} ${signed(edge.value)}`}
                  {...activate(() => choose({ edge: edgeName(edge) }))}
                >
                  <title>{`${spelled(...edge.from)} → ${spelled(...edge.to)}: ${signed(edge.value)}`}</title>
                  <path class="wide" d={path} />
                  <path class="line" d={path} stroke-width={0.8 + 4.2 * Math.sqrt(Math.abs(edge.value) / most)} />
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
            <EdgeCheck key={edgeName(chosen)} edge={chosen} measure={measure} />
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
            { name: measure, value: (row) => row.value, numeric: true, show: (row) => signed(row.value) },
            { name: "n", value: (row) => row.n, numeric: true },
            {
              name: "check",
              value: edgeName,
              show: (row) => (
                <button
                  type="button"
                  class="link"
                  aria-label={`Choose the edge ${edgeName(row)}`}
                  onClick={() => choose({ edge: edgeName(row) })}
                >
                  choose
                </button>
              ),
            },
          ]}
        />
      </div>
    </>
  );
}

function EdgeCheck({ edge, measure }: { edge: Edge; measure: Measure }) {
  const asked = place.value.query.has("check");
  const checked = useLoaded(asked ? edgeName(edge) : null, (signal) =>
    post<Check>("/api/edges/check", { from: edge.from, to: edge.to }, signal),
  );
  return (
    <>
      <h3>
        <DirectionLink sae={edge.from[0]} direction={edge.from[1]} /> → <DirectionLink sae={edge.to[0]} direction={edge.to[1]} />
      </h3>
      <p class="note">
        {measure} {signed(edge.value)}
        {edge.n !== null && `, n = ${edge.n}`}.{" "}
        <a href={toIntervene(`${spelled(...edge.from)}*0`)}>Ablate the first in a prompt</a>.
      </p>
      {!asked && (
        <button type="button" class="pill strong" onClick={() => choose({ check: 1 })}>
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
  const x = (value: number) => 8 + ((value - low) / (high - low || 1)) * Math.max(0, width - 16);
  return (
    <div ref={box} class="drawing">
      <svg
        class="dot-rows"
        width={width}
        height={rows.length * 40}
        role="img"
        aria-label={rows.map((row) => `${row.name}: ${signed(row.effect)}, ${signed(row.low)} to ${signed(row.high)}`).join("; ")}
      >
        <line class="grid" x1={x(0)} x2={x(0)} y1="0" y2={rows.length * 40} />
        {rows.map((row, i) => (
          <g key={i} class={i === 0 ? "" : "control"}>
            <text class="row-name" x="2" y={i * 40 + 14}>
              {row.name}
            </text>
            <text class="tick last" x={width - 2} y={i * 40 + 14}>
              {signed(row.effect)} ({signed(row.low)} to {signed(row.high)})
            </text>
            <line class="value" x1={x(row.low)} x2={x(row.high)} y1={i * 40 + 27} y2={i * 40 + 27} />
            <circle class="dot" cx={x(row.effect)} cy={i * 40 + 27} r="4.5" />
          </g>
        ))}
      </svg>
    </div>
  );
}
