/** Attribution graphs: the edges of the node that is pointed at or chosen, and what it is. */
for (const figure of document.querySelectorAll(".prompt-graph")) {
  const box = figure.querySelector(".graph-box");
  const svg = box.querySelector(".graph-marks");
  const panel = figure.querySelector(".graph-panel");
  const { nodes, edges, most, height } = JSON.parse(figure.querySelector("script").textContent);
  const chosen = svg.querySelector(".chosen");
  const marks = new Map([...svg.querySelectorAll(".node")].map((g) => [+g.dataset.node, g]));
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const of = (node, end) => edges.filter((edge) => edge[end] === node).sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
  let selected;
  function light(node) {
    const ends = new Set([node]);
    const paths = [];
    // Of many the largest, so that each can be followed.
    for (const edge of [...of(node, 1).slice(0, 60), ...of(node, 0).slice(0, 60)]) {
      ends.add(edge[0]).add(edge[1]);
      const [[, , , x, y], [, , , toX, toY]] = [nodes[edge[0]], nodes[edge[1]]];
      const [from, to] = [y - height / 2, toY + height / 2];
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", "edge" + (edge[2] < 0 ? " negative" : ""));
      path.setAttribute("d", `M${x} ${from}C${x} ${(from + to) / 2} ${toX} ${(from + to) / 2} ${toX} ${to}`);
      path.setAttribute("stroke-width", 0.6 + 4 * Math.sqrt(Math.abs(edge[2]) / most));
      paths.push(path);
    }
    chosen.replaceChildren(...paths);
    svg.classList.toggle("lit", node !== undefined);
    for (const [number, g] of marks) g.classList.toggle("on", ends.has(number));
  }
  const signed = (x) => (x > 0 ? "+" : "") + x.toPrecision(3);
  function list(title, found, end) {
    if (!found.length) return "";
    const rows = found.slice(0, 12).map((edge) => {
      const button = make("button", { type: "button", textContent: nodes[edge[end]][0] });
      button.onclick = () => select(edge[end], true);
      return make("li", {}, make("span", { className: edge[2] < 0 ? "down" : "up", textContent: signed(edge[2]) }), button);
    });
    const rest = found.slice(12).reduce((sum, edge) => sum + edge[2], 0);
    if (found.length > 12) rows.push(make("li", { className: "rest", textContent: `${signed(rest)} from ${found.length - 12} others` }));
    return make("div", {}, make("h4", { textContent: title }), make("ul", {}, ...rows));
  }
  function select(node, scroll) {
    selected = node;
    light(node);
    for (const [number, g] of marks) g.classList.toggle("selected", number === node);
    if (node === undefined) { panel.replaceChildren(make("p", { className: "none", textContent: "Choose a node to see what it is made of." })); return; }
    const [title, facts, link] = nodes[node];
    const leads = link && document.querySelector(".browser");
    const head = make("h4", { className: "title" }, leads ? make("a", { href: "#" + link, textContent: title }) : title);
    panel.replaceChildren(
      head,
      make("dl", {}, ...facts.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })))),
      make("div", { className: "lists" }, list("What adds to it", of(node, 1), 0), list("What it adds to", of(node, 0), 1)));
    const x = nodes[node][3];
    if (scroll && (x < box.scrollLeft + 40 || x > box.scrollLeft + box.clientWidth - 40)) box.scrollLeft = x - box.clientWidth / 2;
  }
  for (const [number, g] of marks) {
    g.setAttribute("tabindex", "0");
    g.setAttribute("role", "button");
    g.onpointerenter = (event) => { if (event.pointerType === "mouse") light(number); };
    g.onpointerleave = () => light(selected);
    g.onclick = (event) => { event.stopPropagation(); select(selected === number ? undefined : number); };
    g.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(number); } };
  }
  svg.onclick = () => select(undefined);
  box.scrollLeft = box.scrollWidth;
  const answer = nodes.findIndex((node) => node[5] === "logit");
  select(answer < 0 ? undefined : answer);
}
