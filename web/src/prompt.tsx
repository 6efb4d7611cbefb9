/** A prompt: what the model makes of it at each position. */
import { useEffect, useState } from "preact/hooks";
import { AttentionPart } from "./attention";
import { type Attribution, post, type PromptView } from "./api";
import { Bars, DirectionField, Facts, Field, Figure, Select, type Shaded, Table, Token, TokenList, Wait } from "./parts";
import { choose, place } from "./place";
import {
  info,
  promptText,
  saeName,
  spelled,
  toDirection,
  toIntervene,
  topToken,
  unspelled,
  useLoaded,
  useTopTokens,
} from "./state";
import { number, percent, shortened, signed, tokenText } from "./text";

/** Where a text is written; it is run when asked for. */
export function PromptForm({ text, run }: { text: string; run: (text: string) => void }) {
  const [written, setWritten] = useState(text);
  useEffect(() => setWritten(text), [text]);
  const submit = (event: Event) => {
    event.preventDefault();
    run(written);
  };
  return (
    <form class="prompt-form" onSubmit={submit}>
      <Field label="Prompt" wide>
        <textarea
          rows={3}
          spellcheck={false}
          value={written}
          onInput={(event) => setWritten(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
          }}
        />
      </Field>
      <button type="submit" class="pill strong" title="Ctrl + Enter">
        Run
      </button>
    </form>
  );
}

/** The position in the address; the one that predicts the last token where there is none. */
export function positionOf(length: number) {
  const asked = place.value.query.get("position");
  return asked !== null && /^\d+$/.test(asked) && +asked < length ? +asked : Math.max(0, length - 2);
}

export function PromptPage() {
  const { query } = place.value;
  const asked = query.get("prompt");
  const fromCorpus = query.has("text") || asked === null ? null : +asked;
  const text = promptText.value;
  const loaded = useLoaded(fromCorpus === null ? text : `${fromCorpus}`, (signal) =>
    post<PromptView>("/api/prompt", fromCorpus === null ? { text } : { prompt: fromCorpus }, signal),
  );
  return (
    <>
      <h1 class="hidden">Prompt</h1>
      <PromptForm
        text={fromCorpus === null ? text : (loaded.data?.text ?? "")}
        run={(text) => choose({ text, prompt: null, position: null }, false)}
      />
      <Wait on={loaded} what="Running the prompt">
        {(data) => <Ran data={data} />}
      </Wait>
    </>
  );
}

function shadedBy(data: PromptView, colour: [number, number] | null): Shaded[] {
  if (!colour) {
    const most = Math.max(...data.losses.map((loss) => loss ?? 0), 1);
    return data.texts.map((text, i) => {
      const loss = data.losses[i] ?? null;
      return loss === null ? { text } : { text, shade: loss / most, hint: `${tokenText(text)}  loss ${number(loss)}` };
    });
  }
  const values = (data.active[colour[0]] ?? []).map(({ directions, values }) => values[directions.indexOf(colour[1])] ?? 0);
  const most = Math.max(...values, 1e-9);
  return data.texts.map((text, i) => {
    const value = values[i] ?? 0;
    return value > 0 ? { text, shade: value / most, hint: `${tokenText(text)}  ${number(value)}` } : { text };
  });
}

function Ran({ data }: { data: PromptView }) {
  const written = place.value.query.get("colour") ?? "";
  const colour = written === "" ? null : unspelled(written);
  const position = positionOf(data.texts.length);
  const go = (position: number) => choose({ position });
  const fires = colour && (data.active[colour[0]] ?? []).some(({ directions }) => directions.includes(colour[1]));
  return (
    <>
      <div class="prompt">
        <div class="label controls">
          <span>
            {data.texts.length} tokens, shaded by {colour ? `the activation of ${spelled(...colour)}` : "their loss"}
          </span>
          <DirectionField label="Shade by a direction" value={written} set={(colour) => choose({ colour })} />
        </div>
        <TokenList of={shadedBy(data, colour)} chosen={position} choose={go} label="Tokens of the prompt" />
        {written !== "" && !fires && (
          <p class="none">
            {colour
              ? `${spelled(...colour)} does not fire in this prompt, or is not among the 50 strongest.`
              : `No direction is spelled ${written}.`}
          </p>
        )}
      </div>
      <At data={data} position={position} />
      <AttentionPart text={data.text} texts={data.texts} position={position} go={go} />
    </>
  );
}

function At({ data, position }: { data: PromptView; position: number }) {
  const { saes } = info.value;
  const next = data.next[position];
  const loss = data.losses[position] ?? null;
  const following = data.losses[position + 1];
  const facts: [string, preact.ComponentChildren][] = [
    ["token", <Token>{data.texts[position]!}</Token>],
    ["id", data.ids[position]!],
    ["its loss", loss === null ? "–" : `${number(loss)} nats`],
  ];
  if (position + 1 < data.texts.length) {
    facts.push(["followed by", <Token>{data.texts[position + 1]!}</Token>]);
    if (following != null) facts.push(["its probability", percent(Math.exp(-following))]);
  }
  const tops = useTopTokens(saes.map((_, i) => i));
  return (
    <>
      <h2 class="part">Position {position}</h2>
      <Facts of={facts} />
      <div class="columns">
        {next && (
          <Figure title="What comes next" name={`next-${position}`}>
            <Bars
              of={next.texts.map((text, i) => ({
                label: tokenText(text),
                value: next.probs[i]!,
                shown: percent(next.probs[i]!, 2),
              }))}
              label="Next tokens"
            />
          </Figure>
        )}
        {saes.map((sae, i) => {
          const at = data.active[i]?.[position];
          const rows = at ? at.directions.map((direction, k) => ({ direction, value: at.values[k]! })) : [];
          return (
            <div key={sae.name}>
              <Table
                rows={rows}
                name={`active-${sae.name}-${position}`}
                most={10}
                caption={
                  <>
                    {sae.name} <span class="faint">{at?.total ?? 0} active</span>
                  </>
                }
                columns={[
                  {
                    name: "direction",
                    value: (row) => row.direction,
                    show: (row) => <a href={toDirection(i, row.direction)}>{row.direction}</a>,
                  },
                  {
                    name: "top token",
                    value: (row) => topToken(tops.data?.get(i), row.direction),
                    show: (row) => <Token>{topToken(tops.data?.get(i), row.direction)}</Token>,
                  },
                  { name: "activation", value: (row) => row.value, numeric: true },
                  {
                    name: "change",
                    value: (row) => `${spelled(i, row.direction)}*0`,
                    show: (row) => (
                      <a
                        aria-label={`Ablate ${spelled(i, row.direction)}`}
                        href={toIntervene(`${spelled(i, row.direction)}*0`, { text: data.text, position })}
                      >
                        off
                      </a>
                    ),
                  },
                ]}
              />
            </div>
          );
        })}
      </div>
      <LogitAttribution key={data.text} data={data} position={position} />
    </>
  );
}

function LogitAttribution({ data, position }: { data: PromptView; position: number }) {
  const token = place.value.query.get("token") ?? "";
  const loaded = useLoaded(`${data.text}\n${position}\n${token}`, (signal) =>
    post<Attribution>("/api/attribution", { text: data.text, position, ...(token !== "" && { token }) }, signal),
  );
  const candidates = data.next[position]?.texts ?? [];
  const [all, setAll] = useState(false);
  return (
    <>
      <div class="part-line">
        <h2 class="part">Who writes the logit</h2>
        <Field label="Of the token">
          <Select
            value={token}
            options={[
              ["", "that follows"],
              ...[...new Set([...candidates, ...(token ? [token] : [])])].map(
                (one) => [one, shortened(tokenText(one), 24)] as const,
              ),
            ]}
            set={(token) => choose({ token })}
          />
        </Field>
      </div>
      <Wait on={loaded} what="Attributing">
        {(found) => (
          <>
            <p class="note">
              Logit of <Token>{found.token}</Token>: {number(found.logit)}. {found.about}
            </p>
            <div class="halves">
              <Figure title="By component" name={`attribution-components-${position}`}>
                <Bars
                  of={found.components.map(({ label, value }) => ({ label, value, shown: signed(value) }))}
                  label="Logit attribution of components"
                />
              </Figure>
              <Figure title="By direction" name={`attribution-directions-${position}`}>
                <Bars
                  label="Logit attribution of directions"
                  of={found.directions.slice(0, all ? undefined : 20).map(({ sae, direction, activation, value }) => ({
                    label: `${saeName(sae)}/${direction}`,
                    value,
                    shown: signed(value),
                    href: toDirection(sae, direction),
                    title: `${spelled(sae, direction)}: activation ${number(activation)}, ${signed(value)}`,
                  }))}
                />
                {found.directions.length > 20 && (
                  <button type="button" class="pill" onClick={() => setAll(!all)}>
                    {all ? "Show 20" : `Show all ${found.directions.length}`}
                  </button>
                )}
              </Figure>
            </div>
          </>
        )}
      </Wait>
    </>
  );
}
