/** One direction: what is known of it. */
import { useEffect, useState } from "preact/hooks";
import {
  type DirectionAttribution,
  type Edges,
  type Example,
  Failure,
  get,
  type Neighbour,
  type Neighbours,
  type Note,
  type Panel,
  put,
  query,
} from "./api";
import {
  Bars,
  Choice,
  DirectionLink,
  Facts,
  Field,
  Figure,
  Histogram,
  Quiet,
  Said,
  type Shaded,
  Table,
  Token,
  Tokens,
  Wait,
} from "./parts";
import { address, leftAt } from "./place";
import { info, keepNote, key, notes, saeName, spelled, toDirection, toIntervene, useLoaded, usePaced } from "./state";
import { count, many, number, percent, sentence, signed, tokenText } from "./text";

const KINDS = ["Strongest", "Upper third", "Middle third", "Lower third"] as const;

interface Props {
  of: number;
  direction: number;
  /** Where it is in the list; -1 where the filters leave it out. */
  place: number;
  among: number;
  effect: number | null;
  step: (to: (at: number) => number) => void;
}

export function DirectionPanel({ of, direction, place, among, effect, step }: Props) {
  // Who holds an arrow key down passes by many.
  const settled = usePaced(direction, 60);
  const known = Number.isInteger(settled) && settled < info.value.saes[of]!.directions;
  const panel = useLoaded(known ? `${of}/${settled}` : null, (signal) =>
    get<Panel>(`/api/saes/${of}/directions/${settled}`, signal),
  );
  const note = notes.value.get(key(of, direction));
  return (
    <article class="panel" aria-label="Direction">
      <header class="panel-head">
        <h2>
          <span class="faint">{saeName(of)}/</span>
          {direction}
          {note?.label && <span class="label"> {note.label}</span>}
        </h2>
        <span class="steps">
          <button
            type="button"
            aria-label="Previous direction"
            title="Previous (← or k)"
            disabled={place === 0}
            onClick={() => step((at) => at - 1)}
          >
            ←
          </button>
          <span class="count">{place < 0 ? "not in the list" : `${count(place + 1)} of ${count(among)}`}</span>
          <button
            type="button"
            aria-label="Next direction"
            title="Next (→ or j)"
            disabled={place === among - 1}
            onClick={() => step((at) => at + 1)}
          >
            →
          </button>
        </span>
      </header>
      {!known && Object.is(settled, direction) ? (
        <p class="failed" role="alert">
          {saeName(of)} has no direction {Number.isNaN(direction) ? "of that name" : direction}: it has{" "}
          {count(info.value.saes[of]!.directions)}, counted from 0.
        </p>
      ) : (
        <>
          <nav class="actions" aria-label="This direction elsewhere">
            <a href={toIntervene(`${spelled(of, direction)}*0`, { sae: saeName(of) })}>Intervene</a>
            <a href={leftAt("/prompt", { sae: saeName(of), colour: spelled(of, direction) })}>Colour a prompt</a>
            <a href={address("/circuits", { sae: saeName(of), direction })}>Circuit</a>
            <a href={address("/search", { sae: saeName(of), by: "query", query: spelled(of, direction) })}>All positions</a>
          </nav>
          <NoteEditor key={key(of, direction)} of={of} direction={direction} />
          <Wait on={panel} what="Loading the direction">
            {(data) => <About data={data} effect={effect} />}
          </Wait>
        </>
      )}
    </article>
  );
}

function About({ data, effect }: { data: Panel; effect: number | null }) {
  const { sae, direction } = data;
  const name = `${saeName(sae)}-${direction}`;
  if (data.maximum === 0)
    return (
      <div class="empty">
        <p>Dead: it fires nowhere in the corpus.</p>
      </div>
    );
  const facts: [string, string][] = [
    ["maximum", number(data.maximum)],
    ["fires at", `${count(data.active)} positions (${percent(data.density)})`],
    ["in", many(data.prompts, "prompt")],
    ["mean where it fires", number(data.mean)],
    ["density rank", count(data.density_rank + 1)],
    ["at the first token", number(data.at_first)],
  ];
  if (effect !== null) facts.push(["loss when ablated", `${signed(effect)} nats`]);
  const bars = (tokens: Panel["raised"]) =>
    tokens.map(({ text, value }) => ({ label: tokenText(text), value, shown: signed(value, 2) }));
  return (
    <>
      <Facts of={facts} />
      <div class="halves">
        <Figure title="Activations" name={`${name}-histogram`} caption="Positions by activation, on a logarithmic scale.">
          <Histogram counts={data.histogram} end={data.maximum} label="Positions by activation" />
        </Figure>
        {data.tokens.length > 0 && (
          <Table
            rows={data.tokens}
            name={`${name}-tokens`}
            most={5}
            caption="Top tokens"
            columns={[
              { name: "token", value: (row) => row.text, show: (row) => <Token>{row.text}</Token> },
              { name: "count", value: (row) => row.count, numeric: true },
              { name: "share", value: (row) => row.share, numeric: true, show: (row) => percent(row.share) },
            ]}
          />
        )}
        {data.raised.length > 0 && (
          <>
            <Figure title="Raises" name={`${name}-raised`}>
              <Bars of={bars(data.raised)} label="Tokens whose logit it raises" />
            </Figure>
            <Figure title="Lowers" name={`${name}-lowered`}>
              <Bars of={bars(data.lowered)} label="Tokens whose logit it lowers" />
            </Figure>
          </>
        )}
      </div>
      {data.raised.length > 0 && <p class="note">Logits per unit of activation.</p>}
      <h3 class="part">Examples</h3>
      {KINDS.map((kind, i) => (
        <Examples
          key={`${key(sae, direction)} ${i}`}
          name={kind}
          of={data}
          examples={data.examples.filter((one) => one.kind === i)}
        />
      ))}
      <NeighbourLists of={sae} direction={direction} />
      <EdgeLists of={sae} direction={direction} />
    </>
  );
}

function Examples({ name, of, examples }: { name: string; of: Panel; examples: Example[] }) {
  const few = name === "Strongest" ? 4 : 2;
  const [all, setAll] = useState(false);
  if (!examples.length) return null;
  const range = `${number(Math.min(...examples.map((one) => one.activation)))} to ${number(Math.max(...examples.map((one) => one.activation)))}`;
  return (
    <div class="examples">
      <h4>
        {name} <span class="faint">{range}</span>
      </h4>
      {(all ? examples : examples.slice(0, few)).map((one) => (
        <ExampleBox key={`${one.prompt} ${one.position}`} of={of} example={one} />
      ))}
      {examples.length > few && (
        <button type="button" class="pill" onClick={() => setAll(!all)}>
          {all ? "Show fewer" : `Show all ${examples.length}`}
        </button>
      )}
    </div>
  );
}

/** Tokens shaded by the activation of a direction. */
function byActivation(texts: string[], values: number[], maximum: number, start: number, marked: number): Shaded[] {
  return texts.map((text, i) => {
    const value = values[i] ?? 0;
    return {
      text,
      shade: Math.min(1, value / (maximum || 1)),
      ...(value > 0 && { hint: `${tokenText(text)}  ${number(value)}` }),
      class: start + i === marked ? "marked" : "",
    };
  });
}

function ExampleBox({ of: { sae, direction, maximum }, example }: { of: Panel; example: Example }) {
  const { prompt, position, activation, start, texts, values, length } = example;
  const [whole, setWhole] = useState(false);
  const [dfa, setDfa] = useState(false);
  const all = useLoaded(whole ? "whole" : null, (signal) =>
    get<{ texts: string[]; values: number[] }>(`/api/prompts/${prompt}?${query({ sae, direction })}`, signal),
  );
  const attribution = useLoaded(dfa ? "dfa" : null, (signal) =>
    get<DirectionAttribution>(`/api/saes/${sae}/directions/${direction}/attribution?${query({ prompt, position })}`, signal),
  );
  const shown =
    whole && all.data
      ? byActivation(all.data.texts, all.data.values, maximum, 0, position)
      : byActivation(texts, values, maximum, start, position);
  const more = (end: boolean) =>
    !whole &&
    end && (
      <button type="button" class="dots here" aria-label="Show the whole prompt" onClick={() => setWhole(true)}>
        …
      </button>
    );
  return (
    <div class="prompt">
      <p class="label">
        <span>
          {number(activation)} at position {position} of prompt {prompt}
        </span>
        <span class="files">
          {whole && (
            <button type="button" class="link" onClick={() => setWhole(false)}>
              Less
            </button>
          )}
          <a href={address("/prompt", { sae: saeName(sae), prompt, position, colour: spelled(sae, direction) })}>Open</a>
          <button type="button" class="link" aria-expanded={dfa} onClick={() => setDfa(!dfa)}>
            What drives it
          </button>
        </span>
      </p>
      <div class="between">
        {more(start > 0)}
        <Tokens of={shown} label={`Prompt ${prompt}`} />
        {more(start + texts.length < length)}
      </div>
      {all.error && (
        <p class="failed" role="alert">
          {all.error}
        </p>
      )}
      {dfa && (
        <Wait on={attribution} what="Attributing">
          {(data) => (
            <Figure
              title="What drives it (DFA)"
              name={`${saeName(sae)}-${direction}-dfa-${prompt}-${position}`}
              caption={data.about}
            >
              <Bars
                of={data.components.map(({ label, value }) => ({ label, value, shown: signed(value) }))}
                label="Attribution of the activation"
              />
            </Figure>
          )}
        </Wait>
      )}
    </div>
  );
}

function NoteEditor({ of, direction }: { of: number; direction: number }) {
  const kept = notes.value.get(key(of, direction));
  const blank = { label: "", text: "", starred: false, version: 0 };
  const [mine, setMine] = useState(kept ?? blank);
  const [open, setOpen] = useState(false);
  const [error, setError] = useState("");
  const [theirs, setTheirs] = useState<Note | null>(null);
  const changed = mine.label !== (kept?.label ?? "") || mine.text !== (kept?.text ?? "");
  const { edit } = info.value;
  useEffect(() => {
    if (kept && kept.version > mine.version && !changed) setMine(kept);
  }, [kept]);
  const save = async (next: typeof mine) => {
    setMine(next);
    setError("");
    try {
      const { label, text, starred, version } = next;
      const note = await put<Note>(`/api/notes/${of}/${direction}`, { label, text, starred, version });
      keepNote(of, direction, note);
      setMine(note);
      setTheirs(null);
    } catch (error) {
      // Where it was deleted meanwhile, there is none in the answer.
      if (error instanceof Failure && error.status === 409)
        setTheirs({ ...blank, changed: "", ...(error.body as { instead?: Note }).instead, sae: of, direction });
      else setError((error as Error).message);
    }
  };
  const take = (note: Note) => {
    keepNote(of, direction, note);
    setMine(note);
    setTheirs(null);
  };
  const submit = (event: Event) => {
    event.preventDefault();
    void save(mine);
  };
  if (!edit)
    return kept ? (
      <div class="note-shown">
        {kept.starred && "★ "}
        <strong>{kept.label}</strong>
        {kept.text && <p>{kept.text}</p>}
      </div>
    ) : null;
  return (
    <form class="note-editor" onSubmit={submit}>
      <div class="note-line">
        <button
          type="button"
          class="star"
          aria-pressed={mine.starred}
          aria-label="Star"
          onClick={() => void save({ ...mine, starred: !mine.starred })}
        >
          {mine.starred ? "★" : "☆"}
        </button>
        <Field label="Label" wide>
          <input
            value={mine.label}
            maxLength={200}
            placeholder="What is it?"
            onFocus={() => setOpen(true)}
            onInput={(event) => setMine({ ...mine, label: event.currentTarget.value })}
          />
        </Field>
        {!open && !mine.text && (
          <button type="button" class="link" onClick={() => setOpen(true)}>
            Add a note
          </button>
        )}
      </div>
      {(open || mine.text) && (
        <>
          <Field label="Note" wide>
            <textarea rows={2} value={mine.text} onInput={(event) => setMine({ ...mine, text: event.currentTarget.value })} />
          </Field>
          <div class="note-foot">
            <button type="submit" class="pill strong" disabled={!changed}>
              Save
            </button>
            <span class="count" role="status">
              {changed ? "Not saved yet" : kept ? "Saved" : ""}
            </span>
          </div>
        </>
      )}
      {error && (
        <p class="failed" role="alert">
          {error}
        </p>
      )}
      {theirs && (
        <div class="conflict" role="alert">
          <p>This note was changed elsewhere meanwhile. Nothing is lost: which one should stay?</p>
          <div class="halves">
            {(
              [
                ["There", theirs],
                ["Yours", mine],
              ] as const
            ).map(([name, note]) => (
              <div key={name}>
                <h4>{name}</h4>
                <p>
                  {note.starred && "★ "}
                  <strong>{note.label || "no label"}</strong>
                </p>
                <p class="text">{note.text || "no text"}</p>
              </div>
            ))}
          </div>
          <button type="button" class="pill" onClick={() => take(theirs)}>
            Take theirs
          </button>{" "}
          <button type="button" class="pill strong" onClick={() => void save({ ...mine, version: theirs.version })}>
            Keep mine
          </button>
        </div>
      )}
    </form>
  );
}

function DirectionList({
  rows,
  name,
  caption,
  value,
  own,
}: {
  rows: Neighbour[];
  name: string;
  caption: string;
  value: string;
  own?: boolean;
}) {
  const positions = rows.some((row) => row.n !== null);
  return rows.length === 0 ? (
    <figure>
      <h3>{caption}</h3>
      <Quiet>None found.</Quiet>
    </figure>
  ) : (
    <Table
      rows={rows}
      name={name}
      caption={caption}
      most={10}
      columns={[
        {
          name: "direction",
          value: (row) => spelled(row.sae, row.direction),
          show: (row) => <DirectionLink sae={row.sae} direction={row.direction} plain={own === true} />,
        },
        { name: "top token", value: (row) => row.top_token, show: (row) => <Token>{row.top_token}</Token> },
        { name: value, value: (row) => row.value, numeric: true, show: (row) => signed(row.value) },
        ...(positions ? [{ name: "n", value: (row: Neighbour) => row.n, numeric: true }] : []),
      ]}
    />
  );
}

function NeighbourLists({ of, direction }: { of: number; direction: number }) {
  const loaded = useLoaded(key(of, direction), (signal) =>
    get<Neighbours>(`/api/saes/${of}/directions/${direction}/neighbours`, signal),
  );
  const name = `${saeName(of)}-${direction}`;
  return (
    <>
      <h3 class="part">Neighbours</h3>
      <Wait on={loaded} what="Looking for neighbours">
        {(data) => (
          <div class="thirds">
            <DirectionList rows={data.encoder} name={`${name}-encoder`} caption="By encoder" value="cosine" own />
            <DirectionList rows={data.decoder} name={`${name}-decoder`} caption="By decoder" value="cosine" own />
            <DirectionList rows={data.coactivation} name={`${name}-coactivation`} caption="By co-activation" value="corr." own />
          </div>
        )}
      </Wait>
    </>
  );
}

export const MEASURES = [
  ["cosine", "cosine"],
  ["weight", "weight"],
  ["attribution", "attribution"],
  ["causal", "causal"],
] as const;
export type Measure = (typeof MEASURES)[number][0];

export const loadEdges = (of: number, direction: number, way: "up" | "down", measure: Measure, signal: AbortSignal) =>
  get<Edges>(`/api/saes/${of}/directions/${direction}/edges?${query({ way, measure })}`, signal);

function EdgeLists({ of, direction }: { of: number; direction: number }) {
  const [measure, setMeasure] = useState<Measure>(info.value.index?.edges ? "causal" : "weight");
  const id = `${of}/${direction} ${measure}`;
  const up = useLoaded(id, (signal) => loadEdges(of, direction, "up", measure, signal));
  const down = useLoaded(id, (signal) => loadEdges(of, direction, "down", measure, signal));
  const name = `${saeName(of)}-${direction}-${measure}`;
  const list = (on: typeof up, way: string, caption: string) => (
    <Wait on={on} what="Looking for edges">
      {(data) => (
        <>
          <DirectionList rows={data.edges} name={`${name}-${way}`} caption={caption} value={measure} />
          {data.about && (
            <p class="note">
              {sentence(data.about)} {data.measured && <Said text={data.measured} />}
            </p>
          )}
        </>
      )}
    </Wait>
  );
  return (
    <>
      <div class="part-line">
        <h3 class="part">Edges</h3>
        <Choice label="Measure" value={measure} options={MEASURES} set={setMeasure} />
        <a href={toDirection(of, direction).replace("/?", "/circuits?")}>As a graph</a>
      </div>
      <div class="halves">
        {list(up, "upstream", "Upstream")}
        {list(down, "downstream", "Downstream")}
      </div>
    </>
  );
}
