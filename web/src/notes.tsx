/** Every label, star and note; out to a file and in from one. */
import { useRef, useState } from "preact/hooks";
import { ask, type Note } from "./api";
import { DirectionLink, Table } from "./parts";
import { saveBlob } from "./save";
import { info, keepNote, loadNotes, notes, spelled } from "./state";
import { many } from "./text";

interface Imported {
  imported: number;
  skipped: { line: number; error: string }[];
}

export function NotesView() {
  const input = useRef<HTMLInputElement>(null);
  const [imported, setImported] = useState<Imported | null>(null);
  const [error, setError] = useState("");
  const { edit } = info.value;
  const all = [...notes.value.values()]
    .filter((note) => note.starred || note.label || note.text)
    .sort((a, b) => a.sae - b.sae || a.direction - b.direction);
  const attempt = (work: () => Promise<void>) => {
    setError("");
    work().catch((error: Error) => setError(error.message));
  };
  const save = () => attempt(async () => saveBlob(await (await ask("/api/notes.jsonl")).blob(), "notes.jsonl"));
  const read = () =>
    attempt(async () => {
      const file = input.current!.files?.[0];
      if (!file) return;
      const answer = await ask("/api/notes.jsonl", {
        method: "POST",
        body: file,
        headers: { "Content-Type": "application/jsonl" },
      });
      setImported((await answer.json()) as Imported);
      input.current!.value = "";
      await loadNotes();
    });
  const remove = (note: Note) =>
    attempt(async () => {
      await ask(`/api/notes/${note.sae}/${note.direction}`, { method: "DELETE" });
      keepNote(note.sae, note.direction, null);
    });
  return (
    <>
      <div class="part-line first">
        <h1>Notes</h1>
        <button type="button" class="pill" onClick={save}>
          Export
        </button>
        {edit && (
          <label class="pill file">
            Import
            <input ref={input} type="file" accept=".jsonl,application/jsonl" onChange={read} />
          </label>
        )}
      </div>
      {!edit && (
        <p class="note">
          Notes are only shown: start with <code>directrix serve --edit</code> to write them.
        </p>
      )}
      {error && (
        <p class="failed" role="alert">
          {error}
        </p>
      )}
      {imported && (
        <div class="imported" role="status">
          <p>
            {many(imported.imported, "note")} imported
            {imported.skipped.length ? `, ${many(imported.skipped.length, "line")} left out:` : "."}
          </p>
          {imported.skipped.length > 0 && (
            <ul>
              {imported.skipped.map(({ line, error }) => (
                <li key={line}>
                  line {line}: {error}
                </li>
              ))}
            </ul>
          )}
        </div>
      )}
      {all.length === 0 ? (
        <div class="empty">
          <p>Nothing is labelled or starred yet.</p>
          <p>
            Star a direction, or say what it is, in its panel among the <a href="/">directions</a>.
          </p>
        </div>
      ) : (
        <Table
          rows={all}
          name="notes"
          caption={<span class="faint">{many(all.length, "direction")}</span>}
          columns={[
            {
              name: "starred",
              value: (note) => note.starred,
              show: (note) =>
                note.starred ? (
                  <span class="starred" role="img" aria-label="starred">
                    ★
                  </span>
                ) : (
                  ""
                ),
            },
            {
              name: "direction",
              value: (note) => spelled(note.sae, note.direction),
              show: (note) => <DirectionLink sae={note.sae} direction={note.direction} />,
            },
            { name: "label", value: (note) => note.label, class: "label-cell" },
            { name: "note", value: (note) => note.text, class: "long" },
            {
              name: "changed",
              value: (note) => note.changed,
              show: (note) => <time dateTime={note.changed}>{note.changed.slice(0, 16).replace("T", " ")}</time>,
            },
            ...(edit
              ? [
                  {
                    name: "delete",
                    value: () => null,
                    show: (note: Note) => (
                      <button
                        type="button"
                        class="link"
                        aria-label={`Delete the note of ${spelled(note.sae, note.direction)}`}
                        onClick={() => remove(note)}
                      >
                        Delete
                      </button>
                    ),
                  },
                ]
              : []),
          ]}
        />
      )}
    </>
  );
}
