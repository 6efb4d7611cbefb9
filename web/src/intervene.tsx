/** Changes to a prompt's run, and what they do. */
import { useEffect, useRef, useState } from "preact/hooks";
import { type Intervened, post, type PromptView, type Spelled, stream } from "./api";
import { type Change, parsed, type Where, written } from "./change";
import { Bars, DirectionLink, Field, Figure, Quiet, Select, Table, Token, TokenList, useWidth, Wait } from "./parts";
import { choose, place } from "./place";
import { positionOf, PromptForm } from "./prompt";
import { info, promptText, spelled, topToken, unspelled, useLoaded, usePaced, useTopTokens } from "./state";
import { count, number, percent, sentence, shortened, signed, tokenText } from "./text";

const set = (change: string[]) => choose({ change });

export function Intervene() {
  const { query } = place.value;
  const text = promptText.value;
  const changes = query.getAll("change");
  const prompt = useLoaded(text, (signal) => post<PromptView>("/api/prompt", { text }, signal));
  const position = positionOf(prompt.data?.texts.length ?? Infinity);
  const asked = usePaced(JSON.stringify({ text, changes, position: prompt.data ? position : undefined }), 50);
  const ready = prompt.data !== undefined && changes.length > 0;
  const done = useLoaded(ready ? asked : null, (signal) => post<Intervened>("/api/intervene", JSON.parse(asked), signal));
  return (
    <>
      <h1 class="hidden">Intervene</h1>
      <PromptForm text={text} run={(text) => choose({ text, position: null }, false)} />
      <Wait on={prompt} what="Running the prompt">
        {(data) => (
          <div class="workbench">
            <div class="changes">
              <h2>Changes</h2>
              <ChangeList
                changes={changes}
                sentences={done.data?.changes.map((one) => one.sentence) ?? []}
                length={data.texts.length}
                position={position}
              />
              <AddChange changes={changes} prompt={data} position={position} />
              {changes.length > 0 && <Copy text={text} changes={changes} position={position} />}
            </div>
            <div>
              {changes.length === 0 ? (
                <div class="empty">
                  <p>Nothing is changed yet.</p>
                  <p>Add an active direction, a component or a spelling; the run without and with the changes is shown here.</p>
                </div>
              ) : (
                <Wait on={done} what="Running with the changes">
                  {(after) => <Effect after={after} position={position} />}
                </Wait>
              )}
              {changes.length > 0 && (
                <>
                  <Controls text={text} changes={changes} position={position} />
                  <Generate text={text} changes={changes} />
                </>
              )}
            </div>
          </div>
        )}
      </Wait>
    </>
  );
}

function ChangeList({
  changes,
  sentences,
  length,
  position,
}: {
  changes: string[];
  sentences: string[];
  length: number;
  position: number;
}) {
  const tops = useTopTokens(info.value.saes.map((_, i) => i));
  const replace = (at: number, text: string) => set(changes.map((one, i) => (i === at ? text : one)));
  return (
    <ol class="change-list">
      {changes.map((text, i) => {
        const change = parsed(text);
        const remove = (
          <button
            type="button"
            class="remove"
            aria-label={`Remove ${text}`}
            onClick={() => set(changes.filter((_, j) => j !== i))}
          >
            ×
          </button>
        );
        if (!change) {
          return (
            <li key={i}>
              <div class="change-head">
                <Field label="Written" wide>
                  <input value={text} onChange={(event) => replace(i, event.currentTarget.value)} />
                </Field>
                {remove}
              </div>
            </li>
          );
        }
        const first = change.kind === "directions" ? unspelled(`${change.site}/${change.directions.split(",")[0]}`) : null;
        const all = first ? tops.data?.get(first[0]) : undefined;
        return (
          <li key={i}>
            <div class="change-head">
              <strong>
                {change.kind !== "directions" ? (
                  change.site
                ) : first && !change.directions.includes(",") ? (
                  <DirectionLink sae={first[0]} direction={first[1]} />
                ) : (
                  `${change.site}/${change.directions}`
                )}
              </strong>
              {first && all && <Token>{topToken(all, first[1])}</Token>}
              {remove}
            </div>
            <How change={change} most={first ? (all?.maximum[first[1]] ?? 0) : 0} set={(next) => replace(i, written(next))} />
            <Places
              where={change.where}
              length={length}
              position={position}
              set={(where) => replace(i, written({ ...change, where }))}
            />
            {sentences[i] && <p class="note">{sentence(sentences[i])}</p>}
          </li>
        );
      })}
    </ol>
  );
}

function How({ change, most, set }: { change: Change; most: number; set: (change: Change) => void }) {
  if (change.kind === "reconstruction") return <p class="note">replaced by its reconstruction</p>;
  if (change.kind === "component") {
    return (
      <Field label="By">
        <Select
          value={change.how}
          options={[
            ["zero", "zero"],
            ["mean", "its mean"],
          ]}
          set={(how) => set({ ...change, how })}
        />
      </Field>
    );
  }
  const { how, value } = change;
  const off = how === "scale" && value === 0;
  const end = how === "scale" ? 5 : Math.ceil(2 * most) || 10;
  const slide = (event: Event) => set({ ...change, value: +(event.currentTarget as HTMLInputElement).value });
  const modes = {
    off: { how: "scale", value: 0 },
    scale: { how: "scale", value: 2 },
    set: { how: "set", value: Number((most || 1).toPrecision(2)) },
  } as const;
  return (
    <div class="how">
      <Field label="Activation">
        <Select
          value={off ? "off" : how}
          options={[
            ["off", "off"],
            ["scale", "times"],
            ["set", "set to"],
          ]}
          set={(mode) => set({ ...change, ...modes[mode] })}
        />
      </Field>
      <input
        type="range"
        aria-label={how === "scale" ? "Factor" : "Value"}
        min={how === "scale" ? -2 : 0}
        max={end}
        step={how === "scale" ? 0.05 : end / 200}
        value={value}
        onInput={slide}
      />
      <input
        type="number"
        aria-label={how === "scale" ? "Factor, exactly" : "Value, exactly"}
        step="any"
        value={value}
        onChange={(event) => event.currentTarget.value !== "" && slide(event)}
      />
    </div>
  );
}

function Places({
  where,
  length,
  position,
  set,
}: {
  where: Where;
  length: number;
  position: number;
  set: (where: Where) => void;
}) {
  const kind = !where ? "everywhere" : where.from === where.to ? "one" : "range";
  const ends = {
    everywhere: null,
    one: { from: where?.from ?? position, to: where?.from ?? position },
    range: { from: 0, to: Math.max(1, where?.to ?? position) },
  };
  const input = (label: string, value: number, change: (value: number) => Where) => (
    <input
      type="number"
      aria-label={label}
      min="0"
      max={length - 1}
      value={value}
      onChange={(event) => event.currentTarget.value !== "" && set(change(+event.currentTarget.value))}
    />
  );
  return (
    <div class="how">
      <Field label="Positions">
        <Select
          value={kind}
          options={[
            ["everywhere", "everywhere"],
            ["one", "at"],
            ["range", "from, to"],
          ]}
          set={(kind) => set(ends[kind])}
        />
      </Field>
      {where && kind === "one" && input("Position", where.from, (at) => ({ from: at, to: at }))}
      {where && kind === "range" && (
        <>
          {input("First position", where.from, (from) => ({ from, to: where.to }))}
          {input("Last position", where.to, (to) => ({ from: where.from, to }))}
        </>
      )}
    </div>
  );
}

function AddChange({ changes, prompt, position }: { changes: string[]; prompt: PromptView; position: number }) {
  const { saes, components } = info.value;
  const [spelling, setSpelling] = useState("");
  const tops = useTopTokens(saes.map((_, i) => i));
  const add = (text: string) => text && set([...changes, text]);
  const pick = (event: Event) => {
    const select = event.currentTarget as HTMLSelectElement;
    add(select.value);
    select.value = "";
  };
  const submit = (event: Event) => {
    event.preventDefault();
    const text = spelling.trim();
    const direction = unspelled(text);
    add(direction ? `${spelled(...direction)}*0` : text);
    setSpelling("");
  };
  return (
    <div class="add">
      <Field label={`A direction active at position ${position}`}>
        <select value="" onChange={pick}>
          <option value="">Choose …</option>
          {saes.map((sae, i) => {
            const at = prompt.active[i]?.[position];
            return (
              at && (
                <optgroup key={sae.name} label={sae.name}>
                  {at.directions.map((direction, k) => {
                    const token = topToken(tops.data?.get(i), direction);
                    return (
                      <option key={direction} value={`${spelled(i, direction)}*0`}>
                        {direction}
                        {token === null ? "" : ` ${shortened(tokenText(token), 16)}`}, {number(at.values[k])}
                      </option>
                    );
                  })}
                </optgroup>
              )
            );
          })}
        </select>
      </Field>
      <Field label="A component, or an SAE's reconstruction">
        <select value="" onChange={pick}>
          <option value="">Choose …</option>
          <optgroup label="Reconstruction">
            {saes.map((sae) => (
              <option key={sae.name} value={`${sae.name}=reconstruction`}>
                {sae.name}
              </option>
            ))}
          </optgroup>
          <optgroup label="Components">
            {components.map((name) => (
              <option key={name} value={`${name}=zero`}>
                {name}
              </option>
            ))}
          </optgroup>
        </select>
      </Field>
      <form onSubmit={submit}>
        <Field label="Or written" wide>
          <input
            value={spelling}
            placeholder={`${saes.at(-1)?.name}/429*0@5..9`}
            onInput={(event) => setSpelling(event.currentTarget.value)}
          />
        </Field>
        <button type="submit" class="pill">
          Add
        </button>
      </form>
    </div>
  );
}

const change = ([before, after]: [number, number], digits = 3) => (
  <>
    {number(before, digits)} → {number(after, digits)}
  </>
);

function Effect({ after, position }: { after: Intervened; position: number }) {
  const differences = after.losses[1].map((loss, i) =>
    loss === null || after.losses[0][i] == null ? null : loss - after.losses[0][i],
  );
  const most = Math.max(0.5, ...differences.map((one) => Math.abs(one ?? 0)));
  const { answer } = after;
  return (
    <>
      <dl class="facts">
        {after.mean_loss && (
          <div>
            <dt>mean loss, nats</dt>
            <dd>{signed(after.mean_loss[1] - after.mean_loss[0])}</dd>
            <dd class="note">{change(after.mean_loss)}</dd>
          </div>
        )}
        {answer && (
          <>
            <div>
              <dt>
                log-probability of <Token>{answer.text}</Token>
              </dt>
              <dd>{signed(answer.log_prob[1] - answer.log_prob[0])}</dd>
              <dd class="note">{change(answer.log_prob)}</dd>
            </div>
            <div>
              <dt>its rank</dt>
              <dd>
                {count(answer.rank[0] + 1)} → {count(answer.rank[1] + 1)}
              </dd>
              <dd class="note">1 is the most likely</dd>
            </div>
            <div>
              <dt>its logit</dt>
              <dd>{signed(answer.logit[1] - answer.logit[0])}</dd>
              <dd class="note">{change(answer.logit)}</dd>
            </div>
          </>
        )}
      </dl>
      <div class="prompt">
        <p class="label">
          <span>
            Change of each token's loss: <i class="key above" /> more, <i class="key below" /> less. Choose a position to see what
            comes after it.
          </span>
        </p>
        <TokenList
          label="Tokens by the change of their loss"
          chosen={position}
          choose={(position) => choose({ position })}
          of={after.texts.map((text, i) => {
            const by = differences[i] ?? null;
            return by === null
              ? { text }
              : {
                  text,
                  shade: Math.abs(by) < 1e-6 ? 0 : by / most,
                  hint: `${tokenText(text)}  ${number(after.losses[0][i])} → ${number(after.losses[1][i])}`,
                };
          })}
        />
      </div>
      <div class="halves">
        <Figure
          title={`What comes after position ${after.position}`}
          name="intervention-next"
          caption={
            <>
              <i class="key before" /> before, <i class="key after" /> after
            </>
          }
        >
          <Bars
            label="Next tokens before and after"
            of={after.next.map(({ text, prob, rank }) => ({
              label: tokenText(text),
              before: prob[0],
              value: prob[1],
              shown: `${percent(prob[0], 2)} → ${percent(prob[1], 2)}`,
              title: `${tokenText(text)}: rank ${rank[0] + 1} → ${rank[1] + 1}`,
            }))}
          />
        </Figure>
        {after.directions.length > 0 ? (
          <Table
            rows={after.directions}
            name="intervention-directions"
            most={12}
            caption="Largest changes of activation"
            columns={[
              {
                name: "direction",
                value: (row) => spelled(row.sae, row.direction),
                show: (row) => <DirectionLink sae={row.sae} direction={row.direction} />,
              },
              { name: "top token", value: (row) => row.top_token, show: (row) => <Token>{row.top_token}</Token> },
              { name: "at", value: (row) => row.position, numeric: true },
              { name: "before", value: (row) => row.before, numeric: true },
              { name: "after", value: (row) => row.after, numeric: true },
            ]}
          />
        ) : (
          <div>
            <h3>Largest changes of activation</h3>
            <Quiet>No direction changes.</Quiet>
          </div>
        )}
      </div>
    </>
  );
}

function Controls({ text, changes, position }: { text: string; changes: string[]; position: number }) {
  const open = place.value.query.has("controls");
  const asked = usePaced(JSON.stringify({ text, changes, position, controls: true }), 300);
  const loaded = useLoaded(open ? asked : null, (signal) => post<Intervened>("/api/intervene", JSON.parse(asked), signal));
  return (
    <>
      <div class="part-line">
        <h2 class="part">Controls</h2>
        <button type="button" class="pill" aria-expanded={open} onClick={() => choose({ controls: open ? null : 1 })}>
          {open ? "Hide controls" : "Compare with controls"}
        </button>
      </div>
      {open && (
        <Wait on={loaded} what="Drawing controls">
          {({ controls, mean_loss, answer }) =>
            !controls?.length ? (
              <Quiet>These changes have no controls: only directions do.</Quiet>
            ) : (
              <div class="halves">
                {mean_loss && (
                  <Figure
                    title="Change of the mean loss"
                    name="controls-loss"
                    caption="Each dot is one draw; the line is what these changes do."
                  >
                    <Dots
                      value={mean_loss[1] - mean_loss[0]}
                      rows={controls.map(({ name, mean_loss: draws }) => [name, draws.map((one) => one - mean_loss[0])])}
                    />
                  </Figure>
                )}
                {answer && (
                  <Figure title="Change of the answer's log-probability" name="controls-log-prob">
                    <Dots
                      value={answer.log_prob[1] - answer.log_prob[0]}
                      rows={controls.map(({ name, log_prob }) => [name, log_prob.map((one) => one - answer.log_prob[0])])}
                    />
                  </Figure>
                )}
              </div>
            )
          }
        </Wait>
      )}
    </>
  );
}

/** Draws of each control on one line, and what they are compared with. */
function Dots({ value, rows }: { value: number; rows: [string, number[]][] }) {
  const [box, width] = useWidth();
  const all = [0, value, ...rows.flatMap(([, draws]) => draws)];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (one: number) => 12 + ((one - low) / (high - low || 1)) * Math.max(0, width - 24);
  const height = rows.length * 40 + 24;
  return (
    <div ref={box} class="drawing">
      <svg
        class="dot-rows"
        width={width}
        height={height}
        role="img"
        aria-label={`These changes ${signed(value)}; ${rows.map(([name, draws]) => `${name}: ${draws.map((one) => signed(one)).join(", ")}`).join("; ")}`}
      >
        <line class="grid" x1={x(0)} x2={x(0)} y1="0" y2={height - 20} />
        <line class="value" x1={x(value)} x2={x(value)} y1="0" y2={height - 20} />
        {rows.map(([name, draws], i) => (
          <g key={name}>
            <text class="row-name" x="2" y={i * 40 + 14}>
              {name}
            </text>
            {draws.map((one, k) => (
              <circle key={k} class="dot" cx={x(one)} cy={i * 40 + 27} r="4.5">
                <title>{signed(one)}</title>
              </circle>
            ))}
          </g>
        ))}
        <text class={`tick ${x(value) > width / 2 ? "last" : "first"}`} x={x(value)} y={height - 5}>
          {signed(value)}
        </text>
        {Math.abs(x(0) - x(value)) > 70 && (
          <text class={`tick ${x(0) > width / 2 ? "last" : "first"}`} x={x(0)} y={height - 5}>
            0
          </text>
        )}
      </svg>
    </div>
  );
}

type Written = { which: "before" | "after"; token: number; text: string } | { done: true };

function Generate({ text, changes }: { text: string; changes: string[] }) {
  const [options, setOptions] = useState({ tokens: 60, temperature: 0.8, seed: 1 });
  const [texts, setTexts] = useState<{ before: string[]; after: string[] } | null>(null);
  const [running, setRunning] = useState<AbortController | null>(null);
  const [error, setError] = useState("");
  useEffect(() => () => running?.abort(), [running]);
  const run = async (event: Event) => {
    event.preventDefault();
    const control = new AbortController();
    setRunning(control);
    setError("");
    setTexts({ before: [], after: [] });
    try {
      await stream<Written>("/api/generate", { text, changes, ...options }, control.signal, (line) => {
        if ("which" in line) setTexts((texts) => texts && { ...texts, [line.which]: [...texts[line.which], line.text] });
      });
    } catch (error) {
      if (!control.signal.aborted) setError((error as Error).message);
    }
    if (!control.signal.aborted) setRunning(null);
  };
  const field = (name: keyof typeof options, label: string, limits: { min: number; max: number; step: number }) => (
    <Field label={label}>
      <input
        type="number"
        {...limits}
        value={options[name]}
        onChange={(event) => event.currentTarget.value !== "" && setOptions({ ...options, [name]: +event.currentTarget.value })}
      />
    </Field>
  );
  return (
    <>
      <h2 class="part">Generate</h2>
      <form class="line" onSubmit={(event) => void run(event)}>
        {field("tokens", "Tokens", { min: 1, max: 200, step: 1 })}
        {field("temperature", "Temperature", { min: 0, max: 2, step: 0.05 })}
        {field("seed", "Seed", { min: 0, max: 2 ** 31, step: 1 })}
        {running ? (
          <button
            type="button"
            class="pill"
            onClick={() => {
              running.abort();
              setRunning(null);
            }}
          >
            Stop
          </button>
        ) : (
          <button type="submit" class="pill strong">
            Generate
          </button>
        )}
      </form>
      {error && (
        <p class="failed" role="alert">
          {error}
        </p>
      )}
      {texts && (
        <div class="halves" aria-busy={running !== null}>
          {(["before", "after"] as const).map((which) => (
            <div class="prompt" key={which}>
              <p class="label">{which === "before" ? "Without the changes" : "With the changes"}</p>
              <p class="tokens">
                <span class="faint">{text}</span>
                {texts[which].map((token, i) => (
                  <span
                    key={i}
                    class={`t new ${texts.before[i] !== texts.after[i] && which === "after" && i < texts.before.length ? "different" : ""}`}
                  >
                    {token}
                  </span>
                ))}
              </p>
            </div>
          ))}
        </div>
      )}
    </>
  );
}

const FORMS = [
  ["command", "Command line"],
  ["study", "Study"],
  ["python", "Python"],
  ["curl", "curl"],
] as const;

function Copy(request: { text: string; changes: string[]; position: number }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [open, setOpen] = useState(false);
  const [form, setForm] = useState<(typeof FORMS)[number][0]>("command");
  const [copied, setCopied] = useState(false);
  const asked = JSON.stringify(request);
  const loaded = useLoaded(open ? asked : null, (signal) => post<Spelled>("/api/spell", request, signal));
  const show = () => {
    setOpen(true);
    dialog.current!.showModal();
  };
  const turn = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const at = (FORMS.findIndex(([one]) => one === form) + by + FORMS.length) % FORMS.length;
    setForm(FORMS[at]![0]);
    (event.currentTarget as HTMLElement).querySelectorAll<HTMLElement>("[role=tab]")[at]!.focus();
  };
  const copy = async (text: string) => {
    // Browsers have no clipboard for pages that came over a plain connection from another machine.
    if (!isSecureContext) return getSelection()?.selectAllChildren(dialog.current!.querySelector("pre")!);
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <>
      <button type="button" class="pill" onClick={show}>
        Copy as …
      </button>
      <dialog ref={dialog} class="copy" aria-label="Copy as" onClose={() => setOpen(false)}>
        <div class="dialog-head">
          <div role="tablist" aria-label="Form" class="choice" onKeyDown={turn}>
            {FORMS.map(([one, name]) => (
              <button
                key={one}
                type="button"
                role="tab"
                id={`tab-${one}`}
                aria-selected={one === form}
                aria-controls="copied-text"
                tabIndex={one === form ? 0 : -1}
                onClick={() => setForm(one)}
              >
                {name}
              </button>
            ))}
          </div>
          <button type="button" class="remove" aria-label="Close" onClick={() => dialog.current!.close()}>
            ×
          </button>
        </div>
        <div id="copied-text" role="tabpanel" aria-labelledby={`tab-${form}`}>
          <Wait on={loaded} what="Writing it down">
            {(texts) => (
              <>
                <pre tabIndex={0}>{texts[form]}</pre>
                <button type="button" class="pill strong" onClick={() => void copy(texts[form])}>
                  {copied ? "Copied" : "Copy"}
                </button>
              </>
            )}
          </Wait>
        </div>
      </dialog>
    </>
  );
}
