/** The attribution graph of a prompt: the edges of the node that is pointed at or chosen, and what it is. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { type GraphNode, post, type PromptGraph } from "./api";
import { Facts, Field, Figure, Quiet } from "./parts";
import { choose, place } from "./place";
import { PromptForm } from "./prompt";
import { saveBlob } from "./save";
import { promptText, toDirection } from "./state";
import { signed } from "./text";

export function AttributionGraph() {
  const text = promptText.value;
  const answer = place.value.query.get("answer") ?? "";
  const [graph, setGraph] = useState<PromptGraph | null>(null);
  const [running, setRunning] = useState<AbortController | null>(null);
  const [error, setError] = useState("");
  const run = async (text: string) => {
    const control = new AbortController();
    setRunning(control);
    setError("");
    setGraph(null);
    try {
      setGraph(await post<PromptGraph>("/api/graph", { text, ...(answer && { answer }) }, control.signal));
    } catch (error) {
      if (!control.signal.aborted) setError((error as Error).message);
    }
    if (!control.signal.aborted) setRunning(null);
  };
  const start = (text: string) => {
    choose({ text, graph: 1 }, false);
    void run(text);
  };
  useEffect(() => {
    if (place.value.query.has("graph")) void run(text);
  }, []);
  useEffect(() => () => running?.abort(), [running]);
  return (
    <>
      <PromptForm text={text} run={start} />
      <div class="line">
        <Field label="Answer, if not the last token">
          <input value={answer} onChange={(event) => choose({ answer: event.currentTarget.value })} />
        </Field>
      </div>
      {running && (
        <p class="none loading" role="status">
          Drawing the graph; this takes seconds …{" "}
          <button
            type="button"
            class="pill"
            onClick={() => {
              running.abort();
              setRunning(null);
            }}
          >
            Cancel
          </button>
        </p>
      )}
      {error && (
        <p class="failed" role="alert">
          {error}
        </p>
      )}
      {graph ? (
        <Shown graph={graph} />
      ) : (
        !running &&
        !error && (
          <div class="empty">
            <p>Run the prompt to see which tokens, heads and directions write its prediction.</p>
          </div>
        )
      )}
    </>
  );
}

function Shown({ graph }: { graph: PromptGraph }) {
  const save = () => saveBlob(new Blob([JSON.stringify(graph.json)], { type: "application/json" }), "graph.json");
  return (
    <Figure
      name="attribution-graph"
      title={graph.title}
      caption={
        <>
          {graph.caption}{" "}
          {graph.notes.map((note) => (
            <span key={note}>{note} </span>
          ))}
          <button type="button" class="link" onClick={save}>
            JSON for circuit-tracer
          </button>
        </>
      }
    >
      <div class="graph-key">
        <span>
          <i />
          adds
        </span>
        <span>
          <i class="down" />
          takes away
        </span>
        <span>thicker: more of the answer goes through it</span>
      </div>
      <Drawing graph={graph} />
    </Figure>
  );
}

type Link = [source: number, target: number, weight: number];

function Drawing({ graph }: { graph: PromptGraph }) {
  const { nodes, edges, most, height } = graph.data;
  const box = useRef<HTMLDivElement>(null);
  const answer = nodes.findIndex((node) => node[5] === "logit");
  const [selected, setSelected] = useState<number | null>(answer < 0 ? null : answer);
  const [pointed, setPointed] = useState<number | null>(null);
  const marks = () => [...box.current!.querySelectorAll<SVGElement>(".graph-marks .node")];
  const shown = pointed ?? selected;

  useLayoutEffect(() => {
    const svg = box.current!.querySelector<SVGElement>(".graph-marks")!;
    svg.setAttribute("role", "group");
    const of = (event: Event) => {
      const mark = (event.target as Element).closest<SVGElement>(".node");
      return mark ? +mark.dataset.node! : null;
    };
    const point = (event: PointerEvent) => event.pointerType === "mouse" && setPointed(of(event));
    const unpoint = () => setPointed(null);
    const click = (event: Event) => setSelected((before) => (of(event) === before ? null : of(event)));
    const press = (event: KeyboardEvent) => {
      if ((event.key !== "Enter" && event.key !== " ") || of(event) === null) return;
      event.preventDefault();
      setSelected(of(event));
    };
    svg.addEventListener("pointerover", point);
    svg.addEventListener("pointerleave", unpoint);
    svg.addEventListener("click", click);
    svg.addEventListener("keydown", press);
    for (const mark of marks()) {
      mark.setAttribute("tabindex", "0");
      mark.setAttribute("role", "button");
      mark.setAttribute("aria-label", nodes[+mark.dataset.node!]![0]);
    }
    box.current!.scrollLeft = box.current!.scrollWidth;
  }, [graph]);

  useLayoutEffect(() => {
    const ends = new Set([shown]);
    const paths: SVGPathElement[] = [];
    const near = (end: 0 | 1) => sorted(edges.filter((edge) => edge[end] === shown)).slice(0, 60);
    for (const [source, target, weight] of [...near(1), ...near(0)]) {
      ends.add(source).add(target);
      const [[, , , x, y], [, , , toX, toY]] = [nodes[source]!, nodes[target]!];
      const [from, to] = [y - height / 2, toY + height / 2];
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", weight < 0 ? "edge negative" : "edge");
      path.setAttribute("d", `M${x} ${from}C${x} ${(from + to) / 2} ${toX} ${(from + to) / 2} ${toX} ${to}`);
      path.setAttribute("stroke-width", String(0.6 + 4 * Math.sqrt(Math.abs(weight) / most)));
      paths.push(path);
    }
    box.current!.querySelector(".chosen")!.replaceChildren(...paths);
    box.current!.querySelector(".graph-marks")!.classList.toggle("lit", shown !== null);
    for (const mark of marks()) {
      mark.classList.toggle("on", ends.has(+mark.dataset.node!));
      mark.classList.toggle("selected", +mark.dataset.node! === selected);
    }
  }, [shown, selected, graph]);

  const select = (node: number) => {
    setSelected(node);
    const [, , , x] = nodes[node]!;
    const { scrollLeft, clientWidth } = box.current!;
    if (x < scrollLeft + 40 || x > scrollLeft + clientWidth - 40) box.current!.scrollLeft = x - clientWidth / 2;
  };
  return (
    <>
      {/* The server draws it and escapes every text in it. */}
      <div
        class="graph-box"
        ref={box}
        tabIndex={0}
        role="region"
        aria-label="Attribution graph"
        dangerouslySetInnerHTML={{ __html: graph.drawing }}
      />
      <div class="graph-panel" aria-live="polite">
        {selected === null ? (
          <Quiet>Choose a node to see what it is made of.</Quiet>
        ) : (
          <NodePanel node={nodes[selected]!} number={selected} nodes={nodes} edges={edges} select={select} />
        )}
      </div>
    </>
  );
}

const sorted = (edges: Link[]) => edges.toSorted((a, b) => Math.abs(b[2]) - Math.abs(a[2]));

function NodePanel({
  node: [title, facts, link],
  number,
  nodes,
  edges,
  select,
}: {
  node: GraphNode;
  number: number;
  nodes: GraphNode[];
  edges: Link[];
  select: (node: number) => void;
}) {
  const [, sae, direction] = link?.match(/^direction\/(\d+)\/(\d+)$/) ?? [];
  const list = (heading: string, end: 0 | 1) => {
    const found = sorted(edges.filter((edge) => edge[1 - end] === number));
    if (!found.length) return null;
    const rest = found.slice(12);
    return (
      <div>
        <h4>{heading}</h4>
        <ul>
          {found.slice(0, 12).map((edge, i) => (
            <li key={i}>
              <span class={edge[2] < 0 ? "down" : "up"}>{signed(edge[2])}</span>
              <button type="button" onClick={() => select(edge[end])}>
                {nodes[edge[end]]![0]}
              </button>
            </li>
          ))}
          {rest.length > 0 && (
            <li class="rest">
              <span>{signed(rest.reduce((sum, edge) => sum + edge[2], 0))}</span>from {rest.length} others
            </li>
          )}
        </ul>
      </div>
    );
  };
  return (
    <>
      <h3 class="title">{direction === undefined ? title : <a href={toDirection(+sae!, +direction)}>{title}</a>}</h3>
      <Facts of={facts} />
      <div class="lists">
        {list("What adds to it", 0)}
        {list("What it adds to", 1)}
      </div>
    </>
  );
}
