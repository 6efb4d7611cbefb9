window.Look = (() => {
  const palettes = PALETTES;

  /** Breaks an axis title that would not fit into `length` pixels. */
  function wrapped(text = "", length) {
    const lines = [];
    for (const word of text.split(" ")) {
      const last = lines.at(-1);
      if (last !== undefined && (last.length + word.length) * 7 < length) lines.push(lines.pop() + " " + word);
      else lines.push(word);
    }
    return lines.join("<br>");
  }

  /** A figure as Plotly takes it, in the page's colours, where it has `room` pixels. */
  function themed({ data, layout, config }, room, isDark) {
    const { page, series, sequential, diverging } = palettes[isDark ? "dark" : "light"];
    const touch = matchMedia("(pointer: coarse)").matches;
    const axis = (own, length) => ({
      ...own,
      gridcolor: page.grid, linecolor: page.line, zerolinecolor: page.faint,
      title: { ...own.title, text: wrapped(own.title?.text, length), font: { size: 13, color: page.soft }, standoff: 12 },
      fixedrange: touch,
    });
    const xaxis = axis(layout.xaxis, room - 90);
    const labels = xaxis.ticktext ?? [];
    const longest = Math.max(0, ...labels.map((label) => label.length));
    if (!layout.width && labels.length * longest * 7 > room - 90) xaxis.tickangle = -60;
    const traces = data.map((trace, i) => {
      const hue = series[i % series.length];
      if (trace.type === "heatmap") {
        const scale = trace.zmid === 0 ? diverging : sequential;
        const colorscale = scale.map((colour, i) => [i / (scale.length - 1), colour]);
        return { ...trace, colorscale, colorbar: { ...trace.colorbar, tickfont: { color: page.soft } } };
      }
      return {
        ...trace,
        marker: { ...trace.marker, color: hue },
        ...(trace.line && { line: { ...trace.line, color: hue } }),
        ...(trace.fill && { fillcolor: hue + "66" }),
        ...(trace.error_y && { error_y: { ...trace.error_y, color: page.ink } }),
      };
    });
    return {
      data: traces,
      config,
      layout: {
        ...layout,
        xaxis, yaxis: axis(layout.yaxis, layout.height - 120), dragmode: touch ? false : "zoom",
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: page.soft },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        hoverlabel: { bgcolor: page.raised, bordercolor: page.line, font: { color: page.ink, size: 13 } },
        legend: { ...layout.legend, bgcolor: "rgba(0,0,0,0)" },
      },
    };
  }

  return { palettes, themed };
})();
