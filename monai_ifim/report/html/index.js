"use strict";
(() => {
  const { rows, columns } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const short = (value) => (value === null ? ""
    : value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2)
      : String(Number(value.toPrecision(3))));
  const images = (count) => (count === 1 ? "1 image" : `${count} images`);
  const svg = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const link = (row) => {
    const node = document.createElement("a");
    node.href = row.page;
    node.textContent = row.name;
    node.className = "name";
    return node;
  };

  // What the fields above the table leave over.
  const search = byId("search"), chosen = byId("class"), status = byId("status");
  for (const name of [...new Set(rows.map((row) => row.predicted))].sort()) {
    if (name === "") continue;
    const option = document.createElement("option");
    option.value = option.textContent = name;
    chosen.append(option);
  }
  const texts = rows.map((row) =>
    [row.name, row.predicted, row.label, row.status].join("\n").toLowerCase());
  const kept = (row) =>
    texts[row.index].includes(search.value.trim().toLowerCase()) &&
    (chosen.value === "" || row.predicted === chosen.value) &&
    (status.value === "" || (status.value === "wrong" ? row.wrong
      : row.failed === (status.value === "failed")));

  // Two ways to show the table: Tabulator where it was built in, and plain HTML.
  const tabulator = () => {
    let built = false;
    // Rows outside the window of a long table are not made. (Tabulator 6.3 hangs with maxHeight.)
    const height = rows.length > 15 ? Math.max(320, Math.round(0.7 * window.innerHeight)) : false;
    const table = new Tabulator("#table", {
      data: rows, height, index: "index", layout: "fitDataStretch", movableColumns: false,
      columns: columns.map((column) => ({
        title: column.title, field: column.key, headerSortStartingDir: column.number ? "desc" : "asc",
        sorter: column.number ? "number" : "string", sorterParams: { alignEmptyValues: "bottom" },
        hozAlign: column.number ? "right" : "left", minWidth: column.key === "name" ? 180 : 80,
        formatter: column.key === "name" ? (cell) => link(cell.getRow().getData())
          : column.number ? (cell) => short(cell.getValue()) : "plaintext",
      })),
      initialSort: [{ column: "trace", dir: "desc" }],
    });
    table.on("tableBuilt", () => {
      // Roles as ARIA nests them: a grid of row groups, whose links are what is focused.
      document.querySelector("#table .tabulator-header-contents").removeAttribute("role");
      document.querySelector("#table .tabulator-tableholder").removeAttribute("tabindex");
      byId("table").setAttribute("aria-labelledby", "images");
      // Headers are reached and pressed with the keyboard, too.
      for (const head of document.querySelectorAll("#table .tabulator-col.tabulator-sortable")) {
        head.tabIndex = 0;
        head.addEventListener("keydown", (event) => {
          if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            head.querySelector(".tabulator-col-content").click();
          }
        });
      }
      built = true;
      document.documentElement.dataset.ready = "yes";
    });
    return () => { if (built) table.setFilter(kept); };
  };
  const plain = () => {
    const body = document.querySelector("#plain tbody");
    const lines = rows.map((row) => {
      const line = document.createElement("tr");
      for (const column of columns) {
        const cell = line.insertCell();
        if (column.number) cell.className = "number";
        if (column.key === "name") cell.append(link(row));
        else cell.textContent = column.number ? short(row[column.key]) : row[column.key];
      }
      return line;
    });
    const empty = (value) => value === null || value === "";
    const sort = (key, down) => {
      const order = [...rows].sort((a, b) => {
        const x = a[key], y = b[key];
        if (empty(x) || empty(y)) return empty(x) - empty(y);
        const less = typeof x === "number" ? x - y : x < y ? -1 : x > y ? 1 : 0;
        return down ? -less : less;
      });
      body.replaceChildren(...order.map((row) => lines[row.index]));
      for (const head of document.querySelectorAll("#plain th")) {
        if (head.dataset.key !== key) head.removeAttribute("aria-sort");
        else head.setAttribute("aria-sort", down ? "descending" : "ascending");
      }
    };
    for (const head of document.querySelectorAll("#plain th")) {
      const { number } = columns.find((column) => column.key === head.dataset.key);
      head.querySelector("button").addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sort(head.dataset.key, now ? now === "ascending" : Boolean(number));
      });
    }
    sort("trace", true);
    document.documentElement.dataset.ready = "yes";
    return () => rows.forEach((row) => { lines[row.index].hidden = !kept(row); });
  };

  // Histogram and scatter.
  const WIDE = 460, HIGH = 250, LEFT = 46, BELOW = 36;
  const good = rows.filter((row) => row.trace !== null && row.trace > 0);
  const logs = good.map((row) => Math.log10(row.trace));
  const low = logs.reduce((a, b) => Math.min(a, b), Infinity);
  const high = logs.reduce((a, b) => Math.max(a, b), -Infinity);
  const from = high - low < 0.2 ? low - 0.1 : low, to = high - low < 0.2 ? high + 0.1 : high;
  const across = (log) => LEFT + ((log - from) / (to - from)) * (WIDE - LEFT - 12);
  const frame = (label, below) => {
    const node = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "group", "aria-label": label });
    const floor = HIGH - BELOW;
    node.append(svg("line", { x1: LEFT, x2: WIDE - 12, y1: floor, y2: floor, class: "axis" }));
    const step = Math.max(1, Math.ceil((to - from) / 5));
    let ticks = [];
    for (let power = Math.ceil(from); power <= to; power += step) ticks.push(power);
    if (ticks.length < 2) ticks = [from, (from + to) / 2, to];
    for (const tick of ticks) {
      const x = across(tick), last = x > WIDE - 30; // a label of 8 digits would be cut
      node.append(svg("text", { x: last ? WIDE - 2 : x, y: floor + 15,
        "text-anchor": last ? "end" : "middle" }, short(10 ** tick)));
    }
    node.append(svg("text", { x: WIDE / 2, y: HIGH - 4, "text-anchor": "middle" }, below));
    return node;
  };
  const histogram = () => {
    const bins = Math.min(30, Math.max(5, Math.ceil(Math.sqrt(good.length))));
    const counts = new Array(bins).fill(0);
    for (let i = 0; i < good.length; i += 1) {
      if (!kept(good[i])) continue;
      counts[Math.min(bins - 1, Math.floor(((logs[i] - from) / (to - from)) * bins))] += 1;
    }
    const most = Math.max(1, ...counts), node = frame("Histogram of the trace", "trace of F");
    const wide = (WIDE - LEFT - 12) / bins, room = HIGH - BELOW - 14;
    counts.forEach((count, i) => {
      const tall = (count / most) * room;
      const bar = svg("rect", { x: LEFT + i * wide + 0.5, y: HIGH - BELOW - tall,
        width: wide - 1, height: tall, class: "bar" });
      bar.append(svg("title", {}, images(count)));
      node.append(bar);
    });
    node.append(svg("text", { x: LEFT - 6, y: 20, "text-anchor": "end" }, String(most)));
    node.append(svg("text", { x: LEFT - 6, y: HIGH - BELOW, "text-anchor": "end" }, "0"));
    byId("histogram").replaceChildren(node);
  };
  const points = new Map();
  const scatter = () => {
    const node = frame("Probability against trace", "trace of F"), room = HIGH - BELOW - 14;
    const up = (p) => HIGH - BELOW - p * room;
    for (const p of [0, 0.5, 1]) {
      node.append(svg("line", { x1: LEFT, x2: WIDE - 12, y1: up(p), y2: up(p), class: "axis" }));
      node.append(svg("text", { x: LEFT - 6, y: up(p) + 4, "text-anchor": "end" }, String(p)));
    }
    good.forEach((row, i) => {
      if (row.probability === null) return;
      const place = svg("a", { href: row.page, tabindex: "-1", "aria-label": row.name });
      const dot = svg("circle", { cx: across(logs[i]), cy: up(row.probability), r: 4,
        class: row.wrong ? "point wrong" : "point" });
      dot.append(svg("title", {}, `${row.name}: ${row.predicted}, p ${short(row.probability)}, ` +
        `trace ${short(row.trace)}`));
      place.append(dot);
      node.append(place);
      points.set(row.index, dot);
    });
    byId("scatter").replaceChildren(node);
  };

  const update = byId("table") ? tabulator() : plain();
  const changed = () => {
    update();
    const count = rows.filter(kept).length;
    byId("count").textContent = `${count} of ${images(rows.length)}`;
    histogram();
    for (const [index, dot] of points) dot.classList.toggle("away", !kept(rows[index]));
  };
  if (good.length > 0) scatter();
  for (const field of [search, chosen, status]) field.addEventListener("input", changed);
  changed();
})();
