"use strict";
// The atlas, drawn for the target, pass, dtype and measure that are chosen; and the plot whose question is chosen. All text
// that comes from the run reaches the document as text nodes.
(() => {
  const byId = (id) => document.getElementById(id);
  const source = byId("atlas-data");
  const data = source ? JSON.parse(source.textContent) : { rows: [] };
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  // a_b may break after the underscore
  const breaking = (text) => String(text).split("_").flatMap((part, place) => (place ? ["_", element("wbr"), part] : [part]));
  const [TARGET, PASS, DTYPE, OPERATOR, LAYOUT, CONTEXT, PROBLEMS, USE, BASIS, TIES, CELLS] = Array(11).keys();
  const MOST = 0.55; // of the colour: text on it stays readable
  const places = data.measures?.map(([name]) => name) ?? [];
  const has = (row, measure) => row[CELLS].some(([, , values]) => values[measure] !== null);
  const figures = (value, name) => {
    if (value === null) return "–";
    if (typeof value !== "number") return String(value);
    if (name === "launches") return value.toLocaleString("en");
    if (value === 0 || name === "error") return value >= 100 ? value.toExponential(1) : value.toPrecision(2);
    return value >= 0.1 && value < 100 ? value.toFixed(2) : value.toPrecision(2);
  };
  const heat = (value, name) => {
    if (typeof value !== "number" || name === "error") return 0;
    const over = name === "launches" ? Math.log2(value) / 3 : Math.log2(value) / 2;
    return over > 0.01 ? Math.min(1, over) * MOST : 0;
  };

  const menus = {};
  const fill = (name, options) => { // keeps what was chosen where it is still there
    const menu = menus[name], before = menu.value;
    menu.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    menu.value = options.some(([value]) => value === before) ? before : options[0]?.[0] ?? "";
    menu.disabled = options.length < 2;
  };
  const among = (rows, column) => [...new Set(rows.map((row) => row[column]))];
  const words = (text) => text.replace(/_/g, " and ");
  const narrowed = () => {
    let rows = data.rows.filter((row) => row[TARGET] === menus.target.value);
    fill("pass", data.passes.filter((pass) => among(rows, PASS).includes(pass)).map((pass) => [pass, words(pass)]));
    rows = rows.filter((row) => row[PASS] === menus.pass.value);
    fill("dtype", data.dtypes.filter((dtype) => among(rows, DTYPE).includes(dtype)).map((dtype) => [dtype, dtype]));
    rows = rows.filter((row) => row[DTYPE] === menus.dtype.value);
    fill("measure", data.measures.filter((_, place) => rows.some((row) => has(row, place))));
    return rows;
  };
  const cellOf = (row, found, measure) => {
    const name = places[measure];
    if (!found) return element("td", { class: "number missing" }, "");
    const [variant, problems, values] = found;
    const few = problems < row[PROBLEMS] ? ` (${problems})` : "";
    const used = variant === row[USE];
    const cell = element("td", { class: used ? "number best" : "number" }, `${figures(values[measure], name)}${few}`);
    if (used) cell.append(element("span", { "aria-hidden": "true" }, " ★"), element("span", { class: "unseen" }, " use this"));
    const share = heat(values[measure], name);
    if (share) cell.style.setProperty("--heat", share.toFixed(2));
    return cell;
  };
  const bodyOf = (operator, rows, measure, widest) => {
    const variants = [];
    for (const row of rows) for (const [variant] of row[CELLS]) if (!variants.includes(variant)) variants.push(variant);
    const blank = Array.from({ length: widest - variants.length }, () => element("td", { class: "blank" }));
    const head = element("tr", { class: "operator" }, element("th", { scope: "col" }, operator.replace(/_/g, " ")),
      element("th", { scope: "col" }, "use, by"), ...variants.map((variant) => element("th", { scope: "col", class: "number" }, ...breaking(variant))),
      ...blank);
    const lines = rows.map((row) => {
      const context = ["alone", "", "<NA>"].includes(row[CONTEXT]) ? "" : `, ${row[CONTEXT]}`;
      const label = element("th", { scope: "row" }, `${row[LAYOUT]}${context} `, element("span", { class: "missing" }, `n ${row[PROBLEMS]}`));
      const cells = variants.map((variant) => cellOf(row, row[CELLS].find(([name]) => name === variant), measure));
      const use = element("td", { class: "names" });
      if (row[USE]) {
        const ties = row[TIES].length ? ` ~${row[TIES].length}` : "";
        use.append(element("strong", { class: "use" }, row[USE]), `${ties} ${data.bases[row[BASIS]]}`);
      }
      return element("tr", {}, label, use, ...cells, ...blank.map((each) => each.cloneNode()));
    });
    return element("tbody", {}, head, ...lines);
  };
  const draw = () => {
    const rows = narrowed();
    const measure = places.indexOf(menus.measure.value);
    const operators = among(rows, OPERATOR);
    const counts = operators.map((operator) => new Set(rows.filter((row) => row[OPERATOR] === operator)
      .flatMap((row) => row[CELLS].map(([variant]) => variant))).size);
    const widest = Math.max(0, ...counts);
    byId("grid").replaceChildren(...operators.map((operator) =>
      bodyOf(operator, rows.filter((row) => row[OPERATOR] === operator), measure, widest)));
    const [, said] = data.measures[measure] ?? ["", ""];
    byId("atlas-key").replaceChildren(`${said}; ${menus.target.value}, ${words(menus.pass.value)}, ${menus.dtype.value}: ${rows.length} rows`);
  };
  if (data.rows.length) {
    const form = byId("switches");
    for (const name of ["target", "pass", "dtype", "measure"]) {
      menus[name] = element("select", { name });
      form.append(element("label", {}, name, menus[name]));
    }
    fill("target", data.targets.map((target) => [target, target]));
    form.addEventListener("input", (event) => {
      if (event.target === menus.target) menus.measure.replaceChildren(); // of a new target, the most telling measure
      draw();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    draw();
  }

  const menu = byId("plot"), place = byId("plot-place");
  menu?.form.addEventListener("submit", (event) => event.preventDefault());
  menu?.addEventListener("input", () => {
    place.dataset.plot = menu.value;
    place.setAttribute("aria-label", menu.selectedOptions[0].textContent);
    place.dispatchEvent(new CustomEvent("draw"));
  });
})();
