"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const number = head.dataset.sort === "number";
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const order = number
      ? (a, b) => Number(value(a)) - Number(value(b))
      : (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now ? (now === "ascending" ? "descending" : "ascending") : number ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next);
      const rows = [...body.rows].sort(order);
      body.append(...(next === "descending" ? rows.reverse() : rows));
    });
  });
}
for (const map of document.querySelectorAll(".map")) {
  const told = JSON.parse(map.querySelector("script").textContent);
  const points = [...map.querySelectorAll(".point")];
  const preview = map.querySelector(".preview");
  const along = (axis) =>
    points.map((_, i) => i).sort((a, b) => points[a].dataset[axis] - points[b].dataset[axis] || a - b);
  const orders = { x: along("x"), y: along("y") };
  const keys = { ArrowLeft: ["x", -1], ArrowRight: ["x", 1], ArrowUp: ["y", -1], ArrowDown: ["y", 1] };
  const line = (words, name, kind) => {
    const row = document.createElement("p");
    const own = document.createElement("bdi");
    own.textContent = name;
    row.className = kind;
    row.append(words, own);
    return row;
  };
  let chosen = points[0];
  const choose = (i) => {
    const [path, truth, prediction, probability, picture] = told[i];
    chosen.tabIndex = -1;
    chosen.setAttribute("aria-selected", "false");
    chosen = points[i];
    chosen.tabIndex = 0;
    chosen.setAttribute("aria-selected", "true");
    const shown = [];
    if (picture) {
      const image = new Image();
      image.src = picture;
      image.alt = truth;
      shown.push(image);
    }
    shown.push(line("true: ", truth, "true"));
    const sure = `${(100 * Math.min(probability, 0.9999)).toFixed(probability > 0.995 ? 2 : 0)}%`;
    shown.push(line(`taken for (${sure}): `, prediction, truth === prediction ? "true" : "false"));
    shown.push(line("", path, "path"));
    preview.replaceChildren(...shown);
  };
  points.forEach((point, i) => {
    point.addEventListener("pointerenter", () => choose(i));
    point.addEventListener("click", () => choose(i));
    point.addEventListener("focus", () => choose(i));
    point.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      const [axis, step] = keys[event.key];
      const order = orders[axis];
      points[order[(order.indexOf(i) + step + order.length) % order.length]].focus();
    });
  });
}
