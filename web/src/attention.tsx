/** What a head looks at. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { get, type MeanAttention, type PlotlyFigure, post, query } from "./api";
import { Choice, Facts, Field, Figure, Select, type Shaded, TokenList, useWidth, Wait } from "./parts";
import { choose, place } from "./place";
import { info, useLoaded } from "./state";
import { many, percent, shortened, tokenText } from "./text";
import { isDark } from "./theme";

interface Plotly {
  react: (box: HTMLElement, data: unknown, layout: unknown, config: unknown) => Promise<unknown>;
  purge: (box: HTMLElement) => void;
  downloadImage: (
    box: HTMLElement,
    options: { format: "svg" | "png"; filename: string; width: number; height: number },
  ) => Promise<unknown>;
}
declare global {
  interface Window {
    Plotly?: Plotly;
    Look: {
      palettes: Record<"light" | "dark", { sequential: string[] }>;
      themed: (figure: PlotlyFigure, room: number, isDark: boolean) => { data: unknown; layout: unknown; config: unknown };
    };
  }
}

const choices = (most: number, name: string) => Array.from({ length: most }, (_, i) => [i, `${name} ${i}`] as const);

export function AttentionPart({
  text,
  texts,
  position,
  go,
}: {
  text: string;
  texts: string[];
  position: number;
  go: (position: number) => void;
}) {
  const { layers, heads } = info.value.model;
  const { query } = place.value;
  const [layer, head] = [
    Math.min(+(query.get("layer") ?? 0) || 0, layers - 1),
    Math.min(+(query.get("head") ?? 0) || 0, heads - 1),
  ];
  const over = query.get("over") === "corpus" && info.value.index ? "corpus" : "prompt";
  return (
    <>
      <div class="part-line">
        <h2 class="part">Attention</h2>
        <Field label="Layer">
          <Select value={layer} options={choices(layers, "layer")} set={(layer) => choose({ layer })} />
        </Field>
        <Field label="Head">
          <Select value={head} options={choices(heads, "head")} set={(head) => choose({ head })} />
        </Field>
        {info.value.index && (
          <Choice
            label="Of what"
            value={over}
            options={[
              ["prompt", "this prompt"],
              ["corpus", "mean over prompts"],
            ]}
            set={(over) => choose({ over: over === "prompt" ? null : over })}
          />
        )}
      </div>
      {over === "prompt" ? (
        <Pattern text={text} texts={texts} layer={layer} head={head} position={position} go={go} />
      ) : (
        <Mean layer={layer} head={head} />
      )}
    </>
  );
}

function Pattern({
  text,
  texts,
  layer,
  head,
  position,
  go,
}: {
  text: string;
  texts: string[];
  layer: number;
  head: number;
  position: number;
  go: (position: number) => void;
}) {
  const loaded = useLoaded(`${text}\n${layer}\n${head}`, (signal) =>
    post<{ pattern: number[][] }>("/api/attention", { text, layer, head }, signal),
  );
  const [pointed, setPointed] = useState<number | null>(null);
  const looking = Math.min(pointed ?? position, texts.length - 1);
  return (
    <Wait on={loaded} what="Running the head">
      {({ pattern }) => {
        const row = pattern[looking] ?? [];
        const shaded: Shaded[] = texts.map((token, i) => {
          const part = row[i] ?? 0;
          return {
            text: token,
            shade: part < 0.005 ? 0 : Math.sqrt(part),
            hint: `${tokenText(token)}  ${percent(part)}`,
            class: i > looking ? "later" : i === looking ? "looking" : "",
          };
        });
        return (
          <div class="halves">
            <div class="prompt">
              <p class="label">
                <span>
                  What L{layer}H{head} looks at from {looking} (<code>{tokenText(texts[looking]!)}</code>). Point at another
                  token, or choose it.
                </span>
              </p>
              <TokenList of={shaded} chosen={position} choose={go} point={setPointed} label={`Attention of L${layer}H${head}`} />
            </div>
            <Figure
              title={`L${layer}H${head}`}
              name={`attention-L${layer}H${head}`}
              caption="Each row looks at the columns to its left; the stronger the colour, the more of its attention."
            >
              <HeatMap pattern={pattern} texts={texts} row={looking} />
            </Figure>
          </div>
        );
      }}
    </Wait>
  );
}

const channels = (colour: string) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

/** A colour of a scale of evenly spaced ones. */
function mixed(scale: string[], part: number) {
  const at = Math.max(0, Math.min(1, part)) * (scale.length - 1);
  const from = Math.min(Math.floor(at), scale.length - 2);
  const [a, b] = [channels(scale[from]!), channels(scale[from + 1]!)];
  return a.map((channel, i) => Math.round(channel + (b[i]! - channel) * (at - from)));
}

function HeatMap({ pattern, texts, row }: { pattern: number[][]; texts: string[]; row: number }) {
  const [box, width] = useWidth();
  const [image, setImage] = useState("");
  const [cell, setCell] = useState<[number, number] | null>(null);
  const dark = isDark.value;
  const size = pattern.length;
  useEffect(() => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d")!;
    const pixels = context.createImageData(size, size);
    const scale = window.Look.palettes[dark ? "dark" : "light"].sequential;
    pattern.forEach((values, y) =>
      values.forEach((value, x) => {
        if (x <= y) pixels.data.set([...mixed(scale, Math.sqrt(value)), 255], 4 * (y * size + x));
      }),
    );
    context.putImageData(pixels, 0, 0);
    setImage(canvas.toDataURL());
  }, [pattern, dark]);
  // Few tokens leave room for their names.
  const named = size <= 32;
  const gutter = named ? 76 : 0;
  const side = Math.max(0, Math.min(width - gutter, 460));
  const unit = side / size;
  const point = (event: PointerEvent) => {
    const at = (event.currentTarget as Element).getBoundingClientRect();
    const [x, y] = [Math.floor((event.clientX - at.left - gutter) / unit), Math.floor((event.clientY - at.top) / unit)];
    setCell(x >= 0 && x <= y && y < size ? [x, y] : null);
  };
  return (
    <div ref={box} class="drawing">
      <svg
        class="heat"
        width={side + gutter}
        height={side + gutter}
        role="img"
        aria-label="Attention of every position to every other"
        onPointerMove={point}
        onPointerLeave={() => setCell(null)}
      >
        {image && <image href={image} x={gutter} width={side} height={side} preserveAspectRatio="none" />}
        <rect class="frame" x={gutter + 0.5} y="0.5" width={Math.max(0, side - 1)} height={Math.max(0, side - 1)} />
        <rect class="row" x={gutter} y={row * unit} width={(row + 1) * unit} height={unit} />
        {named &&
          texts.map((token, i) => {
            const name = shortened(tokenText(token), 10);
            const middle = (i + 0.5) * unit;
            return (
              <g key={i}>
                <text class="name" x={gutter - 4} y={middle + 4}>
                  {name}
                </text>
                <text class="name" transform={`translate(${gutter + middle + 4} ${side + 5}) rotate(-90)`}>
                  {name}
                </text>
              </g>
            );
          })}
      </svg>
      <p class="note reading">
        {cell ? (
          <>
            from {cell[1]} <code>{tokenText(texts[cell[1]]!)}</code> to {cell[0]} <code>{tokenText(texts[cell[0]]!)}</code>:{" "}
            {percent(pattern[cell[1]]?.[cell[0]] ?? 0)}
          </>
        ) : (
          "Point at a cell."
        )}
      </p>
    </div>
  );
}

let plotly: Promise<Plotly> | undefined;

function loadPlotly() {
  plotly ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = "/plotly.js";
    script.onload = () => done(window.Plotly!);
    script.onerror = () => failed(new Error("The figure cannot be drawn: /plotly.js was not loaded."));
    document.head.append(script);
  });
  return plotly;
}

function Plot({ figure, name }: { figure: PlotlyFigure; name: string }) {
  const box = useRef<HTMLDivElement>(null);
  const [error, setError] = useState("");
  const dark = isDark.value;
  useLayoutEffect(() => {
    const div = box.current!;
    loadPlotly().then(
      (plotly) => {
        const { data, layout, config } = window.Look.themed(figure, div.clientWidth, dark);
        void plotly.react(div, data, layout, config);
      },
      (error: Error) => setError(error.message),
    );
  }, [figure, dark]);
  useLayoutEffect(() => {
    const div = box.current!;
    return () => window.Plotly?.purge(div);
  }, []);
  const save = (format: "svg" | "png") => () => {
    const { clientWidth: width, clientHeight: height } = box.current!;
    void loadPlotly().then((plotly) => plotly.downloadImage(box.current!, { format, filename: name, width, height }));
  };
  return (
    <figure>
      <div class="figure-head">
        <h3>How far back it looks</h3>
        <span class="files">
          <button type="button" class="link" aria-label={`Save ${name} as SVG`} onClick={save("svg")}>
            SVG
          </button>
          <button type="button" class="link" aria-label={`Save ${name} as PNG`} onClick={save("png")}>
            PNG
          </button>
        </span>
      </div>
      {error && (
        <p class="failed" role="alert">
          {error}
        </p>
      )}
      <div class="plot-box" tabIndex={0} role="region" aria-label="Mean attention by distance">
        <div
          class="plot drawn"
          ref={box}
          style={{ width: figure.layout.width ? `${figure.layout.width}px` : undefined, height: `${figure.layout.height}px` }}
        />
      </div>
    </figure>
  );
}

function Mean({ layer, head }: { layer: number; head: number }) {
  const loaded = useLoaded(`${layer} ${head}`, (signal) =>
    get<MeanAttention>(`/api/attention/mean?${query({ layer, head })}`, signal),
  );
  return (
    <Wait on={loaded} what="Averaging over prompts">
      {(data) => (
        <>
          <Facts
            of={[
              ["over", many(data.prompts, "prompt")],
              ["to the first token", percent(data.to_first)],
              ["to itself", percent(data.to_self)],
              ["to the one before", percent(data.to_previous)],
            ]}
          />
          <Plot figure={data.figure} name={`attention-mean-L${layer}H${head}`} />
        </>
      )}
    </Wait>
  );
}
