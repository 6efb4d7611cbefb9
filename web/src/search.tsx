/** From a text to directions, and from directions to texts. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { type DirectionsFound, get, type PositionsFound, query as written, type SearchExample } from "./api";
import { Choice, DirectionLink, Field, NoIndex, Select, Table, Token, Tokens, Wait } from "./parts";
import { address, choose, place } from "./place";
import { info, spelled, useLoaded } from "./state";
import { count, many, number, percent, tokenText } from "./text";

const KINDS = [
  ["text", "text"],
  ["token", "token"],
  ["ngram", "n-gram"],
  ["regex", "regular expression"],
] as const;

export function Search() {
  const by = place.value.query.get("by") === "query" ? "query" : "text";
  return (
    <>
      <div class="part-line first">
        <h1>Search</h1>
        <Choice
          label="Search for"
          value={by}
          options={[
            ["text", "by text"],
            ["query", "by directions"],
          ]}
          set={(by) => choose({ by: by === "text" ? null : by }, false)}
        />
      </div>
      {!info.value.index ? <NoIndex /> : by === "text" ? <ByText /> : <ByQuery />}
    </>
  );
}

/** One line to write in, and examples of what can be written. */
function Asked({
  label,
  name,
  extra,
  examples,
}: {
  label: string;
  name: string;
  extra?: ComponentChildren;
  examples: [Record<string, string>, string][];
}) {
  const value = place.value.query.get(name) ?? "";
  const submit = (event: Event) => {
    event.preventDefault();
    const input = (event.currentTarget as HTMLFormElement).elements.namedItem("asked") as HTMLInputElement;
    choose({ [name]: input.value }, false);
  };
  return (
    <form class="asked" onSubmit={submit}>
      <div class="line">
        {extra}
        <Field label={label} wide>
          <input key={value} name="asked" type="search" defaultValue={value} spellcheck={false} autocomplete="off" />
        </Field>
        <button type="submit" class="pill strong">
          Search
        </button>
      </div>
      <p class="try">
        <span>Try</span>
        {examples.map(([values, about]) => (
          <button
            key={values[name]}
            type="button"
            class="example"
            title={about}
            onClick={() => choose({ kind: null, ...values }, false)}
          >
            <code>{tokenText(values[name]!)}</code> <span>{about}</span>
          </button>
        ))}
      </p>
    </form>
  );
}

function ByText() {
  const { query } = place.value;
  const find = query.get("find") ?? "";
  const kind = KINDS.find(([one]) => one === query.get("kind"))?.[0] ?? "text";
  const found = useLoaded(find ? `${kind} ${find}` : null, (signal) =>
    get<DirectionsFound>(`/api/search/directions?${written({ find, kind })}`, signal),
  );
  return (
    <>
      <Asked
        label="Text"
        name="find"
        extra={
          <Field label="As">
            <Select value={kind} options={KINDS} set={(kind) => choose({ kind: kind === "text" ? null : kind })} />
          </Field>
        }
        examples={[
          [{ find: 'said, "' }, "these characters"],
          [{ find: " it", kind: "token" }, "one token"],
          [{ find: " a big dog", kind: "ngram" }, "tokens in a row"],
          [{ find: "(cat|dog)s?\\b", kind: "regex" }, "a pattern"],
        ]}
      />
      <Wait on={found} what="Searching">
        {(data) => (
          <>
            <p class="count" role="status">
              {many(data.matches, "match").replace("matchs", "matches")} in {many(data.prompts, "prompt")}, {number(data.took_ms)}{" "}
              ms
            </p>
            {data.matches === 0 ? (
              <div class="empty">
                <p>The corpus does not hold it.</p>
              </div>
            ) : (
              <>
                <Table
                  rows={data.directions}
                  name="directions-found"
                  most={15}
                  caption="Directions that fire there"
                  columns={[
                    {
                      name: "direction",
                      value: (row) => spelled(row.sae, row.direction),
                      show: (row) => <DirectionLink sae={row.sae} direction={row.direction} />,
                    },
                    { name: "top token", value: (row) => row.top_token, show: (row) => <Token>{row.top_token}</Token> },
                    { name: "fires at", value: (row) => row.fires, numeric: true, show: (row) => count(row.fires) },
                    { name: "share", value: (row) => row.share, numeric: true, show: (row) => percent(row.share) },
                    { name: "mean", value: (row) => row.mean, numeric: true },
                    { name: "density", value: (row) => row.density, numeric: true, show: (row) => percent(row.density) },
                    { name: "lift", value: (row) => row.lift, numeric: true, show: (row) => `${number(row.lift)}×` },
                  ]}
                />
                <p class="note">Share: of the matches. Lift: how much more often it fires there than anywhere.</p>
                <Found examples={data.examples} />
              </>
            )}
          </>
        )}
      </Wait>
    </>
  );
}

function ByQuery() {
  const asked = place.value.query.get("query") ?? "";
  const found = useLoaded(asked || null, (signal) =>
    get<PositionsFound>(`/api/search/positions?${written({ query: asked })}`, signal),
  );
  const [first, last] = [info.value.saes[0]!.name, info.value.saes.at(-1)!.name];
  return (
    <>
      <Asked
        label="Query"
        name="query"
        examples={[
          [{ query: `${last}/429` }, "where it fires"],
          [{ query: `${last}/429 & !${first}/17` }, "and another does not"],
          [{ query: `${last}/429 | ${first}/17` }, "or another"],
          [{ query: `${first}/17 within 5 of ${last}/429` }, "near another"],
        ]}
      />
      <Wait on={found} what="Searching">
        {(data) => (
          <>
            <p class="count" role="status">
              {many(data.matches, "position")} in {many(data.prompts, "prompt")}, {number(data.took_ms)} ms
            </p>
            {data.matches === 0 ? (
              <div class="empty">
                <p>There is no such position in the corpus.</p>
              </div>
            ) : (
              <Found examples={data.examples} />
            )}
          </>
        )}
      </Wait>
    </>
  );
}

function Found({ examples }: { examples: SearchExample[] }) {
  const [all, setAll] = useState(false);
  return (
    <>
      <h2 class="part">Examples</h2>
      {(all ? examples : examples.slice(0, 10)).map(({ prompt, position, start, length, texts, values }, i) => {
        const most = Math.max(...values, 1e-9);
        return (
          <div class="prompt" key={i}>
            <p class="label">
              <span>
                position {position} of prompt {prompt}
              </span>
              <span class="files">
                <a href={address("/prompt", { prompt, position })}>Open</a>
              </span>
            </p>
            <Tokens
              label={`Prompt ${prompt}`}
              of={[
                ...(start > 0 ? [{ text: "… ", class: "faint" }] : []),
                ...texts.map((text, i) => {
                  const value = values[i] ?? 0;
                  return {
                    text,
                    shade: value / most,
                    ...(value > 0 && { hint: `${tokenText(text)}  ${number(value)}` }),
                    class: start + i === position ? "marked" : "",
                  };
                }),
                ...(start + texts.length < length ? [{ text: " …", class: "faint" }] : []),
              ]}
            />
          </div>
        );
      })}
      {examples.length > 10 && (
        <button type="button" class="pill" onClick={() => setAll(!all)}>
          {all ? "Show 10" : `Show all ${examples.length}`}
        </button>
      )}
    </>
  );
}
