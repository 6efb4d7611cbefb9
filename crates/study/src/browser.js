/** The browser of directions: every direction of every SAE, filtered, one at a time. */
for (const box of document.querySelectorAll(".browser")) {
  const packed = box.nextElementSibling.textContent.trim();
  const within = new IntersectionObserver(([entry]) => {
    if (entry.isIntersecting) { within.disconnect(); open(); }
  }, { rootMargin: "400px 0px" });
  within.observe(box);
  let opened;
  function open() {
    opened ??= unpacked(packed).then((data) => browse(box, data)).catch((error) => {
      box.textContent = "This browser cannot show the directions: " + error.message;
    });
    return opened;
  }
  /** `#direction/SAE/NUMBER` anywhere leads here. */
  function follow() {
    const [, sae, number] = location.hash.match(/^#direction\/(\d+)\/(\d+)$/) ?? [];
    if (number !== undefined) open().then((show) => { show?.(+sae, +number); box.parentElement.scrollIntoView(); });
  }
  addEventListener("hashchange", follow);
  follow();
}

function browse(box, { vocabulary, prompts, saes }) {
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const field = (label, input) => make("label", {}, make("span", { textContent: label }), input);
  const bound = (placeholder) => make("input", { type: "number", min: 0, max: 100, step: "any", placeholder });
  const kinds = ["highest", "upper third", "middle third", "lower third"];
  const orders = {
    "number": (s, d) => d,
    "density": (s, d) => -s.density[d],
    "maximum": (s, d) => -s.maximum[d],
    "share of top token": (s, d) => -s.share[d],
    "loss increase": (s, d) => -(s.effect.get(d)?.[0] ?? -Infinity),
  };
  for (const sae of saes) sae.effect = new Map(sae.effects.map(([direction, ...effect]) => [direction, effect]));
  const short = (value, digits = 3) => Number(value.toPrecision(digits)).toString();

  const which = make("select", {}, ...saes.map((sae, i) => make("option", { value: i, textContent: `${sae.name}, ${sae.hook}` })));
  const find = make("input", { type: "search", placeholder: "429, or a token" });
  const [dense, densest] = [bound("from"), bound("to")];
  const [shared, most] = [bound("from"), bound("to")];
  const order = make("select", {}, ...Object.keys(orders).map((name) => make("option", { textContent: name })));
  const slider = make("input", { type: "range", min: 0, value: 0, step: 1, ariaLabel: "Direction" });
  const back = make("button", { type: "button", textContent: "←", ariaLabel: "Previous direction" });
  const on = make("button", { type: "button", textContent: "→", ariaLabel: "Next direction" });
  const count = make("p", { className: "count", ariaLive: "polite" });
  const many = make("input", { type: "range", min: 1, max: 20, value: 5, ariaLabel: "Examples" });
  const howMany = make("output");
  const panel = make("div", { className: "panel" });
  box.replaceChildren(
    make("div", { className: "filters" },
      field("SAE and layer", which), field("Number or top token", find),
      field("Density, %", make("span", { className: "pair" }, dense, densest)),
      field("Share of top token, %", make("span", { className: "pair" }, shared, most)),
      field("Order", order), field("Examples", make("span", { className: "pair" }, many, howMany))),
    make("div", { className: "slide" }, back, slider, on), count, panel);

  let shown = [];
  const between = (value, low, high) => (low.value === "" || value >= +low.value) && (high.value === "" || value <= +high.value);
  function filter(keep) {
    const sae = saes[which.value];
    const text = find.value;
    const number = /^\s*\d+\s*$/.test(text) ? +text : undefined;
    const fits = (d) => (text === "" || d === number || (number === undefined && alone(sae.top_token[d]).includes(text)))
      && between(100 * sae.density[d], dense, densest) && between(100 * sae.share[d], shared, most);
    const key = orders[order.value];
    shown = sae.maximum.map((_, d) => d).filter(fits).sort((a, b) => key(sae, a) - key(sae, b) || a - b);
    slider.max = Math.max(0, shown.length - 1);
    slider.value = Math.max(0, shown.indexOf(keep));
    count.textContent = `${shown.length.toLocaleString()} of ${sae.maximum.length.toLocaleString()} directions`;
    draw();
  }
  const now = () => shown[slider.value];
  const bars = (counts) => {
    const top = Math.log(1 + Math.max(...counts));
    const bar = (n, i) => make("i", { title: `${5 * i} to ${5 * i + 5} % of the maximum: ${n} positions`, style: `height:${n ? Math.max(2, (100 * Math.log(1 + n)) / top) : 0}%` });
    return make("div", { className: "bars" }, ...counts.map(bar));
  };
  // A token is a text, or bytes of which some are only part of a character.
  const escapes = (bytes) => bytes.map((b) => (b < 0x80 ? String.fromCharCode(b) : "\\x" + b.toString(16).toUpperCase())).join("");
  const alone = (t) => (typeof vocabulary[t] === "string" ? vocabulary[t] : escapes(vocabulary[t] ?? []));
  // The texts of tokens: a character of several tokens that are shown alike is the first one's.
  function pieces(tokens, shade) {
    const texts = tokens.map(alone);
    for (let from = 0, to; from < tokens.length; from = to) {
      to = from + 1;
      if (typeof vocabulary[tokens[from]] === "string") continue;
      while (to < tokens.length && typeof vocabulary[tokens[to]] !== "string" && shade(to) === shade(from)) to++;
      try {
        const whole = new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(tokens.slice(from, to).flatMap((t) => vocabulary[t])));
        texts.fill("", from, to);
        texts[from] = whole;
      } catch { /* not whole characters: escaped */ }
    }
    return texts;
  }
  const chips = (tokens) => make("span", { className: "chips" }, ...tokens.map((t) => make("code", { textContent: spaced(alone(t)) })));
  const spaced = (token) => token.replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
  function draw() {
    const direction = now();
    if (direction === undefined) { panel.replaceChildren(make("p", { className: "none", textContent: "No direction passes these filters." })); return; }
    const sae = saes[which.value];
    const effect = sae.effect.get(direction);
    const facts = [
      ["maximum", short(sae.maximum[direction])],
      ["fires at", short(100 * sae.density[direction]) + " % of positions"],
      ["in", sae.prompts[direction].toLocaleString() + " prompts"],
      ["mean where it fires", short(sae.mean[direction])],
      ["top token", sae.top_token[direction] === null ? "none" : `${spaced(alone(sae.top_token[direction]))} (${short(100 * sae.share[direction])} %)`],
    ];
    if (effect) facts.push(["loss increase when ablated", `${effect[0] > 0 ? "+" : ""}${short(effect[0])}${effect[1] === null ? "" : " ± " + short(effect[1], 2)}, n = ${effect[2]}`]);
    panel.replaceChildren(
      make("h3", { textContent: `${sae.name}, direction ${direction}` }),
      make("dl", {}, ...facts.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })))),
      make("p", { className: "label", textContent: "Activations, in twentieths of the maximum; positions on a logarithmic scale" }),
      bars(sae.histogram[direction]),
    );
    for (const [name, tokens] of [["Raises", sae.raised[direction]], ["Lowers", sae.lowered[direction]]]) {
      if (tokens?.length) panel.append(make("p", { className: "label" }, name + " ", chips(tokens)));
    }
    let highest = 0;
    for (const [kind, prompt, position, ...fires] of sae.examples[direction]) {
      if (kind === 0 && ++highest > many.value) continue;
      panel.append(example(sae, direction, kinds[kind], prompts[prompt], position, fires));
    }
    howMany.textContent = many.value;
  }
  function example(sae, direction, kind, [number, tokens], position, fires) {
    const values = new Map();
    for (let i = 0; i < fires.length; i += 2) values.set(fires[i], fires[i + 1] / 1000);
    const texts = pieces(tokens, (at) => (at === position ? "marked" : values.get(at)));
    const token = (t, at) => {
      const part = values.get(at);
      const span = make("span", { className: at === position ? "t marked" : "t", textContent: texts[at] });
      if (part) { span.style.setProperty("--a", part.toFixed(2)); span.dataset.hint = `${spaced(alone(t))}  ${short(part * sae.maximum[direction])}`; }
      return span;
    };
    const spans = tokens.map(token);
    const [from, to] = [Math.max(0, position - 40), position + 16];
    const text = make("p", { className: "tokens" }, ...spans.slice(from, to));
    const more = (part, add) => {
      const dots = make("button", { type: "button", className: "dots here", textContent: "…", ariaLabel: "Show the whole prompt", onclick: () => dots.replaceWith(...part) });
      if (part.length) add(dots);
    };
    more(spans.slice(0, from), (dots) => text.prepend(dots));
    more(spans.slice(to), (dots) => text.append(dots));
    const strongest = short((values.get(position) ?? 0) * sae.maximum[direction]);
    return make("div", { className: "prompt" }, make("p", { className: "label", textContent: `${kind}: prompt ${number}, ${strongest} at position ${position}` }), text);
  }
  for (const input of [which, find, dense, densest, shared, most, order]) input.addEventListener("input", () => filter(now()));
  for (const input of [slider, many]) input.addEventListener("input", draw);
  const step = (by) => { slider.value = +slider.value + by; draw(); };
  back.onclick = () => step(-1);
  on.onclick = () => step(1);
  filter();
  return (sae, direction) => {
    if (!saes[sae] || direction >= saes[sae].maximum.length) return;
    which.value = sae;
    for (const input of [find, dense, densest, shared, most]) input.value = "";
    filter(direction);
  };
}
