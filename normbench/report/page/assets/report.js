"use strict";
// The table of cases (sorted, filtered, drawn a window at a time) and the page of one case. All text that comes from
// the run reaches the document as text nodes, never as markup.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  // Lists of words hold each word once, and where it stands
  const spelled = (list) => Array.isArray(list) ? list : list.places.map((place) => list.words[place]);
  data.cases = spelled(data.cases);
  data.problems = spelled(data.problems);
  for (const each of data.columns) each.values = spelled(each.values);
  const columns = data.columns;
  const column = Object.fromEntries(columns.map((each) => [each.name, each]));
  const total = data.cases.length;
  const WINDOW = 80;
  let details = null;
  let opened = 0; // of the cases that were asked for; an older one that is still unpacked is dropped
  let order = [];
  let shown = WINDOW;
  let sorting = { name: null, descending: false };
  let picked = null; // the rows of a finding, and its sentence
  let every = columns.every((each) => !each.main); // whether all columns are shown, or those that fit a window
  const columnsShown = () => columns.filter((each) => every || each.main);

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") made.addEventListener("click", value);
      else if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };

  // a_b may break after the underscore, 2x3 after the x
  const breaking = (text) => String(text).split(/(?<=_|x(?=\d))/).flatMap((part) => [part, element("wbr")]);

  // What is packed: deflated JSON, unpacked once, when it is first asked for
  const unpacked = {};
  const unpack = (name) => unpacked[name] ??= (async () => {
    const bytes = Uint8Array.from(atob(byId(name).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  })();

  // Numbers -------------------------------------------------------------------------------------------------------
  const figures = (value, significant = 3) => {
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-4) return value.toExponential(significant - 1);
    const places = Math.max(0, significant - 1 - Math.floor(Math.log10(size)));
    return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
  };
  const scaled = (value, units) => {
    const [name, scale] = units.find(([, least]) => Math.abs(value) >= least) || units[units.length - 1];
    return `${figures(value / scale)} ${name}`;
  };
  const duration = (seconds) => scaled(seconds, [["s", 1], ["ms", 1e-3], ["µs", 1e-6], ["ns", 1e-9]]);
  const bytes = (count) => scaled(count, [["GB", 1e9], ["MB", 1e6], ["kB", 1e3], ["B", 1]]);
  const present = (name, value) => {
    if (value === null || value === undefined || value === "") return "";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value !== "number") return String(value);
    if (/(^|_)ratio(_low|_high)?$/.test(name)) return value >= 0.1 && value < 100 ? value.toFixed(2) : figures(value);
    if (name.endsWith("_s")) return duration(value);
    if (["load_bytes", "store_bytes"].includes(name)) return `${value * 8} bit`;
    if (name === "bytes" || name.endsWith("_bytes")) return bytes(value);
    if (name === "process_spread") return `${figures(value * 100, 2)} %`;
    return figures(value);
  };
  const HEADINGS = { bytes: "moved", xla_bytes: "by XLA's count", process_spread: "between processes", stop: "stopped by" };
  const heading = (name) => HEADINGS[name] || name.replace(/_s$/, "").replace(/^(load|store)_bytes$/, "widest $1")
    .replace(/_bytes$/, "").replace(/_/g, " ");

  // The table -----------------------------------------------------------------------------------------------------
  const compare = (left, right, descending) => {
    const empty = (value) => value === null || value === "";
    if (empty(left) || empty(right)) return empty(left) - empty(right); // what is absent comes last either way
    const both = typeof left === "number" && typeof right === "number";
    const sign = both ? left - right : String(left).localeCompare(String(right), "en", { numeric: true });
    return descending ? -sign : sign;
  };
  const drawHead = () => {
    const cells = columnsShown().map((each) => {
      const direction = each.name === sorting.name ? (sorting.descending ? "descending" : "ascending") : "none";
      const button = element("button", { type: "button", onclick: () => sortBy(each.name) }, each.label);
      const kind = each.kind === "number" ? "number" : null;
      return element("th", { scope: "col", class: kind, "aria-sort": direction, "data-column": each.name }, button);
    });
    byId("table").tHead?.remove();
    byId("table").prepend(element("thead", {}, element("tr", {}, ...cells)));
  };
  const cell = (each, row) => {
    const value = each.values[row];
    if (each.name === "variant") {
      const link = element("a", { href: `#case=${encodeURIComponent(data.cases[row])}` }, ...breaking(value ?? ""));
      return element("th", { scope: "row" }, link);
    }
    if (value === null || value === "") return element("td", { class: "missing" });
    if (each.kind === "number") {
      const text = each.name.endsWith("ratio") ? present("ratio", value) : figures(value);
      return element("td", { class: "number" }, text);
    }
    if (each.name === "status" && value !== "ok") {
      return element("td", { class: "status" }, String(value).replace(/_/g, " "));
    }
    return element("td", { class: each.name === "reason" ? "long" : null }, ...breaking(value));
  };
  const drawRows = () => {
    const body = element("tbody");
    for (const row of order.slice(0, shown)) body.append(element("tr", {}, ...columnsShown().map((each) => cell(each, row))));
    byId("table").tBodies[0]?.remove();
    byId("table").append(body);
    const visible = Math.min(shown, order.length);
    const parts = [`${order.length.toLocaleString("en")} of ${total.toLocaleString("en")} rows`];
    if (visible < order.length) parts.push(`the first ${visible.toLocaleString("en")} shown`);
    const status = byId("shown");
    status.replaceChildren(parts.join(", "));
    if (picked) {
      const clear = element("button", { type: "button", onclick: () => { picked = null; refresh(); } }, "Show all again");
      status.append(element("br"), `Rows of: ${picked.text} `, clear);
    }
    byId("more").hidden = visible >= order.length;
  };
  const sortBy = (name) => {
    sorting = { name, descending: sorting.name === name && !sorting.descending };
    refresh();
    document.querySelector(`th[data-column="${name}"] button`).focus();
  };

  // Filters: menus, words, and comparisons such as  traffic>1.2 ---------------------------------------------------
  const menus = [];
  const words = element("input", { type: "search", name: "words", placeholder: "words, or e.g. launches>1 traffic>=1.5",
    autocomplete: "off", spellcheck: "false" });
  const letters = (text) => text.toLowerCase().replace(/[^a-z0-9%÷±]+/g, "");
  const numeric = columns.filter((each) => each.kind === "number");
  const condition = (term) => {
    const found = term.match(/^([^<>=]+)(<=|>=|<|>|=)(-?[\d.]+(?:e-?\d+)?)$/i);
    if (!found) return null;
    const [, name, sign, number] = found;
    const each = numeric.find((one) => letters(one.label).startsWith(letters(name)) || one.name === name);
    if (!each) return null;
    const limit = Number(number);
    const tests = { "<": (v) => v < limit, ">": (v) => v > limit, "<=": (v) => v <= limit, ">=": (v) => v >= limit,
      "=": (v) => v === limit };
    return (row) => typeof each.values[row] === "number" && tests[sign](each.values[row]);
  };
  const texts = columns.filter((each) => each.kind !== "number");
  let haystack = null; // made when words are first looked for
  const contains = (row, word) => {
    haystack ??= Array.from({ length: total }, (_, each) =>
      [data.cases[each], ...texts.map((one) => one.values[each] ?? "")].join(" ").toLowerCase());
    return haystack[row].includes(word);
  };
  const refresh = () => {
    const tests = words.value.trim().split(/\s+/).filter(Boolean).map((term) =>
      condition(term) || ((row) => contains(row, term.toLowerCase())));
    for (const menu of menus) {
      if (menu.value !== "") tests.push((row) => String(column[menu.name].values[row] ?? "") === menu.value);
    }
    const rows = picked ? picked.rows : Array.from({ length: total }, (_, row) => row);
    order = rows.filter((row) => tests.every((test) => test(row)));
    if (sorting.name) {
      const values = column[sorting.name].values;
      order.sort((a, b) => compare(values[a], values[b], sorting.descending) || a - b);
    }
    shown = WINDOW;
    drawHead();
    drawRows();
  };
  const drawFilters = () => {
    const form = byId("filters");
    form.append(element("label", { class: "words" }, "Words or comparisons", words));
    for (const each of columns.filter((one) => one.kind === "choice")) {
      const values = [...new Set(each.values.filter((value) => value !== null && value !== ""))].sort();
      if (values.length < 2) continue;
      const options = [["", "all"], ...values.map((value) => [value, value])];
      const menu = element("select", { name: each.name },
        ...options.map(([value, text]) => element("option", { value }, String(text).replace(/_/g, each.name === "status" ? " " : "_"))));
      menus.push(menu);
      form.append(element("label", {}, each.label, menu));
    }
    if (!every) {
      const box = element("input", { type: "checkbox", name: "every" });
      box.addEventListener("input", () => { every = box.checked; });
      form.append(element("label", { class: "check" }, box, "all columns"));
    }
    form.append(element("button", { type: "reset" }, "Reset"));
    form.addEventListener("input", refresh);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => {
      picked = null;
      every = columns.every((each) => !each.main);
      refresh();
    }));
  };

  // The page of one case ------------------------------------------------------------------------------------------
  const tableOf = (names, rows, caption) => {
    const kept = names.map((_, place) => place).filter((place) =>
      rows.some((row) => row[place] !== null && row[place] !== "" && !(Array.isArray(row[place]) && !row[place].length)));
    const number = (place) => rows.some((row) => typeof row[place] === "number") ? "number" : null;
    const head = kept.map((place) => element("th", { scope: "col", class: number(place) }, heading(names[place])));
    const lines = rows.map((row) => element("tr", {}, ...kept.map((place) => {
      const value = row[place];
      if (Array.isArray(value)) return element("td", { class: "long" }, ...value.map((each) => element("div", {}, each)));
      const long = typeof value === "string" && value.length > 28 ? "long" : null;
      return element("td", { class: number(place) || long }, present(names[place], value));
    })));
    const title = caption ? element("caption", {}, caption) : null;
    return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption || "Table" }, element("table", {}, title, element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...lines)));
  };
  const rowsOf = (table, slug) => details[table].rows[slug] || [];
  const siblings = (slug) => {
    const problem = data.problems[data.cases.indexOf(slug)];
    const names = [...new Set(data.cases.filter((_, row) => data.problems[row] === problem))];
    return names.map((name) => {
      const label = column.variant.values[data.cases.indexOf(name)];
      return name === slug ? element("strong", {}, label) : element("a", { href: `#case=${encodeURIComponent(name)}` }, label);
    });
  };
  const DEVICE_USE = new Set(["grid", "block", "shared_bytes", "registers", "spill_bytes", "load_bytes", "store_bytes",
    "occupancy", "waves", "bytes_in_flight"]);
  const PREDICTION = new Set(["bytes_s", "predicted_s", "predicted_low_s", "predicted_high_s", "predicted_from", "bound"]);
  const compiledSection = (slug, row, drawn) => {
    const names = details.compiled.columns;
    const fact = Object.fromEntries(names.map((name, place) => [name, row[place]]));
    const parts = [element("h3", {}, `Compiled for ${fact.target}`)];
    if (fact.status !== "ok") parts.push(element("p", { class: "status" }, `${fact.status}: ${fact.reason ?? ""}`));
    const facts = names.filter((name) => !["target", "status", "reason", "hints", "bytes_s", "predicted_s", "predicted_low_s", "predicted_high_s", "hlo_sha256", "module_sha256"].includes(name));
    if (facts.some((name) => fact[name] !== null)) parts.push(tableOf(facts, [facts.map((name) => fact[name])]));
    if (fact.predicted_s !== null) {
      parts.push(element("p", { class: "missing" }, `Predicted from the compiled code, not measured: ${duration(fact.predicted_s)}, between ` +
        `${duration(fact.predicted_low_s)} and ${duration(fact.predicted_high_s)}. From bytes and bandwidth alone: ${duration(fact.bytes_s)}.`));
    }
    if (fact.hints.length) parts.push(element("ul", {}, ...fact.hints.map((hint) => element("li", {}, hint))));
    if (drawn[fact.target]) {
      const picture = element("div", { class: "scroll fusion", tabindex: "0", role: "group", "aria-label": `Program on ${fact.target}` });
      picture.innerHTML = drawn[fact.target]; // made with the page, every text in it escaped
      parts.push(picture);
    }
    const launches = rowsOf("launches", slug).filter((launch) => launch[0] === fact.target).map((launch) => launch.slice(1));
    if (launches.length) {
      const columns = details.launches.columns.slice(1);
      const last = columns.indexOf("refusals");
      const part = (wanted, caption) => tableOf(columns.filter(wanted), launches.map((row) => row.filter((_, place) => wanted(columns[place]))), caption);
      // One table of all columns would be cut off.
      const others = [[PREDICTION, "How long each launch is predicted to take"], [DEVICE_USE, "How each launch uses the device"]];
      parts.push(part((name) => name !== "refusals" && !others.some(([names]) => names.has(name)), "What each launch moves"));
      for (const [names, caption] of others) {
        if (columns.some((name, place) => names.has(name) && launches.some((row) => row[place] !== null))) {
          parts.push(part((name) => name === "index" || name === "name" || names.has(name), caption));
        }
      }
      const refusals = launches.flatMap((row) => row[last]);
      if (refusals.length) {
        parts.push(element("details", {}, element("summary", {}, `Not fused, in ${refusals.length} sentence${refusals.length > 1 ? "s" : ""}`),
          element("ul", {}, ...refusals.map((each) => element("li", {}, each)))));
      }
    }
    if (fact.module_sha256) {
      parts.push(element("p", {}, "Optimised module: ", element("code", {}, `hlo/${fact.module_sha256.slice(0, 2)}/${fact.module_sha256}.pb.zst`)));
    }
    parts.push(element("p", {}, "See it again:"), element("pre", {}, `${details.commands[slug]} --target ${fact.target}`));
    return parts;
  };
  const openCase = async (slug) => {
    const dialog = byId("case");
    const first = data.cases.indexOf(slug);
    if (first < 0) return;
    const mine = ++opened;
    const [found, pictures] = await Promise.all([unpack("details"), unpack("pictures")]);
    if (mine !== opened) return;
    details = found;
    const links = siblings(slug).flatMap((link, place) => (place ? [" · ", link] : [link]));
    const facts = ["operator", "shape", "layout", "dtype", "param_dtype", "pass", "context", "options", "model"]
      .filter((name) => column[name] && column[name].values[first]);
    const close = element("button", { type: "button", onclick: () => { dialog.close(); leaveCase(); } }, "Close");
    const parts = [
      element("header", {}, element("h2", { id: "case-title" }, `${column.operator.values[first]} · ${column.variant.values[first]}`), close),
      element("p", { class: "run" }, slug),
      element("p", {}, "Variants of this problem: ", ...links),
      tableOf(facts, [facts.map((name) => column[name].values[first])]),
    ];
    const timed = rowsOf("timed", slug);
    if (timed.length) parts.push(element("h3", {}, "Measured time per call"), tableOf(details.timed.columns, timed));
    const accuracy = rowsOf("accuracy", slug);
    if (accuracy.length) {
      parts.push(element("h3", {}, "Error against the float64 reference"), tableOf(details.accuracy.columns, accuracy));
    }
    const compiled = rowsOf("compiled", slug);
    for (const row of compiled) parts.push(...compiledSection(slug, row, pictures[slug] || {}));
    if (!compiled.length) parts.push(element("p", {}, "See its program:"), element("pre", {}, details.commands[slug]));
    dialog.replaceChildren(...parts);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  const leaveCase = () => {
    if (location.hash.startsWith("#case=")) history.replaceState(null, "", location.pathname + location.search);
  };
  const route = () => {
    const found = location.hash.match(/^#case=(.+)$/);
    if (found) openCase(decodeURIComponent(found[1]));
    else {
      opened++;
      if (byId("case").open) byId("case").close();
    }
  };

  drawFilters();
  refresh();
  byId("more").addEventListener("click", () => { shown += 5 * WINDOW; drawRows(); });
  byId("case").addEventListener("close", leaveCase); // by the Escape key
  for (const button of document.querySelectorAll("button.rows")) {
    button.addEventListener("click", () => {
      const number = Number(button.dataset.finding);
      picked = { rows: data.findings[number], text: data.texts[number] };
      refresh();
      byId("cases").scrollIntoView();
    });
  }
  // Plots are put in their places when they come near the window, or when the page is printed.
  const draw = async (place) => {
    const drawn = await unpack("figures");
    place.innerHTML = drawn[place.dataset.plot]; // made with the page, every text in it escaped
    place.style.minHeight = "";
  };
  const places = document.querySelectorAll("[data-plot]");
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "800px" });
  for (const place of places) near.observe(place);
  byId("plot-place")?.addEventListener("draw", (event) => draw(event.target));
  addEventListener("beforeprint", () => places.forEach(draw));
  addEventListener("hashchange", route);
  route();
})();
