/** Figures and tables as files. */

export function saveBlob(blob: Blob, name: string) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

type Cell = string | number | boolean | null | undefined;

const field = (cell: Cell) => {
  const text = String(cell ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

export function saveCsv(name: string, columns: string[], rows: Cell[][]) {
  const lines = [columns, ...rows].map((row) => row.map(field).join(",") + "\n");
  saveBlob(new Blob(lines, { type: "text/csv" }), `${name}.csv`);
}

const STYLES = [
  "fill",
  "fill-opacity",
  "stroke",
  "stroke-width",
  "stroke-dasharray",
  "opacity",
  "font-family",
  "font-size",
  "font-weight",
  "text-anchor",
  "image-rendering",
  "paint-order",
  "display",
];

/** A copy with what the style sheet gives it written into it. */
function styled(svg: SVGSVGElement) {
  const copy = svg.cloneNode(true) as SVGSVGElement;
  const copies = copy.querySelectorAll<SVGElement>("*");
  svg.querySelectorAll<SVGElement>("*").forEach((element, i) => {
    const style = getComputedStyle(element);
    copies[i]!.setAttribute("style", STYLES.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
  });
  return copy;
}

/** The drawings of a figure, one over the other, as a file of its own. */
function standalone(drawings: SVGSVGElement[]) {
  const [svg, ...over] = drawings.map(styled);
  svg!.append(...over.flatMap((one) => [...one.children]));
  const { width, height } = drawings[0]!.getBoundingClientRect();
  const page = getComputedStyle(document.documentElement).getPropertyValue("--page").trim();
  for (const [name, value] of [
    ["xmlns", "http://www.w3.org/2000/svg"],
    ["width", String(width)],
    ["height", String(height)],
    ["style", `background:${page}`],
  ] as const) {
    svg!.setAttribute(name, value);
  }
  return { text: new XMLSerializer().serializeToString(svg!), width, height, page };
}

export function saveSvg(drawings: SVGSVGElement[], name: string) {
  saveBlob(new Blob([standalone(drawings).text], { type: "image/svg+xml" }), `${name}.svg`);
}

export async function savePng(drawings: SVGSVGElement[], name: string) {
  const { text, width, height, page } = standalone(drawings);
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * width, 2 * height];
  const context = canvas.getContext("2d")!;
  context.fillStyle = page;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done));
  if (blob) saveBlob(blob, `${name}.png`);
}
