/** The frame around every view. */
import type { FunctionComponent } from "preact";
import { useEffect } from "preact/hooks";
import { type Info, get } from "./api";
import { Circuits } from "./circuits";
import { DirectionsView } from "./directions";
import { Intervene } from "./intervene";
import { NotesView } from "./notes";
import { Hint, Select, Wait } from "./parts";
import { choose, follow, go, leftAt, place, type Values } from "./place";
import { PromptPage } from "./prompt";
import { Reference } from "./reference";
import { Search } from "./search";
import { info, loadNotes, sae, unspelled, useLoaded } from "./state";
import { Studies } from "./studies";
import { isDark, toggleTheme } from "./theme";

interface View {
  path: string;
  name: string;
  view: FunctionComponent;
  /** What it has in common with other views. */
  shares: string[];
}

const VIEWS: View[] = [
  { path: "/", name: "Directions", view: DirectionsView, shares: ["sae"] },
  { path: "/prompt", name: "Prompt", view: PromptPage, shares: ["sae", "text", "position"] },
  { path: "/intervene", name: "Intervene", view: Intervene, shares: ["sae", "text", "position"] },
  { path: "/search", name: "Search", view: Search, shares: ["sae"] },
  { path: "/circuits", name: "Circuits", view: Circuits, shares: ["sae", "text"] },
  { path: "/studies", name: "Studies", view: Studies, shares: ["sae"] },
  { path: "/notes", name: "Notes", view: NotesView, shares: ["sae"] },
  { path: "/api-reference", name: "API", view: Reference, shares: ["sae"] },
];

const PATHS = VIEWS.map((view) => view.path);

async function open(signal: AbortSignal) {
  info.value = await get<Info>("/api/info", signal);
  await loadNotes();
  return info.value;
}

export function App() {
  const opened = useLoaded("info", open);
  const { path, query } = place.value;
  const view = VIEWS.find((one) => one.path === path);
  useEffect(() => {
    document.querySelector(".views [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
    document.title = view && path !== "/" ? `${view.name} · Directrix` : "Directrix";
  }, [path]);
  useEffect(() => {
    const click = (event: MouseEvent) => follow(event, PATHS);
    document.addEventListener("click", click);
    return () => document.removeEventListener("click", click);
  }, []);
  const shared = ({ shares }: View) =>
    Object.fromEntries(shares.flatMap((name) => (query.has(name) ? [[name, query.get(name)]] : []))) as Values;
  return (
    <>
      <a class="skip" href="#work">
        Skip to the view
      </a>
      <header class="bar">
        <a class="brand" href={leftAt("/", {})}>
          Directrix
        </a>
        <nav class="views" aria-label="Views">
          {VIEWS.map((one) => (
            <a key={one.path} href={leftAt(one.path, shared(one))} aria-current={one === view ? "page" : undefined}>
              {one.name}
            </a>
          ))}
        </nav>
        {opened.data && <Tools />}
        <button
          type="button"
          class="theme"
          aria-label={isDark.value ? "Use light colours" : "Use dark colours"}
          onClick={toggleTheme}
        >
          {isDark.value ? "Light" : "Dark"}
        </button>
      </header>
      <main id="work" class="work" tabIndex={-1}>
        <Wait on={opened} what="Asking the server">
          {() =>
            view ? (
              <view.view />
            ) : (
              <div class="empty">
                <h1>Not found</h1>
                <p>
                  There is no view at {path}. <a href="/">See the directions</a>.
                </p>
              </div>
            )
          }
        </Wait>
      </main>
      <Hint />
    </>
  );
}

/** Which model, which SAE, and the way to any direction. */
function Tools() {
  const { model, saes } = info.value;
  const find = (event: SubmitEvent) => {
    event.preventDefault();
    const input = (event.currentTarget as HTMLFormElement).elements.namedItem("find") as HTMLInputElement;
    const text = input.value;
    if (!text.trim()) return;
    const found = unspelled(text);
    if (found) go("/", { sae: saes[found[0]]!.name, direction: found[1] });
    else go("/search", { sae: saes[sae.value]?.name, find: text });
    input.value = "";
    input.blur();
  };
  return (
    <>
      <form class="find" role="search" onSubmit={find}>
        <input
          name="find"
          type="search"
          aria-label="Go to a direction, or search a text"
          placeholder="429 or text"
          autocomplete="off"
        />
      </form>
      <label class="which">
        <span title={`${model.layers} layers, ${model.heads} heads, d_model ${model.d_model}`}>{model.name}</span>
        <Select
          label="SAE"
          value={sae.value}
          options={saes.map((one, i) => [i, one.name] as const)}
          set={(chosen) => choose({ sae: saes[chosen]!.name, direction: null }, false)}
        />
      </label>
    </>
  );
}
