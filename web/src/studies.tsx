/** Studies that were run: their reports, tables and figures. */
import { get, type Study } from "./api";
import { Wait } from "./parts";
import { useLoaded } from "./state";

const file = (path: string) => path.split("/").at(-1)!;

export function Studies() {
  const loaded = useLoaded("studies", (signal) => get<Study[]>("/api/studies", signal));
  return (
    <>
      <h1>Studies</h1>
      <Wait on={loaded} what="Looking for studies">
        {(studies) =>
          studies.length === 0 ? (
            <div class="empty">
              <p>No study has been run here yet.</p>
              <p>
                Run one with <code>directrix study FILE</code>, or the shipped one with <code>directrix demo</code>.
              </p>
            </div>
          ) : (
            studies.map((study) => (
              <article class="card" key={study.name}>
                <div class="part-line first">
                  <h2>
                    <a href={study.report}>{study.title}</a>
                  </h2>
                  <a href={study.report} target="_blank" rel="noopener">
                    Open in a new tab
                  </a>
                </div>
                <Files name="Tables" files={study.tables} />
                <Files name="Figures" files={study.figures} />
              </article>
            ))
          )
        }
      </Wait>
    </>
  );
}

function Files({ name, files }: { name: string; files: string[] }) {
  if (!files.length) return null;
  return (
    <details>
      <summary>
        {name} <span class="faint">{files.length}</span>
      </summary>
      <ul class="file-list">
        {files.map((path) => (
          <li key={path}>
            <a href={path} target="_blank" rel="noopener">
              {file(path)}
            </a>
          </li>
        ))}
      </ul>
    </details>
  );
}
