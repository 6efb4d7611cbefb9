/** The server's own description of what it can be asked. */
import { useEffect } from "preact/hooks";
import { get } from "./api";
import { Wait } from "./parts";
import { useLoaded } from "./state";

interface Schema {
  $ref?: string;
  type?: string | string[];
  format?: string;
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  prefixItems?: Schema[];
  oneOf?: Schema[];
  anyOf?: Schema[];
  enum?: unknown[];
  const?: unknown;
  additionalProperties?: Schema | boolean;
}
interface Content {
  [type: string]: { schema?: Schema; example?: unknown };
}
interface Operation {
  summary?: string;
  description?: string;
  tags?: string[];
  parameters?: { name: string; in: string; required?: boolean; description?: string; schema?: Schema }[];
  requestBody?: { description?: string; content?: Content };
  responses?: Record<string, { description?: string; content?: Content }>;
}
interface OpenApi {
  info: { title: string; version: string; description?: string };
  paths: Record<string, Record<string, Operation>>;
  components?: { schemas?: Record<string, Schema> };
}

const METHODS = ["get", "post", "put", "delete"];

const operations = (api: OpenApi) =>
  Object.entries(api.paths).flatMap(([path, methods]) =>
    METHODS.flatMap((method) =>
      methods[method] ? [{ id: `${method}${path.replaceAll(/[^\w]+/g, "-")}`, method, path, of: methods[method] }] : [],
    ),
  );

/** What the address leads to is opened. */
function open() {
  const asked = document.getElementById(location.hash.slice(1));
  if (asked instanceof HTMLDetailsElement) {
    asked.open = true;
    asked.scrollIntoView();
  }
}

export function Reference() {
  const loaded = useLoaded("openapi", (signal) => get<OpenApi>("/openapi.json", signal));
  useEffect(() => {
    open();
    addEventListener("hashchange", open);
    return () => removeEventListener("hashchange", open);
  }, [loaded.data]);
  return (
    <Wait on={loaded} what="Loading the description">
      {(api) => (
        <div class="reference">
          <nav class="contents" aria-label="Requests">
            <ol>
              {operations(api).map(({ id, method, path }) => (
                <li key={id}>
                  <a href={`#${id}`}>
                    <Method name={method} /> {path}
                  </a>
                </li>
              ))}
            </ol>
          </nav>
          <div>
            <h1>
              {api.info.title} <span class="faint">{api.info.version}</span>
            </h1>
            {api.info.description && <p class="described">{api.info.description}</p>}
            <p>
              <a href="/openapi.json" target="_blank">
                openapi.json
              </a>
            </p>
            {operations(api).map(({ id, method, path, of }) => (
              <One key={id} id={id} method={method} path={path} of={of} schemas={api.components?.schemas ?? {}} />
            ))}
            <h2 class="part">What is sent</h2>
            {Object.entries(api.components?.schemas ?? {}).map(([name, schema]) => (
              <details class="operation" key={name} id={`schema-${name}`}>
                <summary>
                  <code>{name}</code> <span class="faint">{schema.description}</span>
                </summary>
                <Shape of={schema} />
              </details>
            ))}
          </div>
        </div>
      )}
    </Wait>
  );
}

const Method = ({ name }: { name: string }) => <span class={`method ${name}`}>{name.toUpperCase()}</span>;

type Schemas = Record<string, Schema>;

function One({ id, method, path, of, schemas }: { id: string; method: string; path: string; of: Operation; schemas: Schemas }) {
  return (
    <details class="operation" id={id}>
      <summary>
        <Method name={method} /> <code>{path}</code> <span class="faint">{of.summary}</span>
      </summary>
      {of.description && <p class="described">{of.description}</p>}
      {of.parameters && of.parameters.length > 0 && (
        <table>
          <thead>
            <tr>
              <th scope="col">parameter</th>
              <th scope="col">in</th>
              <th scope="col">type</th>
              <th scope="col">meaning</th>
            </tr>
          </thead>
          <tbody>
            {of.parameters.map((one) => (
              <tr key={one.name}>
                <td>
                  <code>{one.name}</code>
                  {!one.required && <span class="faint"> optional</span>}
                </td>
                <td>{one.in}</td>
                <td>
                  <Type of={one.schema} />
                </td>
                <td>{one.description}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {of.requestBody?.content && (
        <>
          <h3>Body</h3>
          <Bodies of={of.requestBody.content} schemas={schemas} />
        </>
      )}
      {Object.entries(of.responses ?? {}).map(([status, { description, content }]) => (
        <div key={status}>
          <h3>
            {status} <span class="faint">{description}</span>
          </h3>
          {content && <Bodies of={content} schemas={status.startsWith("2") ? schemas : {}} />}
        </div>
      ))}
    </details>
  );
}

/** What is sent, its fields spelled out where its schema is among those given. */
function Bodies({ of, schemas }: { of: Content; schemas: Schemas }) {
  return (
    <>
      {Object.entries(of).map(([type, { schema, example }]) => (
        <div key={type}>
          <p class="note">
            {type}
            {schema && (
              <>
                : <Type of={schema} />
              </>
            )}
          </p>
          {schema && <Shape of={schemas[schema.$ref?.split("/").at(-1) ?? ""] ?? schema} />}
          {example !== undefined && (
            <pre tabIndex={0}>{typeof example === "string" ? example : JSON.stringify(example, null, 2)}</pre>
          )}
        </div>
      ))}
    </>
  );
}

/** The properties of an object, one a line. */
function Shape({ of }: { of: Schema }) {
  const properties = Object.entries(of.properties ?? of.items?.properties ?? {});
  if (!properties.length)
    return of.oneOf || of.anyOf || of.enum ? (
      <p>
        <Type of={of} />
      </p>
    ) : null;
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">field</th>
          <th scope="col">type</th>
          <th scope="col">meaning</th>
        </tr>
      </thead>
      <tbody>
        {properties.map(([name, schema]) => (
          <tr key={name}>
            <td>
              <code>{name}</code>
              {!(of.required ?? of.items?.required)?.includes(name) && <span class="faint"> optional</span>}
            </td>
            <td>
              <Type of={schema} />
            </td>
            <td>{schema.description}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Type({ of }: { of: Schema | undefined }) {
  if (!of) return null;
  const between = (all: Schema[], sign: string) =>
    all.map((one, i) => (
      <span key={i}>
        {i > 0 && sign}
        <Type of={one} />
      </span>
    ));
  if (of.$ref) {
    const name = of.$ref.split("/").at(-1)!;
    return <a href={`#schema-${name}`}>{name}</a>;
  }
  if (of.enum) return <code>{of.enum.map((one) => JSON.stringify(one)).join(" | ")}</code>;
  if (of.const !== undefined) return <code>{JSON.stringify(of.const)}</code>;
  if (of.oneOf ?? of.anyOf) return <>{between((of.oneOf ?? of.anyOf)!, " or ")}</>;
  if (of.prefixItems) return <>[{between(of.prefixItems, ", ")}]</>;
  if (of.items)
    return (
      <>
        list of <Type of={of.items} />
      </>
    );
  if (typeof of.additionalProperties === "object")
    return (
      <>
        map to <Type of={of.additionalProperties} />
      </>
    );
  return <>{of.type === undefined ? "any" : [of.type].flat().join(" or ")}</>;
}
