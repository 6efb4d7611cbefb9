/** What the server is asked and what it answers. */

interface SaeInfo {
  name: string;
  reads: string;
  writes: string;
  layer: number;
  directions: number;
  d_in: number;
  d_out: number;
  architecture: string;
  l0: number | null;
  dead: number | null;
  logits: boolean;
}
export interface Info {
  version: string;
  model: { name: string; layers: number; heads: number; d_model: number; d_vocab: number; n_ctx: number; bos: string | null };
  saes: SaeInfo[];
  index: null | { corpus: string; prompts: number; positions: number; counted: number; left_out: string; edges: boolean };
  components: string[];
  edit: boolean;
  example: string;
}
export interface Directions {
  maximum: number[];
  density: number[];
  mean: number[];
  prompts: number[];
  top_token: (number | null)[];
  share: number[];
  tokens: string[];
  effect: (number | null)[];
}
export interface Example {
  kind: 0 | 1 | 2 | 3;
  prompt: number;
  position: number;
  activation: number;
  start: number;
  length: number;
  texts: string[];
  values: number[];
}
interface TokenValue {
  id: number;
  text: string;
  value: number;
}
export interface Panel {
  sae: number;
  direction: number;
  maximum: number;
  density: number;
  mean: number;
  active: number;
  prompts: number;
  at_first: number;
  histogram: number[];
  tokens: { id: number; text: string; count: number; share: number }[];
  raised: TokenValue[];
  lowered: TokenValue[];
  examples: Example[];
  density_rank: number;
}
export interface Neighbour {
  sae: number;
  direction: number;
  value: number;
  n: number | null;
  top_token: string | null;
}
export interface Neighbours {
  encoder: Neighbour[];
  decoder: Neighbour[];
  coactivation: Neighbour[];
}
export interface Edges {
  about: string;
  /** How to have them kept, where they were measured for this answer. */
  measured?: string;
  edges: Neighbour[];
}
interface Part {
  label: string;
  value: number;
}
export interface DirectionAttribution {
  about: string;
  activation: number;
  components: Part[];
}
export interface Check {
  sentence: string;
  verified: boolean;
  n: number;
  effect: number;
  low: number;
  high: number;
  p: number;
  controls: { name: string; effect: number; low: number; high: number }[];
}
export interface PromptView {
  text: string;
  ids: number[];
  texts: string[];
  losses: (number | null)[];
  active: { directions: number[]; values: number[]; total: number }[][];
  next: { ids: number[]; texts: string[]; probs: number[] }[];
}
export interface MeanAttention {
  prompts: number;
  to_first: number;
  to_self: number;
  to_previous: number;
  figure: PlotlyFigure;
}
export interface PlotlyFigure {
  data: unknown[];
  layout: { height: number; width?: number };
  config: unknown;
}
export interface Attribution {
  token: string;
  logit: number;
  about: string;
  components: Part[];
  directions: { sae: number; direction: number; activation: number; value: number }[];
}
type Pair = [number, number];
export interface Intervened {
  changes: { text: string; sentence: string }[];
  texts: string[];
  /** `null` for a text of one token. */
  mean_loss: Pair | null;
  losses: [(number | null)[], (number | null)[]];
  position: number;
  answer: { text: string; log_prob: Pair; rank: Pair; logit: Pair } | null;
  next: { id: number; text: string; prob: Pair; rank: Pair }[];
  directions: { sae: number; direction: number; top_token: string | null; before: number; after: number; position: number }[];
  controls: null | { name: string; mean_loss: number[]; log_prob: number[] }[];
  took_ms: number;
}
export interface Spelled {
  command: string;
  study: string;
  python: string;
  curl: string;
}
export interface SearchExample {
  prompt: number;
  position: number;
  start: number;
  length: number;
  texts: string[];
  values: number[];
}
export interface DirectionsFound {
  matches: number;
  prompts: number;
  took_ms: number;
  directions: {
    sae: number;
    direction: number;
    top_token: string | null;
    fires: number;
    share: number;
    mean: number;
    density: number;
    lift: number;
  }[];
  examples: SearchExample[];
}
export interface PositionsFound {
  matches: number;
  prompts: number;
  took_ms: number;
  examples: SearchExample[];
}
/** Title, facts, link, x, y, kind. */
export type GraphNode = [string, [string, string][], string | null, number, number, string];
export interface PromptGraph {
  title: string;
  caption: string;
  drawing: string;
  data: { nodes: GraphNode[]; edges: [number, number, number][]; most: number; height: number };
  /** As circuit-tracer reads it. */
  json: unknown;
  notes: string[];
}
export interface Study {
  name: string;
  title: string;
  report: string;
  tables: string[];
  figures: string[];
}
export interface Note {
  sae: number;
  direction: number;
  label: string;
  text: string;
  starred: boolean;
  version: number;
  changed: string;
}

/** The server's answer where it is not the one hoped for. */
export class Failure extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly body: unknown,
  ) {
    super(message);
  }
}

export async function ask(path: string, options: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Failure("The server does not answer. Is directrix serve still running?", 0, null);
  }
  if (response.ok) return response;
  const text = await response.text();
  let body: unknown = null;
  try {
    body = JSON.parse(text);
  } catch {
    // Then the text itself is the message.
  }
  const said = (body as { error?: unknown } | null)?.error;
  throw new Failure(typeof said === "string" ? said : text || `${response.status} ${response.statusText}`, response.status, body);
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await ask(path, { signal: signal ?? null })).json()) as T;
}

function json(method: string, body: unknown, signal?: AbortSignal): RequestInit {
  return { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal: signal ?? null };
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  return (await (await ask(path, json("POST", body, signal))).json()) as T;
}

export async function put<T>(path: string, body: unknown): Promise<T> {
  return (await (await ask(path, json("PUT", body))).json()) as T;
}

/** Posts, and hands on the lines of the answer as they come. */
export async function stream<T>(path: string, body: unknown, signal: AbortSignal, line: (value: T) => void) {
  const response = await ask(path, json("POST", body, signal));
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop()!;
    for (const text of lines) {
      if (!text) continue;
      const said = JSON.parse(text) as T & { error?: unknown };
      if (typeof said.error === "string") throw new Failure(said.error, 200, said);
      line(said);
    }
    if (done) return;
  }
}

export const query = (values: Record<string, string | number>) =>
  new URLSearchParams(Object.entries(values).map(([name, value]) => [name, String(value)])).toString();
